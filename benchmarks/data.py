"""Seeded bodies as bytes, for all benchmarks: what Truto answers for Gong, and shapes that are hard to stream.

The same arguments give the same bytes on every machine and Python.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

SEED = 20240901
CHUNK_BYTES = 2**16
NAMES = ("Longest Monologue", "Longest Customer Story", "Interactivity", "Patience", "Question Rate")
ZONES = ("US/Pacific", "US/Eastern", "Europe/London", "Asia/Kolkata")


def interaction(rng: random.Random, number: int, *, remote_data: bool = True) -> dict[str, Any]:
    """One interaction: a user of Gong, over one day."""
    user_id = str(rng.randrange(10**14, 10**19))
    name = f"person{number}"
    day = datetime(2024, 1, 1, 8, tzinfo=UTC) + timedelta(days=rng.randrange(360))
    values = [round(rng.uniform(0, 600), 2) for _ in NAMES]
    record: dict[str, Any] = {
        "id": f"{user_id}-{day:%Y-%m-%d}",
        "user": {
            "id": user_id,
            "emails": [{"email": f"{name}@example.com", "is_primary": True}],
        },
        "start_time": day.isoformat(),
        "end_time": (day + timedelta(days=1)).isoformat(),
        "timezone": rng.choice(ZONES),
        "aggregation_period": "day",
        "metrics": {
            "longest_monologue": values[0],
            "longest_customer_story": values[1],
            "interactivity": values[2],
            "patience": None if rng.random() < 0.1 else values[3],
            "question_rate": values[4],
        },
        "additional_metrics": [{"name": "calls", "value": rng.randrange(12)}],
        "created_at": None,
        "updated_at": None,
    }
    if remote_data:
        record["remote_data"] = {
            "userId": user_id,
            "userEmailAddress": f"{name}@example.com",
            "personInteractionStats": [
                {"name": stat, "value": value} for stat, value in zip(NAMES, values, strict=True)
            ],
        }
    return record


def plain(rng: random.Random, number: int) -> bytes:
    """About 550 bytes, no remote_data."""
    return _dump(interaction(rng, number, remote_data=False))


def remote(rng: random.Random, number: int) -> bytes:
    """About 900 bytes, with remote_data."""
    return _dump(interaction(rng, number))


def pretty(rng: random.Random, number: int) -> bytes:
    """The same, indented as a person would read it."""
    return json.dumps(interaction(rng, number), indent=2).encode()


def tiny(rng: random.Random, number: int) -> bytes:
    """16 bytes."""
    return b'{"id":"%07d"}' % (number % 10**7)


def huge(rng: random.Random, number: int) -> bytes:
    """1 MB: a provider's record full of text."""
    record = interaction(rng, number)
    record["remote_data"]["calls"] = [
        {"id": str(rng.randrange(10**19)), "transcript": "and then she said {so}, " * 40} for _ in range(1000)
    ]
    return _dump(record)


def look_alike(rng: random.Random, number: int) -> bytes:
    """Nested objects that begin and end as the items do: where an item ends cannot be guessed."""
    record = interaction(rng, number)
    record["remote_data"]["calls"] = [{"id": str(n), "a": {"b": {"c": "1"}}} for n in range(40)]
    record["remote_data"]["last"] = {"id": "1"}
    return _dump(record)


SHAPES: dict[str, Callable[[random.Random, int], bytes]] = {
    "plain": plain,
    "remote": remote,
    "pretty": pretty,
    "tiny": tiny,
    "huge": huge,
    "look_alike": look_alike,
}


def items(shape: str = "remote", *, seed: int = SEED) -> Iterator[bytes]:
    """Items of a shape, without end."""
    rng = random.Random(seed)
    for number in itertools.count():
        yield SHAPES[shape](rng, number)


def body_chunks(
    size: int, shape: str = "remote", *, next_cursor: str | None = None, seed: int = SEED, pool: int = 2**24
) -> Iterator[bytes]:
    """One body of about ``size`` bytes, in chunks of about 64 KiB.

    Items are made until they fill ``pool`` bytes and repeat from there, so that a body of any size is quick to
    make and none of it has to be in memory.
    """
    comma = b",\n" if shape == "pretty" else b","
    source = items(shape, seed=seed)
    made: list[bytes] = []
    made_bytes = sent = count = 0
    held = [b'{"result":[']
    held_bytes = len(held[0])
    while not count or sent + held_bytes < size:
        if made_bytes < pool:
            made.append(next(source))
            made_bytes += len(made[-1])
        item = made[count % len(made)] if made_bytes >= pool else made[-1]
        held += (comma, item) if count else (item,)
        held_bytes += len(item) + len(comma)
        count += 1
        if held_bytes >= CHUNK_BYTES:
            yield b"".join(held)
            sent, held, held_bytes = sent + held_bytes, [], 0
    cursor = json.dumps(next_cursor).encode()
    held.append(b'],"next_cursor":%s,"prev_cursor":null,"result_count":%d' % (cursor, count))
    held.append(b',"is_partial_response":false}')
    yield b"".join(held)


def body(size: int, shape: str = "remote", *, next_cursor: str | None = None, seed: int = SEED) -> bytes:
    """The same as one ``bytes``."""
    return b"".join(body_chunks(size, shape, next_cursor=next_cursor, seed=seed))


def page(count: int, shape: str = "remote", *, next_cursor: str | None = None, seed: int = SEED) -> bytes:
    """One page of ``count`` items."""
    source = items(shape, seed=seed)
    cursor = json.dumps(next_cursor).encode()
    records = b",".join(next(source) for _ in range(count))
    return b'{"result":[%s],"next_cursor":%s,"prev_cursor":null,"result_count":%d}' % (records, cursor, count)


def _dump(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()
