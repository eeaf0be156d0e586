"""Byte order marks and lone surrogates through every kind of call: each costs nothing but itself, and is told."""

from __future__ import annotations

import csv
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from truto_ci_async import BadRequestError, DecodeError, Pacing, RetryPolicy, TrutoClient
from truto_ci_async.sandbox import Fault, Sandbox

from .support import run

MARK = b"\xef\xbb\xbf"
WINDOW: dict[str, Any] = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
FIRST = (
    rb'{"id":"1","user":{"id":"u","name":"x\ud83d"},"remote_data":{"t":["\udc00","\ud83d\ude00"], "n":1.10}}'
)
LIST = b'{"result":[' + FIRST + b',{"id":"2"}],"next_cursor":null}'
KEYED = b'{"result":{"1":' + FIRST + b',"2":{"id":"2"}},"next_cursor":null}'
ACCOUNTS = rb'{"results":[{"id":"1","context":{"name":"x\ud83d"}},{"id":"2"}],"next_cursor":null}'
LINES = FIRST + b"\n" + MARK + b'{"id":"2"}\n'

Client = TrutoClient
Call = Callable[[Client, str], Awaitable[list[Any]]]


async def _list(truto: Client, account: str) -> list[Any]:
    page = await truto.interactions.list(account, **WINDOW)
    assert [issue.path for issue in page.issues] == [
        "$.result[0].user.name", "$.result[0].remote_data.t[0]",
    ]  # fmt: skip
    assert page.issues_count == 2
    assert page[0].remote_data == {"t": ["\ufffd", "😀"], "n": 1.1}
    assert bytes(page[0].remote_json) == rb'{"t":["\ufffd","\ud83d\ude00"], "n":1.10}'
    return list(page)


async def _stream(truto: Client, account: str) -> list[Any]:
    async with truto.interactions.stream(account, **WINDOW) as stream:
        items = [item async for item in stream]
        assert stream.issues_count == len(stream.issues) == 2
    return items


async def _stream_by_ijson(truto: Client, account: str) -> list[Any]:
    async with truto.interactions.stream(account, engine="ijson", **WINDOW) as stream:
        items = [item async for item in stream]
        assert stream.issues_count == 2
    return items


async def _exact(truto: Client, account: str) -> list[Any]:
    page = await truto.interactions.list(account, item_type=Raw, **WINDOW)
    assert bytes(page[0]) == FIRST.replace(rb"x\ud83d", rb"x\ufffd").replace(rb"\udc00", rb"\ufffd")
    return list(page)


async def _dicts(truto: Client, account: str) -> list[Any]:
    return [item async for item in truto.unified("crm", "contacts").list(account)]


async def _keyed(truto: Client, account: str) -> list[Any]:
    keyed = await truto.interactions.keyed(account, **WINDOW)
    assert (list(keyed), keyed.issues_count) == (["1", "2"], 2)
    return list(keyed.values())


async def _accounts(truto: Client, account: str) -> list[Any]:
    del account
    found = await truto.integrated_accounts.list().collect()
    assert found[0].context == {"name": "x\ufffd"}
    return found


CALLS: dict[str, tuple[Call, bytes, str]] = {
    "list": (_list, LIST, "application/json"),
    "stream": (_stream, LIST, "application/json"),
    "stream by ijson": (_stream_by_ijson, LIST, "application/json"),
    "stream of lines": (_stream, LINES, "application/x-ndjson"),
    "exact": (_exact, LIST, "application/json"),
    "dicts": (_dicts, LIST, "application/json"),
    "keyed": (_keyed, KEYED, "application/json"),
    "accounts": (_accounts, ACCOUNTS, "application/json"),
}


def tell(story: Callable[[Sandbox, Client, str], Awaitable[None]]) -> None:
    async def main() -> None:
        async with (
            Sandbox(accounts=1, others=0, token_rate=None, account_rate=None) as sandbox,
            TrutoClient(
                sandbox.token, base_url=sandbox.url, pacing=Pacing.off(), retry=RetryPolicy.none()
            ) as truto,
        ):
            await story(sandbox, truto, sandbox.account_ids[0])

    run(main())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "marked"])
