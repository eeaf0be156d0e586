"""The verbs of a resource: from filters to a lazy walk. One class serves every unified resource.

Every verb checks its filters at once and sends nothing; requests go out when the result is awaited or iterated.
Filters are the contract's section 1, results its sections 2 and 5.
"""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, Unpack, overload

import msgspec

from truto_ci_async._http.transport.transport import Secret
from truto_ci_async._wire.item_reader import MAX_ITEM_BYTES, OnInvalid, item_reader
from truto_ci_async._wire.list_query import (
    Filters,
    ListQuery,
    Moment,
    Targets,
    account_id,
    list_query,
    path_of,
    snapshot,
    takes_filters,
)
from truto_ci_async._wire.page_reader import (
    PageData,
    PageReader,
    raise_about,
    raw_cursor,
    read_capabilities,
    read_token,
)
from truto_ci_async.errors import APIError, DecodeError, NotFoundError, UsageError
from truto_ci_async.events import PageDecoded
from truto_ci_async.models import (
    Capabilities,
    IntegratedAccount,
    Interaction,
    Issue,
    Page,
    Position,
    RawResponse,
    ResponseInfo,
)
from truto_ci_async.pagination.paginator import (
    Fetch,
    P,
    Pages,
    Paginator,
    RawPages,
    Walk,
    Walkable,
    following,
)

if TYPE_CHECKING:
    from truto_ci_async._wire.incremental.item_decoder import Engine
    from truto_ci_async.client import TrutoClient
    from truto_ci_async.pagination.stream import Decoder, ItemStream, Reopen
    from truto_ci_async.pull.checkpoint.sqlite import Checkpoint
    from truto_ci_async.pull.engine import Budget, CommitMode, Pull, PullReport
    from truto_ci_async.pull.plan.plan import Accounts, Plan, PlanOptions
    from truto_ci_async.sinks.files import OutputFormat

T = TypeVar("T")
S = TypeVar("S")

# Where ``pull_to`` keeps its progress, inside the output's folder.
STATE_FILE = ".truto-pull.sqlite3"
# Bytes of body that are decoded in one go (a few milliseconds); more goes in slices.
SLICED_ABOVE = 2**20

ListFormat: TypeAlias = Literal["unified", "normalized", "debug"]
StreamFormat: TypeAlias = Literal["stream", "unified", "normalized", "raw", "debug"]
Account: TypeAlias = str | IntegratedAccount | None


class ListOptions(Filters, total=False):
    """Arguments of ``Resource.list`` beside the account and the item type."""

    cursor: str | Position | None
    response_format: ListFormat
    on_invalid: OnInvalid
    empty_on_not_found: bool
    prefetch: int
    max_pages: int | None


class StreamOptions(Filters, total=False):
    """Arguments of ``Resource.stream`` beside the account and the item type."""

    path: str
    key_by: str | None
    cursor: str | Position | None
    response_format: StreamFormat
    on_invalid: OnInvalid
    follow_cursor: bool
    engine: Engine
    max_item_bytes: int
    max_stream_bytes: int | None


class KeyedOptions(Filters, total=False):
    """Arguments of ``Resource.keyed`` beside the account, the key and the item type."""

    response_format: ListFormat
    on_invalid: OnInvalid
    empty_on_not_found: bool
    max_pages: int | None


