"""A service that cuts its pages anywhere, forgets its cursors and fails, and a client of it without a network."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.virtual import clock
from truto_ci_async._http.call import CallTime
from truto_ci_async._http.failures import failure_of
from truto_ci_async._http.policy.retry import GiveUp, RetryBudget, RetryPolicy, RetryState
from truto_ci_async._wire.responses import read_error
from truto_ci_async.errors import (
    APIError,
    ConnectError,
    ServerError,
    TransportError,
    TruncatedBodyError,
)
from truto_ci_async.events import Emitter
from truto_ci_async.models import ResponseInfo

#: An account's id and the start of a window.
WindowKey = tuple[str, str]
#: An account's id, and the start and the end of what is asked for.
Asked = tuple[str, str, str]

ROW_KINDS = (
    "whole",
    "no id",
    "no id",
    "user is text",
    "id only",
    "nothing",
    "no object",
    "many lines",
)
FAULTS = (
    403,
    404,
    429,
    "429 for long",
    503,
    500,
    502,
    401,
    "html",
    "cut",
    "reset",
    "hang",
    "loop",
    "dead cursor",
)
REFUSALS = tuple(
    (status, words)
    for status in (400, 404, 409, 410, 422)
    for words in ("the cursor has expired", "Bad Request")
)


def make_row(random: Random, number: int) -> bytes:
    """Make a row. Many are equal in all that identifies a row, and differ in ``n``."""
    kind = random.choice(ROW_KINDS)
    id, user = f"i{random.randrange(2)}", {"id": f"u{random.randrange(2)}"}
    times = {"start_time": "2024-01-01T00:00:00Z"}
    row: Any = {
        "whole": {"id": id, "user": user, **times, "n": number},
        "no id": {"user": user, **times, "n": number},
        "user is text": {"id": id, "user": "u1", "n": number},
        "id only": {"id": id, "n": number},
        "nothing": {**times, "n": number},
        "no object": [number],
        "many lines": {"id": id, "user": user, "n": number},
    }[kind]
    return json.dumps(row, indent=2 if kind == "many lines" else None).encode()


def make_meeting(random: Random, number: int, start: str) -> bytes:
    """Make a meeting of the day that begins at ``start``. Some do not say when they began."""
    row = {"id": f"m{number}", "n": number}
    if random.random() < 0.9:
        row["start_time"] = start.replace("00:00:00", f"{random.randrange(24):02}:30:00")
    return json.dumps(row).encode()


def has_transcript(number: int) -> bool:
    return number % 5 != 0


def identity(row: bytes) -> str:
    """Return what makes rows interchangeable: such rows keep their order from walk to walk."""
    value = json.loads(row)
    if not isinstance(value, dict) or not isinstance(user := value.get("user", {}), dict):
        return row.decode()
    if value.get("id") is None and user.get("id") is None:
        return row.decode()
    return repr((value.get("id"), user.get("id"), value.get("start_time")))


@dataclass
class Walk:
    """One walk over a window as the service serves it: the rows in this order, cut into these pages."""

    pages: list[list[bytes]]
    is_alive: bool = True


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    retry_after: float | None = None


@dataclass
class Call:
    """A call of the pull, retries included. One without an answer failed as it does when the service is down.

    ``is_answered`` is None if it was cancelled.
    """

    account: str
    target: str
    asked_at: float
    ended_at: float
    is_answered: bool | None = None


class SimService:
    """Serves ``rows``. It fails one request in ``1 / rate``, in one of the ways of ``faults``, while ``is_bad``.

    Then it also fails all requests during an ``outage`` and all of the ``bad_account``, and takes another ``token``
    from ``expires_at`` on.
    """

    def __init__(
        self,
        random: Random,
        rows: dict[WindowKey, list[bytes]],
        *,
        faults: tuple[object, ...],
        rate: float,
        is_reordering: bool,
        ignores_windows: bool,
        pause: Callable[[], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._random = random
        self._rows = rows
        self._faults = faults
        self._rate = rate
        self._is_reordering = is_reordering
        self._ignores_windows = ignores_windows
        self._pause = pause
        self._now = now
        self._walks = defaultdict[Asked, list[Walk]](list)
        self.asked = Counter[str]()  # how often for the transcript of each meeting
        self.is_bad = True
        self.outage: tuple[float, float] = (0.0, 0.0)
        self.bad_account: str | None = None
        self.token = 0
        self.expires_at = math.inf
        self.calls: list[Call] = []
        self.requests = 0
        self.on_request: Callable[[], None] = lambda: None

    async def answer(self, target: str, token: int) -> Answer:
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        if "/capabilities" in target:
            offered = [
                {"resource": name, "methods": ["list"]}
                for name in ("interactions", "meetings", "transcripts")
            ]
            return Answer(200, json.dumps({"unified": offered}).encode())
        key = query["integrated_account_id"], query.get("start_time", ""), query.get("end_time", "")
        self.requests += 1
        self.on_request()
        await self._pause()
        if self.is_bad and self.outage[0] <= self._now() < self.outage[1]:
            if self._random.random() < 0.5:
                raise ConnectError("no connection")
            return Answer(502, b"<html>")
        if self._now() >= self.expires_at:
            self.token, self.expires_at = self.token + 1, math.inf
        if token != self.token:
            return Answer(401, b'{"message": "the token has expired"}')
        if self.is_bad and key[0] == self.bad_account:
            return Answer(500, b"{}")
        fault = self._draw_fault()
        if isinstance(fault, int):
            retry_after = 2.0 if fault == 429 else None
            return Answer(fault, json.dumps({"message": "bad"}).encode(), retry_after=retry_after)
        if fault == "429 for long":
            return Answer(429, b"{}", retry_after=3_600.0)
        if fault == "reset":
            raise ConnectError("reset")
        if fault == "hang":
            for _ in range(5):
                await self._pause()
        meeting = query.get("meeting[id]")
        answer = (
            self._page(key, query.get("next_cursor"), fault) if meeting is None else self._transcript(meeting)
        )
        await self._pause()
        return answer

    def _draw_fault(self) -> object:
        if not self.is_bad or not self._faults or self._random.random() >= self._rate:
            return None
        return self._random.choice(self._faults)

    def _transcript(self, meeting: str) -> Answer:
        number = int(meeting[1:])
        self.asked[meeting] += 1
        if not has_transcript(number):
            if number % 2:
                return Answer(200, b'{"result": []}')
            body = {"message": "the transcript was not found", "truto_is_remote_error": True}
            return Answer(404, json.dumps(body).encode())
        row: dict[str, Any] = {"id": None, "n": number}
        if number % 3:
            row["meeting"] = {"id": meeting}
        return Answer(200, json.dumps({"result": [row]}).encode())

    def _rows_of(self, asked: Asked) -> list[bytes]:
        account, start, end = asked
        return [
            row
            for (name, begun), rows in self._rows.items()
            if name == account and (self._ignores_windows or start <= begun < end)
            for row in rows
        ]

    def _page(self, key: Asked, cursor: str | None, fault: object) -> Answer:
        walks = self._walks[key]
        if cursor is None:
            walks.append(self._new_walk(key))
            number, index = len(walks) - 1, 0
            if not self._rows_of(key) and self._random.random() < 0.3:
                body = {"message": "no stats found for the specified period", "truto_is_remote_error": True}
                return Answer(404, json.dumps(body).encode())
        else:
            number, index = map(int, cursor[1:].split("."))
            if fault == "dead cursor":
                walks[number].is_alive = False
            if not walks[number].is_alive:
                status, words = self._random.choice(REFUSALS)
                return Answer(status, json.dumps({"message": words}).encode())
        pages = walks[number].pages
        following = f"w{number}.{index + 1}" if index + 1 < len(pages) else None
        if fault == "loop" and cursor is not None:
            following = cursor
        body = b'{"result": [%s], "next_cursor": %s}' % (
            b", ".join(pages[index]),
            json.dumps(following).encode(),
        )
        if fault == "html":
            body = b"<html>maintenance</html>"
        elif fault == "cut":
            body = body[: self._random.randrange(1, len(body))]
        return Answer(200, body)

    def _new_walk(self, key: Asked) -> Walk:
        random = self._random
        rows = self._rows_of(key)
        if self._is_reordering:
            of_kind = defaultdict[str, list[bytes]](list)
            for row in rows:
                of_kind[identity(row)].append(row)
            rows = [of_kind[identity(row)].pop(0) for row in random.sample(rows, len(rows))]
        pages: list[list[bytes]] = []
        while rows:
            size = random.randrange(5)
            pages.append(rows[:size])
            rows = rows[size:]
        if not pages or random.random() < 0.2:
            pages.append([])
        return Walk(pages)


class SimToken:
    """The token of a client and its copies, which is renewed if ``is_refreshable``."""

    def __init__(self, *, is_refreshable: bool = False) -> None:
        self.value = 0
        self.is_refreshable = is_refreshable


class SimClient:
    """What a pull needs of a client: the attempts of a call, without connections, pacing and deadlines."""

    def __init__(
        self,
        service: SimService,
        retry: RetryPolicy,
        pause: Callable[[], Awaitable[None]],
        token: SimToken | None = None,
    ) -> None:
        self.retry = retry
        self.emitter = Emitter()
        self._service = service
        self._pause = pause
        self._token = token or SimToken()
        self._budget = RetryBudget(1e9, 0.0)
        self._random = Random(1)

    def with_options(self, *, retry: RetryPolicy) -> SimClient:
        return SimClient(self._service, retry, self._pause, self._token)

    async def request(
        self,
        method: str,
        target: str,
        *,
        account: str | None,
        read: Callable[[bytes, CallTime], Awaitable[Any]],
        error_fallback: Callable[[APIError], bytes | None] = lambda error: None,
        **options: Any,
    ) -> tuple[Any, ResponseInfo]:
        call = Call(str(account), target, clock(), math.inf)
        try:
            return await self._attempts(target, call, account, read, error_fallback)
        except (APIError, TransportError) as error:
            call.is_answered = not isinstance(error, (ServerError, TransportError))
            raise
        finally:
            call.ended_at = min(call.ended_at, clock())
            if call.is_answered is not None:
                self._service.calls.append(call)

    async def _attempts(
        self,
        target: str,
        call: Call,
        account: str | None,
        read: Callable[[bytes, CallTime], Awaitable[Any]],
        error_fallback: Callable[[APIError], bytes | None],
    ) -> tuple[Any, ResponseInfo]:
        state = RetryState(
            self.retry, self._budget, can_refresh=self._token.is_refreshable, random=self._random.random
        )
        started = clock()
        while True:
            attempt = state.sent()
            token = self._token.value
            answer = Answer()
            failure: APIError | TransportError
            try:
                answer = await self._service.answer(target, token)
                if answer.status == 200:
                    if answer.body.endswith(b"}"):
                        call.ended_at, call.is_answered = clock(), True
                    info = ResponseInfo(status=answer.status, attempts=attempt)
                    return await read(answer.body, CallTime(None)), info
                failure = read_error(
                    answer.status,
                    answer.headers,
                    answer.body,
                    retry_after=answer.retry_after,
                    account=account,
                    attempts=attempt,
                )
                if (body := error_fallback(failure)) is not None:
                    call.is_answered = True
                    info = ResponseInfo(status=answer.status, attempts=attempt)
                    return await read(body, CallTime(None)), info
            except (ConnectError, TruncatedBodyError) as error:
                error.attempts = attempt
                failure = error
            decision = state.failed(failure_of(failure), clock() - started)
            if isinstance(decision, GiveUp):
                raise failure
            if decision.fresh_token and self._token.value == token:
                self._token.value = self._service.token
            await asyncio.sleep(decision.wait)
            await self._pause()
