"""How fast is a page in memory decoded into items?

Ours is everything the client does with a body: envelope, items, and the check for foreign records. It is compared with
msgspec and the same structs but ``remote_data: Any``, which always builds dicts of the provider's record; msgspec and
exactly the same structs, which is the limit; pydantic; and ``json.loads``.

Each page is dropped at once, as in a loop over a walk. For ``kept``, 100 pages are held, as by ``collect()``; then the
garbage collector has to look at them.

    python -m benchmarks.bench_decode --shapes remote,plain --items 100 --rounds 15
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import msgspec

from benchmarks import _turns, data
from benchmarks._turns import OURS, Goal, Record
from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.models import Interaction

ANY, SAME, PYDANTIC = "msgspec, remote_data: Any", "msgspec, same structs", "pydantic"
CONTENDERS = {OURS: "", ANY: "", SAME: "", PYDANTIC: "pydantic", "json.loads (dicts)": ""}
GOALS = [
    Goal("decode remote", ANY, "speed", least=2.0),
    Goal("decode remote, kept", ANY, "speed", least=2.0),
]
# Pages decoded in one turn.
PAGES = 100


def decoder(contender: str) -> Callable[[bytes], object]:
    if contender == OURS:
        return PageReader(item_reader(Interaction)).read
    if contender == PYDANTIC:
        from benchmarks._pydantic import Page

        return Page.model_validate_json
    if contender in (ANY, SAME):
        return msgspec.json.Decoder(envelope(Interaction if contender == SAME else with_any())).decode
    return json.loads


def envelope(item_type: Any) -> Any:
    fields = [("result", tuple[item_type, ...]), ("next_cursor", str | None, None)]
    return msgspec.defstruct("Page", fields)


def with_any() -> Any:
    """Return ``Interaction`` with an ordinary field for the provider's record."""
    fields = [
        (field.name, field.type, field.default) if field.name != "remote_json" else ("remote_data", Any, None)
        for field in msgspec.structs.fields(Interaction)
    ]
    return msgspec.defstruct("Interaction", fields, frozen=True, kw_only=True)


def here(options: argparse.Namespace) -> None:
    """Run one contender in this process."""
    decode = decoder(options.here)
    body = data.page(options.items, options.shapes, next_cursor="2")

    def work() -> None:
        if options.keep:
            held = [decode(body) for _ in range(PAGES)]
            assert len(held) == PAGES
            return
        for _ in range(PAGES):
            decode(body)

    _turns.serve_turns(work, collect=options.gc != "off")


def run(options: argparse.Namespace) -> list[Record]:
    found: list[Record] = []
    contenders = _turns.installed(CONTENDERS, options.contenders)
    for shape in options.shapes.split(","):
        for collect, keep in product(_turns.collecting(options), (False, True)):
            question = f"decode {shape}{', kept' if keep else ''}"
            _turns.say(f"{question}, garbage collector {'on' if collect else 'off'}")
            given = ["--shapes", shape, "--items", str(options.items), "--gc", "on" if collect else "off"]
            given += ["--keep"] if keep else []
            take = partial(_turns.take_turns, "benchmarks.bench_decode", contenders, given)
            found += _turns.records(question, collect, take(rounds=options.rounds), per=PAGES)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", default="remote,plain", help="comma-separated, see data.SHAPES")
    parser.add_argument("--items", type=int, default=100, help="on the page (default 100)")
    parser.add_argument("--rounds", type=int, default=9, help="of 100 pages each (default 9)")
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)  # hold the pages of a turn


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)