class Keyed(dict[str, T], Generic[T]):
    """Items by key, as ``keyed()`` returns them: a plain dict, and what had to be repaired on the way.

    ``issues`` also tells of keys seen twice, of which the first item is kept. ``pages`` counts the pages read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.issues: list[Issue] = []
        self.pages = 0


class Resource(Generic[T]):
    """One unified resource, such as ``client.unified("crm", "contacts")``; items are of type ``T``."""

    def __init__(self, client: TrutoClient, model: str, resource: str, item_type: type[T]) -> None:
        path_of(model, resource)  # refuses what can never be a path
        self._client = client
        self._model = model
        self._resource = resource
        self._item_type = item_type

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._model}/{self._resource}>"

    @overload
    def list(self, integrated_account_id: Account = None, **options: Unpack[ListOptions]) -> Paginator[T]: ...
    @overload
    def list(
        self, integrated_account_id: Account = None, *, item_type: type[S], **options: Unpack[ListOptions]
    ) -> Paginator[S]: ...
    @takes_filters
    def list(
        self,
        integrated_account_id: Account = None,
        *,
        item_type: Any = None,
        cursor: str | Position | None = None,
        response_format: ListFormat = "unified",
        on_invalid: OnInvalid = "repair",
        empty_on_not_found: bool = True,
        prefetch: int = 1,
        max_pages: int | None = None,
        **filters: Unpack[Filters],
    ) -> Paginator[Any]:
        """List the items of one account: a Paginator, which sends nothing until it is awaited or iterated.

            async for interaction in truto.interactions.list(account_id, start_time=start, end_time=end):
                print(interaction)

        Which items:

        ``integrated_account_id``  an id or an IntegratedAccount; None only when the token is an account's own.
        ``start_time, end_time``   aware datetimes, dates (midnight UTC) or ISO 8601 text, which goes out as it
                                   is. Gong needs both, and answers whole days of the company's own time zone.
        ``users``                  user ids; more than 20 are asked in several walks, one after the other.
        ``limit``                  most records on a page; the service decides unless given.
        ``ignore_limit``           ask the service to ignore ``limit``.
        ``super_query``            ``apac`` or ``wnam``: read Truto's synced store. Operators go into
                                   ``extra_query={"created_at": {"gt": moment}, "sort_by": ...}``.
        ``skip_api_call``          do not ask the provider; ``Page.debug`` is then None.
        ``remote_query``           passed to the provider untouched.
        ``extra_query``            merged into the query last; None drops a parameter of ours.
        ``object_arrays``          ``indices`` writes users the way the service reads them, ``brackets`` the way
                                   its documentation shows, for an environment whose mapping needs that.

        What of them:

        ``ignore_remote_data``     leave the provider's own record out.
        ``exclude_fields``         names of fields to leave out; they are None then.
        ``response_format``        ``unified``, ``normalized`` or ``debug`` (which fills ``Page.debug``).
        ``item_type``              another msgspec Struct, ``dict`` for any shape, ``msgspec.Raw`` for exact bytes.
        ``on_invalid``             ``repair``: what does not fit becomes None, is told in ``Page.issues`` and logged
                                   once per page; ``raise``: it is a DecodeError.

        How to walk:

        ``cursor``                 where to go on: a ``Page.position``, its text, or the service's own cursor.
        ``empty_on_not_found``     take the provider's "nothing in this period" (404) for an empty window.
        ``prefetch``               1 fetches the next page while you work on this one; 0 does not, and spares a request
                                   and its connection where you break off.
        ``max_pages``              stop after that many pages.

        :raises UsageError: at once, for an argument that can never be right.
        """
        if response_format not in ("unified", "normalized", "debug"):
            raise UsageError(
                f"list() takes response_format 'unified', 'normalized' or 'debug', not {response_format!r}; "
                "raw() and stream() read the others"
            )
        query = list_query(
            "unified",
            self._model,
            self._resource,
            account=integrated_account_id,
            response_format=response_format,
            **filters,
        )
        reader = PageReader(item_reader(item_type or self._item_type, on_invalid))
        return _paginator(
            self._client,
            query,
            reader,
            cursor=cursor,
            empty_on_not_found=empty_on_not_found,
            prefetch=prefetch,
            max_pages=max_pages,
            label=f"list of {self._model}/{self._resource}",
        )

    @overload
    async def keyed(
        self, integrated_account_id: Account = None, *, key_by: str = "id", **options: Unpack[KeyedOptions]
    ) -> Keyed[T]: ...
    @overload
    async def keyed(
        self,
        integrated_account_id: Account = None,
        *,
        key_by: str = "id",
        item_type: type[S],
        **options: Unpack[KeyedOptions],
    ) -> Keyed[S]: ...
    @takes_filters
    async def keyed(
        self,
        integrated_account_id: Account = None,
        *,
        key_by: str = "id",
        item_type: Any = None,
        response_format: ListFormat = "unified",
        on_invalid: OnInvalid = "repair",
        empty_on_not_found: bool = True,
        max_pages: int | None = None,
        **filters: Unpack[Filters],
    ) -> Keyed[Any]:
        """Fetch all pages into one dict, keyed by the service (``truto_key_by``); arguments as for ``list``.

            by_id = await truto.interactions.keyed(account_id, start_time=start, end_time=end)

        A key seen on two pages keeps its first item, and ``.issues`` tells of the second.

        :raises DecodeError: a key seen twice under ``on_invalid="raise"``.
        """
        if not key_by:
            raise UsageError("key_by is the name of a field, such as 'id'")
        query = list_query(
            "unified",
            self._model,
            self._resource,
            account=integrated_account_id,
            response_format=response_format,
            key_by=key_by,
            **filters,
        )
        reader = PageReader(item_reader(item_type or self._item_type, on_invalid), keyed=True)
        client = self._client
        targets = Targets(query)

        read = functools.partial(read_page, client, reader, account=query.account)
        nothing = reader.nothing if empty_on_not_found else None

        async def fetch(here: Position) -> PageData[Any]:
            data, _ = await _fetch(client, targets, read, here, nothing=nothing)
            return data

        keyed = Keyed[Any]()
        cursor: str | None = None
        async for page in Pages(_walkable(client, query, fetch, cursor=None, max_pages=max_pages)):
            keyed.pages += 1
            keyed.issues.extend(page.issues)
            for index, (key, item) in enumerate(zip(page.keys or (), page.items, strict=True)):
                if keyed.setdefault(key, item) is item:
                    continue
                message = f"the key {key!r} came a second time, on page {keyed.pages}; the first item is kept"
                raw = msgspec.json.encode(item)
                if on_invalid == "raise":
                    raise DecodeError(
                        message,
                        path=f"$.result.{key}",
                        index=index,
                        account=query.account,
                        cursor=cursor,
                        raw=raw,
                    )
                keyed.issues.append(
                    Issue(index=index, path=f"$.result.{key}", message=message, raw=raw, dropped=True)
                )
            cursor = page.next_cursor
        return keyed

    @takes_filters
    def raw(
        self,
        integrated_account_id: Account = None,
        *,
        cursor: str | Position | None = None,
        prefetch: int = 1,
        max_pages: int | None = None,
        **filters: Unpack[Filters],
    ) -> RawPages:
        """Ask for the provider's own answer, unread: ``await`` gives the first body, ``async for`` one per page.

            response = await truto.interactions.raw(account_id, start_time=start, end_time=end)
            response.json()["peopleInteractionStats"]

        Goes on only by a ``next_cursor`` that is there; filters as for ``list``. A 404 is always an error here.
        """
        query = list_query(
            "unified",
            self._model,
            self._resource,
            account=integrated_account_id,
            response_format="raw",
            **filters,
        )
        client = self._client

        async def fetch(here: Position) -> RawResponse:
            async def read(body: bytes) -> bytes:
                return body

            try:
                body, response = await client.request(
                    "GET", query.target(here.chunk, here.cursor), account=query.account, read=read
                )
            except DecodeError as error:  # a coding of the body that cannot be opened
                error.cursor = here.cursor
                raise
            except APIError as error:
                raise_about(error, here.cursor)
            return RawResponse(body=body, response=response, next_cursor=raw_cursor(body))

        return RawPages(
            _walkable(client, query, fetch, cursor=cursor, prefetch=prefetch, max_pages=max_pages),
            label=f"raw {self._model}/{self._resource}",
        )

    @overload
    def stream(
        self, integrated_account_id: Account = None, **options: Unpack[StreamOptions]
    ) -> ItemStream[T]: ...
    @overload
    def stream(
        self, integrated_account_id: Account = None, *, item_type: type[S], **options: Unpack[StreamOptions]
    ) -> ItemStream[S]: ...
    @takes_filters
    def stream(
        self,
        integrated_account_id: Account = None,
        *,
        item_type: Any = None,
        path: str = "result",
        key_by: str | None = None,
        cursor: str | Position | None = None,
        response_format: StreamFormat = "stream",
        on_invalid: OnInvalid = "repair",
        follow_cursor: bool = True,
        engine: Engine = "auto",
        max_item_bytes: int = MAX_ITEM_BYTES,
        max_stream_bytes: int | None = None,
        **filters: Unpack[Filters],
    ) -> ItemStream[Any]:
        """Read a body as it arrives, however large, in flat memory: an ItemStream, opened by ``async with``.

            async with truto.interactions.stream(account_id, start_time=start, end_time=end) as stream:
                async for interaction in stream:
                    print(interaction)

        ``path``              where the items are in the body, keys joined by dots. For Gong's own body that is
                              ``path="peopleInteractionStats", item_type=dict``.
        ``key_by``            ask for the items as an object keyed by that field (``truto_key_by``).
        ``response_format``   ``stream``, or any other format to read that one incrementally.
        ``follow_cursor``     go on over pages by the ``next_cursor`` at the top of the body.
        ``engine``            ``auto``, as quick as a buffered decode; ``ijson``, several times slower, reads every
                              byte with ijson.
        ``max_item_bytes``    most bytes of one item; ``max_stream_bytes`` of all bodies together (None: no limit).

        Filters, ``item_type`` and ``on_invalid`` are those of ``list``. A 404 is always an error here.

        :raises UsageError: at once, for an argument that can never be right.
        """
        for name, value in (("max_item_bytes", max_item_bytes), ("max_stream_bytes", max_stream_bytes)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise UsageError(f"{name} is a number of bytes, 1 or more, not {value!r}")
        query = list_query(
            "unified",
            self._model,
            self._resource,
            account=integrated_account_id,
            response_format=response_format,
            key_by=key_by,
            **filters,
        )
        reader = item_reader(item_type or self._item_type, on_invalid)
        client = self._client
        # Loaded here: with ijson it takes half as long as all the rest of the package, and many never need it.
        from truto_ci_async._wire.incremental.item_decoder import ItemDecoder, NdjsonDecoder
        from truto_ci_async.pagination.stream import ItemStream

        def decoder(is_ndjson: bool) -> Decoder[Any]:
            if is_ndjson:
                return NdjsonDecoder(reader, max_item_bytes=max_item_bytes)
            return ItemDecoder(
                reader, path=path, key_by=key_by is not None, engine=engine, max_item_bytes=max_item_bytes
            )

        def open_at(here: Position) -> Reopen:
            return client.open_stream(query.target(here.chunk, here.cursor), account=query.account)

        decoder(False)  # refuses a path or an engine that cannot be
        return ItemStream(
            open_at,
            decoder,
            Walk(_start(query, cursor), len(query.users), account=query.account),
            follow_cursor=follow_cursor,
            max_stream_bytes=max_stream_bytes,
            emitter=client.emitter,
            account=query.account,
        )


class Interactions(Resource[Interaction]):
    """``client.interactions``: talk metrics of the people on an account's calls."""

    def __init__(self, client: TrutoClient) -> None:
        super().__init__(client, "conversational-intelligence", "interactions", Interaction)

    # A pull is built on top of resources; these three step up to it, late, so that it can be asked for from here.

    async def plan(self, accounts: Accounts | None = None, **options: Unpack[PlanOptions]) -> Plan:
        """Say once and for all what a pull asks: accounts, absolute bounds, windows, filters.

            plan = await truto.interactions.plan(integration="gong", start_time="-30d", window="day")

        ``accounts``             ids, IntegratedAccounts or dicts with an ``id``, in any iterable, also an asynchronous
                                 one; or a ``Path`` to a file with one id, or one JSON object, on each line. None:
                                 discover them by ``integration`` and ``status``.
        ``start_time, end_time`` moments, timedeltas from now, or text: ISO 8601 with an offset, ``now``, ``today``,
                                 ``-7d``. ``end_time`` is now unless given; now is read once.
        ``window``               ``day``, ``week``, ``month`` or a timedelta: ask a series of windows, oldest first,
                                 whose rows are never merged. None: one window.

        The other options are filters of ``list``.

        :raises UsageError: something that can never be right.
        """
        from truto_ci_async.pull.plan.plan import resolve

        return await resolve(self._client, accounts, **options)

    def pull(
        self,
        plan_or_accounts: Plan | Accounts | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        budget: Budget | None = None,
        max_accounts: int = 32,
        commit: CommitMode = "auto",
        item_type: Any = Interaction,
        on_invalid: OnInvalid = "repair",
        grow: bool = False,
        fresh: bool = False,
        **options: Unpack[PlanOptions],
    ) -> Pull[Any]:
        """Pull many accounts at once: an async context manager that hands out a bounded stream of AccountPage.

            async with truto.interactions.pull(account_ids, start_time="-7d") as pages:
                async for page in pages:
                    store(page.account.id, page.page.items)
            print(pages.report)

        ``checkpoint``    where progress is kept, such as ``SQLiteCheckpoint(path)``; None keeps it in memory.
        ``max_accounts``  accounts asked at once; ``budget`` sets this and how long an outage is sat out.
        ``commit``        ``auto``: asking for the next page marks the one before as done (one consumer);
                          ``manual``: each page is done with its ``commit()`` (any number of consumers), which
                          waits for the pages of its account before it.
        ``grow``          take in accounts that are new since the stored plan; ``fresh`` forgets what is stored.

        What is asked is a Plan, or accounts and the options of ``plan``.
        """
        from truto_ci_async.pull.engine import Budget, Pull

        return Pull(
            self._client,
            self._planned(plan_or_accounts, options),
            checkpoint=checkpoint,
            budget=budget or Budget(max_accounts=max_accounts),
            commit=commit,
            item_type=item_type,
            on_invalid=on_invalid,
            grow=grow,
            fresh=fresh,
        )

    async def pull_to(
        self,
        out: str | os.PathLike[str],
        plan_or_accounts: Plan | Accounts | None = None,
        *,
        format: OutputFormat = "ndjson",
        budget: Budget | None = None,
        max_accounts: int = 32,
        on_invalid: OnInvalid = "repair",
        grow: bool = False,
        fresh: bool = False,
        on_start: Callable[[Pull[Any]], None] | None = None,
        **options: Unpack[PlanOptions],
    ) -> PullReport:
        """Pull many accounts into the folder ``out``; run it again to go on where it stopped.

            report = await truto.interactions.pull_to("data/", account_ids, start_time="-7d", format="ndjson")

        ``format`` is ``ndjson``, ``csv`` or ``parquet``. Rows carry the account, its tenant and the window asked.
        Output and progress are committed together: killed at any moment, nothing is lost or doubled once it has
        been run again until ``report.complete``. NDJSON takes items as they come, so that ``on_invalid`` means nothing
        there. ``on_start`` is given the running pull, whose ``report`` can be
        watched and whose ``stop()`` ends it in order. The rest is as for ``pull``.

        :raises StateConflictError: another run holds the folder, or it belongs to another plan.
        :raises StorageError: the disk fails; a later run goes on.
        :raises AuthenticationError: the token is refused.
        """
        from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
        from truto_ci_async.pull.engine import Budget, run_shard
        from truto_ci_async.sinks.files import make_sink

        folder = pathlib.Path(out)
        sink = make_sink(format, folder, fresh=fresh)
        return await run_shard(
            self._client,
            self._planned(plan_or_accounts, options),
            SQLiteCheckpoint(folder / STATE_FILE),
            sink,
            budget or Budget(max_accounts=max_accounts),
            on_invalid=on_invalid,
            grow=grow,
            fresh=fresh,
            on_start=on_start,
        )

    def _planned(
        self, plan_or_accounts: Plan | Accounts | None, options: PlanOptions
    ) -> Plan | Callable[[Plan | None], Awaitable[Plan]]:
        from truto_ci_async.pull.plan.plan import Plan, resolve

        if isinstance(plan_or_accounts, Plan):
            if options:
                raise UsageError(
                    f"a plan says all of it already: {', '.join(options)} cannot be given beside it"
                )
            return plan_or_accounts

        async def make(stored: Plan | None) -> Plan:
            known = None if stored is None else stored.accounts
            return await resolve(self._client, plan_or_accounts, known=known, **options)

        return make


