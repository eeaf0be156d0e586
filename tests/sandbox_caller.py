"""Calls the sandbox with plain aiohttp and plain sockets, so that it and the client can show each other wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import yarl

from truto_ci_async.sandbox import Sandbox

MODEL = "/unified/conversational-intelligence"
INTERACTIONS = f"{MODEL}/interactions"
JANUARY: dict[str, Any] = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
DEADLINE = 30.0  # seconds per test; ample, for busy machines
QUIET_TURNS = 100  # of the loop, which both ends share: if nothing arrived by then, nothing will


class Response:
    """Status, headers and complete body."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """A sandbox, and a session to call it with."""

    def __init__(self, **options: Any) -> None:
        self.sandbox = Sandbox(**options)

    async def __aenter__(self) -> Caller:
        await self.sandbox.start()
        self.session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.sandbox.token}", "Accept-Encoding": "identity"}
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.session.close()
        await self.sandbox.aclose()

    @property
    def account(self) -> str:
        return self.sandbox.account_ids[0]

    def target(self, *, path: str = INTERACTIONS, raw: str = "", **query: str | None) -> str:
        base = {"integrated_account_id": self.account, **JANUARY} if path == INTERACTIONS else {}
        given = {name: value for name, value in (base | query).items() if value is not None}
        return f"{path}?{urlencode(given)}" + (f"&{raw}" if raw else "")

    async def get(self, *, headers: dict[str, str] | None = None, **query: Any) -> Response:
        return await self.send("GET", self.target(**query), headers=headers)

    async def ask(
        self, what: str, provider: str = "gong", record_id: str | None = None, **query: Any
    ) -> Response:
        """Ask for a list of the model, such as `meetings`, or for one record, with an account of that provider."""
        query = {"integrated_account_id": self.account_of(provider)} | query
        below = "" if record_id is None else "/" + quote(record_id, safe="")
        return await self.get(path=f"{MODEL}/{what}{below}", **query)

    def account_of(self, provider: str) -> str:
        return self.sandbox.accounts_of(provider)[0]

    async def send(
        self, method: str, target: str, *, headers: dict[str, str] | None = None, **rest: Any
    ) -> Response:
        url = yarl.URL(self.sandbox.url + target, encoded=True)
        async with self.session.request(method, url, headers=headers, allow_redirects=False, **rest) as got:
            return Response(got.status, got.headers, await got.read())

    async def collect(self, **query: Any) -> list[dict[str, Any]]:
        """Collect all pages, as a correct client does."""
        found: list[dict[str, Any]] = []
        seen: set[str] = set()
        cursor = None
        while True:
            response = await self.get(next_cursor=cursor, **query)
            assert response.status == 200, response.body
            found += response.json["result"]
            cursor = response.json.get("next_cursor")
            if not cursor:
                return found
            assert cursor not in seen
            seen.add(cursor)

    async def raw(self, headers: str = "", **query: Any) -> tuple[bytes, bytes, str]:
        """Return the head, the body as sent, and how it ended ("eof", "reset" or "open"), over a new connection."""
        host, port = self.sandbox.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer):
            auth = f"Authorization: Bearer {self.sandbox.token}\r\n"
            writer.write(f"GET {self.target(**query)} HTTP/1.1\r\nHost: x\r\n{auth}{headers}\r\n".encode())
            data, ended = b"", ""
            while not ended:
                reading = asyncio.create_task(reader.read(65536))
                for _ in range(QUIET_TURNS):
                    await asyncio.sleep(0)
                if not reading.done():
                    reading.cancel()
                    ended = "open"
                elif isinstance(reading.exception(), ConnectionResetError):
                    ended = "reset"
                else:
                    data += reading.result()
                    ended = "" if reading.result() else "eof"
        head, _, body = data.partition(b"\r\n\r\n")
        return head, body, ended
