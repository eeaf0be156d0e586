"""The verbs of a resource: from filters to a lazy walk. One class serves every unified resource.

Every verb checks its filters at once and sends nothing; requests go out when the result is awaited or iterated.
Filters are the contract's section 1, results its sections 2 and 5.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, Unpack, overload

import msgspec

from truto_ci_async._wire.filters import Filters, takes_filters
from truto_ci_async._wire.item_reader import MAX_ITEM_BYTES, OnInvalid, item_reader
from truto_ci_async._wire.list_query import ListQuery, RequestTargets, list_query
from truto_ci_async._wire.page_reader import PageData, PageReader, raw_cursor
from truto_ci_async._wire.query_string import join_path
from truto_ci_async._wire.responses import raise_for_cursor
from truto_ci_async.errors import APIError, DecodeError, UsageError
from truto_ci_async.models import IntegratedAccount, Issue, Position, RawResponse
from truto_ci_async.pagination.cursor import PageCursor
from truto_ci_async.pagination.page_fetch import fetch_page, read_page, request_page
from truto_ci_async.pagination.paginator import Fetch, P, Pages, PageSource, Paginator, RawPages

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient, Reopen
    from truto_ci_async._wire.incremental.item_decoder import Engine
    from truto_ci_async.pagination.stream import Decoder, ItemStream


T = TypeVar("T")
S = TypeVar("S")


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

    def __init__(self, client: BaseClient, model: str, resource: str, item_type: type[T]) -> None:
        join_path(model, resource)  # refuses what can never be a path
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
        return make_paginator(
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
        targets = RequestTargets(query)

        read = functools.partial(read_page, client, reader, account=query.account)
        nothing = reader.empty_body if empty_on_not_found else None

        async def fetch(here: Position) -> PageData[Any]:
            data, _ = await request_page(client, targets, read, here, nothing=nothing)
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
                raise_for_cursor(error, here.cursor)
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
            PageCursor(_start(query, cursor), len(query.user_batches), account=query.account),
            follow_cursor=follow_cursor,
            max_stream_bytes=max_stream_bytes,
            emitter=client.emitter,
            account=query.account,
        )


def _start(query: ListQuery, cursor: str | Position | None) -> Position:
    if cursor is not None and not isinstance(cursor, (str, Position)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"cursor takes a page.position, its text or the service's own, not {cursor!r}")
    return query.start_position(cursor)


def _walkable(
    client: BaseClient,
    query: ListQuery,
    fetch: Fetch[P],
    *,
    cursor: str | Position | None,
    prefetch: int = 1,
    max_pages: int | None = None,
) -> PageSource[P]:
    return PageSource(
        fetch,
        _start(query, cursor),
        spawn=client.spawn,
        chunks=len(query.user_batches),
        prefetch=prefetch,
        max_pages=max_pages,
        account=query.account,
    )


def make_paginator(
    client: BaseClient,
    query: ListQuery,
    reader: PageReader[Any],
    *,
    cursor: str | Position | None,
    empty_on_not_found: bool,
    prefetch: int,
    max_pages: int | None,
    label: str,
) -> Paginator[Any]:
    targets = RequestTargets(query)

    read = functools.partial(read_page, client, reader, account=query.account)
    nothing = reader.empty_body if empty_on_not_found else None
    fetch = functools.partial(fetch_page, client, targets, read, nothing=nothing)
    walkable = _walkable(client, query, fetch, cursor=cursor, prefetch=prefetch, max_pages=max_pages)
    return Paginator(walkable, label=label)