class IntegratedAccounts:
    """``client.integrated_accounts``: the connected accounts of this environment (contract section 5)."""

    def __init__(self, client: TrutoClient) -> None:
        self._client = client

    def __repr__(self) -> str:
        return "<IntegratedAccounts>"

    def list(
        self,
        integration: str | None = None,
        status: str | None = None,
        tenant_id: str | None = None,
        is_sandbox: bool | None = None,
        *,
        created_at: Moment | Mapping[str, Any] | None = None,
        updated_at: Moment | Mapping[str, Any] | None = None,
        limit: int | None = None,
        cursor: str | Position | None = None,
        extra_query: Mapping[str, Any] | None = None,
        on_invalid: OnInvalid = "repair",
        prefetch: int = 1,
        max_pages: int | None = None,
    ) -> Paginator[IntegratedAccount]:
        """List connected accounts.

            async for account in truto.integrated_accounts.list(integration="gong", status="active"):
                print(account.id, account.tenant_id)

        ``status`` is one of ``active connecting post_install_error validation_error needs_reauth``; the times take
        a moment or operators such as ``{"gt": moment}``. The rest is as for ``Resource.list``.
        """
        query = list_query("integrated-account", account=None, limit=limit, extra_query=extra_query)
        query = msgspec.structs.replace(
            query,
            params={
                "integration.name": integration,
                "status": status,
                "tenant_id": tenant_id,
                "is_sandbox": is_sandbox,
                "created_at": snapshot(created_at),
                "updated_at": snapshot(updated_at),
                "limit": limit,
            },
        )
        query.target()
        reader = PageReader(item_reader(IntegratedAccount, on_invalid))
        return _paginator(
            self._client,
            query,
            reader,
            cursor=cursor,
            empty_on_not_found=False,
            prefetch=prefetch,
            max_pages=max_pages,
            label="list of integrated accounts",
        )

    async def capabilities(self, integrated_account_id: str | IntegratedAccount) -> Capabilities:
        """Tell which unified resources an account offers, and whether it is blocked.

        :raises NotFoundError: no such account.
        """
        account = _required(integrated_account_id)

        async def read(body: bytes) -> Capabilities:
            return read_capabilities(body)

        target = path_of("integrated-account", account, "capabilities") + "?type=unified"
        capabilities, _ = await self._client.request("GET", target, account=account, read=read)
        return capabilities

    async def create_token(self, integrated_account_id: str | IntegratedAccount) -> str:
        """Make a token that stands for this account alone and lives 15 minutes (contract section 4).

        Use it with ``client.with_options(token=...)``; calls then need no ``integrated_account_id``.
        """
        account = _required(integrated_account_id)

        async def read(body: bytes) -> str:
            return read_token(body)

        token, _ = await self._client.request(
            "POST",
            "/integrated-account/token",
            account=account,
            read=read,
            body=msgspec.json.encode({"integrated_account_id": account}),
        )
        return Secret(token)  # a notebook would show it otherwise


