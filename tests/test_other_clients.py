"""Truto's own clients against the sandbox: what they are answered is what the service would have to answer them."""

from __future__ import annotations

import asyncio
import json
import pathlib
import subprocess
from contextlib import closing
from typing import Any

import pytest

from tests.sandbox_caller import DEADLINE, JANUARY, Caller
from tests.support import run
from truto_ci_async.sandbox import Sandbox

HERE = pathlib.Path(__file__).parent
REQUESTS = HERE / "other_clients" / "requests.txt"
SESSION = HERE / "other_clients" / "python_sdk_session.py"
SDK_PYTHON = HERE.parent / "build" / "sdk" / "bin" / "python"  # made by `make test-services`


def blocks() -> list[tuple[str, list[str], str]]:
    """Return what was called, the request's lines, and what the response has to be, for each recorded request."""
    found: list[tuple[str, list[str], str]] = []
    for block in REQUESTS.read_text(encoding="utf-8").split("\n\n"):
        if block.startswith("# "):
            title, *request, expected = block.strip().splitlines()
            found.append((title.removeprefix("# "), request, expected.removeprefix("=> ")))
    return found


async def replay(caller: Caller, lines: list[str]) -> Any:
    """Send a request byte for byte, and return the body of the response, which must be a 200."""
    host, port = caller.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with closing(writer):
        line, *headers = lines
        text = "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *headers, "Connection: close", "", ""])
        writer.write(text.encode())
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), body
    return json.loads(body)


def test_recorded_requests_of_the_other_clients_are_answered() -> None:
    """The TypeScript SDK, the Rust SDK and the CLI: each request gets a 200 in the shape that its client reads."""
    recorded = blocks()
    assert len(recorded) == 18

    async def main() -> None:
        async with Caller(interactions=60, account_rate=None) as caller:
            users = caller.sandbox.user_ids(caller.account)
            values = {
                "account": caller.account,
                "token": caller.sandbox.token,
                "user0": users[0],
                "user1": users[1],
            }
            cursor: str | None = None
            for title, request, expected in recorded:
                filled = [line.format(**values, cursor=cursor) for line in request]
                body = await replay(caller, filled)
                kind, _, count = expected.partition(" of " if expected.startswith("page") else ": ")
                if kind == "page":
                    assert set(body) >= {"result", "next_cursor", "prev_cursor", "result_count"}, title
                    assert len(body["result"]) == body["result_count"] == int(count), title
                elif kind == "accounts":
                    assert len(body["result"]) == int(count), title
                elif kind == "account":
                    assert body == caller.sandbox.accounts[0], title
                else:
                    assert set(body) == {"query_schema", "response_schema"}, title
                cursor = body.get("next_cursor")
            assert [record.status for record in caller.sandbox.requests] == [200] * len(recorded)
            assert all(record.notes == () for record in caller.sandbox.requests)

    run(main(), DEADLINE)


@pytest.mark.services
def test_trutos_python_sdk_works_against_the_sandbox() -> None:
    """Its published release, in a Python of its own."""
    if not SDK_PYTHON.exists():
        pytest.skip("needs build/sdk: run `make test-services`")
    with Sandbox.in_thread(interactions=60, account_rate=None) as sandbox:
        account = sandbox.account_ids[0]
        users = sandbox.user_ids(account)[:2]
        ran = subprocess.run(
            [SDK_PYTHON, SESSION, sandbox.url, sandbox.token, account, *users],
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr.decode()
        got = json.loads(ran.stdout)
        ids = [row["id"] for row in sandbox.expected(account, **JANUARY)]
        assert got == {
            "iterated": ids,
            "to_array": ids,
            "pages": [25, 25, 10],
            "filtered": [
                *(
                    "additional_metrics",
                    "aggregation_period",
                    "end_time",
                    "id",
                    "metrics",
                    "start_time",
                    "timezone",
                ),
            ],
            "one_user": users[:1],
            "two_users": 400,  # the SDK writes users[][id] twice, which would match nobody
            "accounts": [each["id"] for each in sandbox.accounts],
            "active": [each["id"] for each in sandbox.accounts if each["status"] == "active"],
            "account": sandbox.accounts[0],
            "me": sandbox.accounts[0],
            "contacts": 36,
        }
        agents = {request.headers["User-Agent"].split("/")[0] for request in sandbox.requests}
        assert agents == {"Python"}
