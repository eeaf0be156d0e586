"""A source for dlt: every resource of every account, window by window.

    import dlt
    from truto_ci_async.integrations.dlt import source

    pipeline = dlt.pipeline("calls", destination="duckdb", dataset_name="calls")
    pipeline.run(source(integration="gong", start_time="2024-01-01"))

Each resource keeps in dlt's state, for each account, the end of the last window that was read whole. A run asks for
the windows after it and, again, for those of the ``lookback``. dlt stores rows and state together, so a killed run
repeats them. dlt's own ``incremental`` has one mark for all accounts, and would skip what a new account has before it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, Final, Literal, Self

import msgspec

from truto_ci_async import MissingExtraError, Plan, PlannedAccount, Schema, TrutoClient, UsageError, schema
from truto_ci_async.errors import TrutoError

logger = logging.getLogger("truto_ci_async")

_OF_WINDOW: Final = {"interactions", "activity"}  # a row is about one window, so that belongs to its key
_IDS: Final = {"transcripts": ("meeting_id",), **dict.fromkeys(_OF_WINDOW, ("id", "user_id"))}
_DATA_TYPES: Final = {"float64": "double", "int64": "bigint"}
_LEAD: Final = (
    ("integrated_account_id", "text", "the account that was asked"),
    ("tenant_id", "text", "the customer it belongs to, if that is known"),
    ("window_start", "timestamp", "start of the window that was asked for"),
    ("window_end", "timestamp", "end of that window, not part of it"),
    ("pulled_at", "timestamp", "when the page with this row arrived"),
    ("row_key", "text", "tells the rows of an account, or of one window of it, apart"),
)
_LONGEST_WINDOW: Final = timedelta(days=32)  # longer than any that is named by a word
# Null characters in text, and as JSON has them: that backslash is not escaped itself.
_NULLS: Final = {"text": ("\0", "()\0"), "json": (r"\u0000", r"(?<!\\)((?:\\\\)*)\\u0000")}


def source(
    accounts: Any = None,
    *,
    resources: Iterable[str] = ("interactions", "meetings", "users", "transcripts", "activity"),
    integration: str | None = None,
    status: str | None = None,
    start_time: Any = "today-30d",
    end_time: Any = "now",
    window: Literal["day", "week", "month"] | timedelta = "day",
    lookback: timedelta | str | None = None,
    write_disposition: Any = "merge",
    on_failed: Literal["skip", "raise"] = "skip",
    max_accounts: int = 32,
    token: str | None = None,
    base_url: str | None = None,
    client: Callable[[], TrutoClient] | None = None,
) -> Any:
    """Return a dlt source of ``resources``.

    ``accounts, integration, status``  which accounts, as for ``plan``.
    ``start_time``  where the history begins. A relative time counts from the first run.
    ``window``      ``day``, ``week``, ``month`` or a timedelta. Only windows that are over by ``end_time`` are read.
    ``lookback``    how far to ask again, because rows come late: by default ``2d`` with ``merge``, else nothing.
    ``write_disposition``  dlt's, as text or as a dict: ``merge`` replaces rows with the same key; ``append`` adds
                    rows; ``replace`` asks for the whole history in each run.
    ``on_failed``   ``skip`` logs an account that cannot be read, and the next run asks it again; ``raise``, always so
                    with ``replace``, ends the run, and nothing of it is loaded.
    ``token, base_url``  by default those of dlt's section ``sources.truto``, then ``TRUTO_API_TOKEN`` and
                    ``TRUTO_API_BASE_URL``. ``client`` makes a client with other options than those two.

    Tables have the columns of ``schema(Interaction)`` and so on, led by account, tenant, window, ``pulled_at`` and
    ``row_key``. The keys: account, window and ``id`` (else ``user_id``) for interactions and activity, account and
    ``id`` for meetings and users, account and ``meeting_id`` for transcripts. A row without any has its content as key.

    :raises UsageError: at once, an option that can never be right.
    :raises MissingExtraError: dlt is not installed.
    """
    try:
        dlt: Any = import_module("dlt")
    except ImportError:
        raise MissingExtraError("dlt", "dlt") from None
    names = (resources,) if isinstance(resources, str) else resources
    columns = {name: schema(Plan(accounts=(), resource=name).walk.item_type) for name in names}
    if on_failed not in ("skip", "raise"):
        raise UsageError(f"on_failed is 'skip' or 'raise', not {on_failed!r}")
    how = write_disposition
    disposition: Any = how if isinstance(how, str) else how["disposition"]
    if lookback is not None and disposition != "merge":
        raise UsageError(f"lookback would load rows twice with {disposition!r}: it is for 'merge'")
    options: dict[str, Any] = {
        "lookback": lookback if lookback is not None else "2d" if disposition == "merge" else "0s",
        "is_whole": disposition == "replace",
        "accounts": {"accounts": accounts, "integration": integration, "status": status},
        "window": {"start_time": start_time, "end_time": end_time, "window": window},
        "max_accounts": max_accounts,
        "is_strict": on_failed == "raise" or disposition == "replace",
    }

    def truto(token: str | None = dlt.secrets.value, base_url: str | None = dlt.config.value) -> list[Any]:
        shared = _Shared(client or (lambda: TrutoClient(token, base_url=base_url)))
        return [_resource(dlt, _Reader(*each, shared, **options), how) for each in columns.items()]

    given = {name: value for name, value in (("token", token), ("base_url", base_url)) if value is not None}
    return dlt.source(truto, name="truto", section="truto", max_table_nesting=0)(**given)


def _resource(dlt: Any, reader: _Reader, how: Any) -> Any:
    async def rows() -> AsyncGenerator[list[dict[str, Any]]]:
        async for page in reader.pages(dlt.current.resource_state(reader.name)):
            yield page

    windows = ("window_start", "window_end") if reader.name in _OF_WINDOW else ()
    key = ("integrated_account_id", *windows, "row_key")
    columns: dict[str, Any] = {}
    for name, type, doc in (*_LEAD, *((each.name, each.type, each.doc) for each in reader.schema)):
        columns[name] = {"name": name, "description": doc, "nullable": name not in key}
        columns[name]["data_type"] = _DATA_TYPES.get(type, type)
    columns["pulled_at"]["dedup_sort"] = "desc"  # of two rows with one key, the newest stays
    return dlt.resource(rows, name=reader.name, write_disposition=how, primary_key=key, columns=columns)


class _Shared:
    """What resources that are extracted at the same time share: a client, so that one limit counts, and accounts."""

    def __init__(self, make_client: Callable[[], TrutoClient]) -> None:
        self._make_client, self._users = make_client, 0

    async def __aenter__(self) -> Self:
        if not self._users:
            self.accounts: tuple[PlannedAccount, ...] | None = None
            self.lock, self._unused, self._opened = asyncio.Lock(), asyncio.Event(), self._open()
            self.client = await anext(self._opened)
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            self._unused.set()
            with suppress(RuntimeError):  # dlt is closing it
                await self._opened.aclose()

    async def _open(self) -> AsyncGenerator[TrutoClient]:
        # Before dlt stops its loop it cancels tasks, but waits for async generators alone. This one waits for tasks.
        async with self._make_client() as client:
            try:
                yield client
            finally:
                await self._unused.wait()


class _Reader:
    """Reads the windows of one resource that are not complete."""

    def __init__(self, name: str, schema: Schema, shared: _Shared, **options: Any) -> None:
        self.name, self.schema, self._shared, self._options = name, schema, shared, options

    async def pages(self, state: dict[str, Any]) -> AsyncGenerator[list[dict[str, Any]]]:
        """Yield the rows of one page after another, and note in ``state`` which windows are complete."""
        failed: dict[str, Exception] = {}
        async with self._shared as shared:
            api = getattr(shared.client, self.name)
            for plan in await self._plans(api, state):
                rows = KeyedRows(self.name, self.schema)
                async with api.pull(plan, max_accounts=self._options["max_accounts"]) as pages:
                    async for page in pages:
                        # The pages before this one were taken, so the windows before this one are complete.
                        _note_complete(state, page.account.id, page.window.start)
                        if len(page):
                            yield rows.of(page)
                report, parked = pages.report, TrutoError("the service takes no requests of it for now")
                failed |= {**dict.fromkeys(report.parked, parked), **report.failed}
                for account in plan.accounts:
                    if account.id not in {**report.failed, **report.parked, **report.unsupported}:
                        _note_complete(state, account.id, plan.windows[-1].end)
        if failed:
            first, error = next(iter(failed.items()))
            told = f"{self.name}: {len(failed):,} accounts failed; the first is {first}: {error}"
            if self._options["is_strict"]:
                error.add_note(told)
                raise error
            logger.error("%s. The next run asks them again", told)

    async def _plans(self, api: Any, state: dict[str, Any]) -> list[Plan]:
        """Return a plan for each mark, with the accounts that have it; the one with the longest way to go first."""
        now = datetime.now(UTC).replace(microsecond=0)  # plans count in whole seconds
        window: dict[str, Any] = {} if self.name == "users" else {**self._options["window"]}
        async with self._shared.lock:
            which = (
                {"accounts": self._shared.accounts} if self._shared.accounts else self._options["accounts"]
            )
            asked: Plan = await api.plan(**which, **window, now=now)
            self._shared.accounts = asked.accounts
        if not window:
            return [asked]
        # A window that is cut off by the end would have another key in the next run.
        end, length = _time(asked.windows[-1].end), window["window"]
        window["end_time"] = end + (length if isinstance(length, timedelta) else _LONGEST_WINDOW)
        whole = await api.plan(asked.accounts, **window, now=_anchor(state, asked, now, self.name))
        windows = tuple(each for each in whole.windows if _time(each.end) <= end)
        marks: dict[str, str] = {} if self._options["is_whole"] else state.get("complete_until", {})
        return _split(whole, windows, marks, await self._lookback(api, now))

    async def _lookback(self, api: Any, now: datetime) -> timedelta:
        given = self._options["lookback"]
        try:
            start = -given if isinstance(given, timedelta) else f"now-{given}"
            plan = await api.plan(["any"], start_time=start, end_time=now + _LONGEST_WINDOW, now=now)
        except UsageError as error:
            raise UsageError(f"lookback is a length such as '2d', or a timedelta, not {given!r}") from error
        return now - _time(plan.windows[0].start)


def _anchor(state: dict[str, Any], asked: Plan, now: datetime, name: str) -> datetime:
    """Return when relative times count from: the first run, or each run would cut other windows.

    :raises UsageError: the windows are not those of the earlier runs.
    """
    given = {key: asked.given[key] for key in ("start_time", "window")}
    stored = state.setdefault("windows", {"now": now.isoformat(), **given})
    if any(stored[key] != given[key] for key in given):
        before = ", ".join(f"{key}={stored[key]!r}" for key in given)
        raise UsageError(
            f"rows of other windows would not replace those of {name} that are there: they have {before}. "
            'To begin again, run with refresh="drop_resources"'
        )
    return _time(stored["now"])


def _split(whole: Plan, windows: tuple[Any, ...], marks: dict[str, str], lookback: timedelta) -> list[Plan]:
    ends = [_time(window.end) for window in windows]
    groups: dict[int, list[PlannedAccount]] = {}
    for account in whole.accounts:
        first = bisect_right(ends, _time(marks[account.id]) - lookback) if account.id in marks else 0
        groups.setdefault(first, []).append(account)
    return [
        msgspec.structs.replace(whole, accounts=tuple(accounts), windows=windows[first:])
        for first, accounts in sorted(groups.items())
        if windows[first:]
    ]


def _note_complete(state: dict[str, Any], account: str, until: str | None) -> None:
    """Move the mark of an account, but never back. Users have no windows, so no marks."""
    if until is not None:
        marks: dict[str, str] = state.setdefault("complete_until", {})
        marks[account] = max(marks.get(account, ""), _time(until).astimezone(UTC).isoformat())


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text or "")


class KeyedRows:
    """Flattens pages into rows with a key."""

    def __init__(self, name: str, schema: Schema) -> None:
        self._ids = _IDS.get(name, ("id",))
        self._nulls = [(each.name, _NULLS[each.type]) for each in schema if each.type in _NULLS]
        self._without_id: dict[str, tuple[Any, Counter[str]]] = {}  # by account: its window, and its rows

    def of(self, page: Any) -> list[dict[str, Any]]:
        lead = {
            "integrated_account_id": page.account.id,
            "tenant_id": page.account.tenant_id,
            "window_start": _time(page.window.start) if page.window.start else None,
            "window_end": _time(page.window.end) if page.window.end else None,
            "pulled_at": page.pulled_at,
        }
        rows = [item.row() for item in page.page]
        return [{**lead, "row_key": self._key(page, row), **self._without_null(row)} for row in rows]

    def _key(self, page: Any, row: dict[str, Any]) -> str:
        for name in self._ids:
            if row[name] is not None:
                return f"{name}:{row[name]}"
        # The same whenever its window is read, but another one for each row.
        if self._without_id.get(page.account.id, (None,))[0] != page.window:
            self._without_id[page.account.id] = page.window, Counter[str]()
        counts = self._without_id[page.account.id][1]
        digest = hashlib.blake2b(msgspec.json.encode(row), digest_size=16).hexdigest()
        counts[digest] += 1
        return f"row:{digest}:{counts[digest]}"

    def _without_null(self, row: dict[str, Any]) -> dict[str, Any]:
        """Put U+FFFD for null characters: PostgreSQL refuses them, and the whole load with them."""
        for name, (null, pattern) in self._nulls:
            if row[name] is not None and null in row[name]:
                row[name] = re.sub(pattern, "\\1\ufffd", row[name])
        return row