def _required(account: str | IntegratedAccount) -> str:
    value = account_id(account)
    if value is None:
        raise UsageError("this call needs an integrated account's id")
    return value


def _start(query: ListQuery, cursor: str | Position | None) -> Position:
    if cursor is not None and not isinstance(cursor, (str, Position)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"cursor takes a page.position, its text or the service's own, not {cursor!r}")
    return query.start(cursor)


def _walkable(
    client: TrutoClient,
    query: ListQuery,
    fetch: Fetch[P],
    *,
    cursor: str | Position | None,
    prefetch: int = 1,
    max_pages: int | None = None,
) -> Walkable[P]:
    return Walkable(
        fetch,
        _start(query, cursor),
        spawn=client.spawn,
        chunks=len(query.users),
        prefetch=prefetch,
        max_pages=max_pages,
        account=query.account,
    )


def _paginator(
    client: TrutoClient,
    query: ListQuery,
    reader: PageReader[Any],
    *,
    cursor: str | Position | None,
    empty_on_not_found: bool,
    prefetch: int,
    max_pages: int | None,
    label: str,
) -> Paginator[Any]:
    targets = Targets(query)

    read = functools.partial(read_page, client, reader, account=query.account)
    nothing = reader.nothing if empty_on_not_found else None
    fetch = functools.partial(fetch_page, client, targets, read, nothing=nothing)
    walkable = _walkable(client, query, fetch, cursor=cursor, prefetch=prefetch, max_pages=max_pages)
    return Paginator(walkable, label=label)