def test_a_lone_surrogate_costs_only_itself_in_every_kind_of_call(call: str, mark: bytes) -> None:
    """It cost the whole page, account or list of accounts; so did a byte order mark."""
    read, body, kind = CALLS[call]

    async def story(sandbox: Sandbox, truto: Client, account: str) -> None:
        sandbox.script(None, [Fault.body(mark + body, content_type=kind)])
        assert len(await read(truto, account)) == 2

    tell(story)


@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_a_lone_surrogate_costs_only_itself_in_a_pull(format: str, tmp_path: Path) -> None:
    """In NDJSON records keep their bytes, so it has to be replaced there as well: other tools refuse such a file."""
    if format == "parquet":
        pytest.importorskip("pyarrow")

    async def story(sandbox: Sandbox, truto: Client, account: str) -> None:
        sandbox.script(account, [Fault.body(MARK + LIST)])
        report = await truto.interactions.pull_to(tmp_path / "out", [account], format=format, **WINDOW)
        assert (report.complete, report.rows, report.issues) == (True, 2, 2)

    tell(story)
    remote = {"t": ["\ufffd", "😀"], "n": 1.1}
    if format == "ndjson":
        rows = [json.loads(line) for line in (tmp_path / "out/interactions.ndjson").read_text().splitlines()]
        assert (rows[0]["user"]["name"], rows[0]["remote_data"]) == ("x\ufffd", remote)
    elif format == "csv":
        with (tmp_path / "out/interactions.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert (rows[0]["user_name"], json.loads(rows[0]["remote_data"])) == ("x\ufffd", remote)


@pytest.mark.parametrize("call", ["list", "stream", "dicts", "keyed"])
def test_a_lone_surrogate_under_raise_is_an_error_that_says_where(call: str) -> None:
    async def story(sandbox: Sandbox, truto: Client, account: str) -> None:
        sandbox.script(None, [Fault.body(CALLS[call][1])])
        with pytest.raises(DecodeError) as caught:
            if call == "stream":
                async with truto.interactions.stream(account, on_invalid="raise", **WINDOW) as stream:
                    assert [item async for item in stream] == []
            elif call == "keyed":
                await truto.interactions.keyed(account, on_invalid="raise", **WINDOW)
            elif call == "dicts":
                await truto.unified("crm", "contacts").list(account, on_invalid="raise")
            else:
                await truto.interactions.list(account, on_invalid="raise", **WINDOW)
        assert (caught.value.path, caught.value.index) == ("$.result[0].user.name", 0)
        assert caught.value.account == account

    tell(story)


def test_bytes_are_handed_out_as_they_came(tmp_path: Path) -> None:
    async def story(sandbox: Sandbox, truto: Client, account: str) -> None:
        body = MARK + LIST
        sandbox.script(account, [Fault.body(body)] * 3)
        response = await truto.interactions.raw(account, **WINDOW)
        assert response.body == body
        assert response.json()["result"][0]["user"]["name"] == "x\ufffd"
        async with truto.interactions.stream(account, **WINDOW) as stream:
            assert b"".join([chunk async for chunk in stream.chunks()]) == body
        async with truto.interactions.stream(account, **WINDOW) as stream:
            await stream.save(tmp_path / "body")
        assert (tmp_path / "body").read_bytes() == body

    tell(story)


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_an_error_body_may_have_both(kind: str) -> None:
    """Its message would be lost, and with it what the error is about."""

    async def story(sandbox: Sandbox, truto: Client, account: str) -> None:
        error = rb'{"error":"e","message":"cut \ud83d","truto_is_remote_error":true,"details":["\udc00"]}'
        sandbox.script(account, [Fault.body(MARK + error, status=400)])
        with pytest.raises(BadRequestError) as caught:
            if kind == "list":
                await truto.interactions.list(account, **WINDOW)
            else:
                async with truto.interactions.stream(account, **WINDOW):
                    pass
        assert caught.value.message == "cut \ufffd"
        assert (caught.value.is_remote, caught.value.details) == (True, ["\ufffd"])

    tell(story)