async def fetch_page(
    client: TrutoClient,
    targets: Targets,
    read: Callable[[bytes], Awaitable[PageData[Any]]],
    here: Position,
    *,
    nothing: bytes | None,
) -> Page[Any]:
    """Fetch the page at a place of a walk; ``read`` is on no deadline.

    ``nothing`` is the body that stands in for the provider's word that there is nothing; None: that is an error.
    """
    data, response = await _fetch(client, targets, read, here, nothing=nothing)
    return Page(
        data.items,
        next_cursor=data.next_cursor,
        prev_cursor=data.prev_cursor,
        result_count=data.result_count,
        is_partial_response=data.is_partial_response,
        debug=data.debug,
        extra=data.extra,
        issues=data.issues,
        response=response,
        position=following(here, data.next_cursor, len(targets.query.users)),
    )


async def _fetch(
    client: TrutoClient,
    targets: Targets,
    read: Callable[[bytes], Awaitable[PageData[Any]]],
    here: Position,
    *,
    nothing: bytes | None,
) -> tuple[PageData[Any], ResponseInfo]:
    """Fetch and read the page at a place; what goes wrong says which page it was."""

    def excuse(error: APIError) -> bytes | None:
        # Gong's "no stats found for the specified period": only the first page of a window can be empty this way.
        return (
            nothing if isinstance(error, NotFoundError) and error.is_remote and here.cursor is None else None
        )

    try:
        return await client.request(
            "GET",
            targets.at(here.chunk, here.cursor),
            account=targets.query.account,
            read=read,
            excuse=excuse,
        )
    except DecodeError as error:
        error.cursor = here.cursor
        raise
    except APIError as error:
        raise_about(error, here.cursor)


async def read_page(
    client: TrutoClient, reader: PageReader[Any], body: bytes, *, account: str | None
) -> PageData[Any]:
    """Read a page, a large one in steps between which the loop has a turn, and tell of it."""
    emitter = client.emitter
    started = perf_counter()
    if len(body) <= SLICED_ABOVE:
        data = reader.read(body)
    else:
        data = await _read_in_slices(reader, body)
    if emitter.active:
        emitter.emit(
            PageDecoded(
                time=emitter.now(),
                account=account,
                items=len(data.items),
                issues=len(data.issues),
                bytes=len(body),
                elapsed=perf_counter() - started,
            )
        )
    if data.issues:
        emitter.repaired(data.issues, account=account)
    return data


async def _read_in_slices(reader: PageReader[Any], body: bytes) -> PageData[Any]:
    page = PageData[Any](items=())
    for part in reader.read_in_slices(body):
        if part is not None:
            page = part
        await asyncio.sleep(0)  # a breath for the loop
    return page
