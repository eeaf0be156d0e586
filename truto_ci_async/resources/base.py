"""``Resource``: the methods that all unified resources share.

Each method checks its arguments at once but sends nothing. Requests go out when the result is awaited or iterated.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast, overload

from truto_ci_async._checks import brief, plain
from truto_ci_async._wire.filters import ResponseFormat, UserFilter, account_id, takes_filters
from truto_ci_async._wire.item_reader import (
    MAX_ENVELOPE_BYTES,
    MAX_ITEM_BYTES,
    ItemReader,
    OnInvalid,
    item_reader,
)
from truto_ci_async._wire.list_query import ListQuery, list_query
from truto_ci_async._wire.page_reader import PageData, PageReader
from truto_ci_async._wire.query_string import ObjectArrays, join_path
from truto_ci_async._wire.times import When
from truto_ci_async.errors import APIError, UsageError
from truto_ci_async.models import MethodSchema, Position
from truto_ci_async.pagination.paginator import Pages, Paginator, RawPages
from truto_ci_async.pagination.unsupported import add_offered, may_mean_unsupported

from .keyed import Keyed, collect_keyed, keyed_pages
from .options import Account, GetFormat, ListFormat, StreamFormat
from .records import fetch_record
from .walks import make_paginator, make_raw_pages

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._wire.incremental.item_decoder import Engine
    from truto_ci_async.pagination.stream import ItemStream


T = TypeVar("T")
S = TypeVar("S")


class Resource(Generic[T]):
    """One unified resource, such as ``client.unified("crm", "contacts")``; items are of type ``T``."""

    #: The filters of its lists that not every resource has, and those that must be there.
    own_filters: ClassVar[tuple[str, ...]] = ("start_time", "end_time", "users")
    required_filters: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Give the methods that take filters the signature of this resource."""
        super().__init_subclass__()
        if "own_filters" in cls.__dict__:
            for name in ("list", "keyed", "raw", "stream"):
                method: Any = getattr(Resource, name)
                body: Any = Resource[Any]._raw if name == "raw" else method.__wrapped__
                setattr(cls, name, takes_filters(body, cls.own_filters, like=method))

    def __init__(self, client: BaseClient, model: str, resource: str, item_type: type[T]) -> None:
        join_path(model, resource)  # raises for names that cannot be in a path
        self._client = client
        self._model = model
        self._resource = resource
        self._item_type = item_type

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._model}/{self._resource}>"

    # fmt: off
    @overload
    def list(
        self, integrated_account_id: Account = None, *, start_time: When | None = None,
        end_time: When | None = None, users: Iterable[UserFilter] | None = None,
        cursor: str | Position | None = None, response_format: ListFormat = "unified",
        on_invalid: OnInvalid = "repair", empty_on_not_found: bool = True, prefetch: int = 1,
        max_pages: int | None = None, limit: int | None = None, ignore_limit: bool = False,
        ignore_remote_data: bool = False, exclude_fields: Iterable[str] | None = (),
        super_query: str | None = None, skip_api_call: bool = False,
        remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays = "indices",
    ) -> Paginator[T]: ...
    @overload
    def list(
        self, integrated_account_id: Account = None, *, item_type: type[S], start_time: When | None = None,
        end_time: When | None = None, users: Iterable[UserFilter] | None = None,
        cursor: str | Position | None = None, response_format: ListFormat = "unified",
        on_invalid: OnInvalid = "repair", empty_on_not_found: bool = True, prefetch: int = 1,
        max_pages: int | None = None, limit: int | None = None, ignore_limit: bool = False,
        ignore_remote_data: bool = False, exclude_fields: Iterable[str] | None = (),
        super_query: str | None = None, skip_api_call: bool = False,
        remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays = "indices",
    ) -> Paginator[S]: ...
    # fmt: on
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
        **filters: Any,
    ) -> Paginator[Any]:
        """List the items of one account. Returns a Paginator, which sends nothing until it is awaited or iterated.

            async for interaction in truto.interactions.list(account_id, start_time=start, end_time=end):
                print(interaction)

        Which items (each resource takes those its signature shows):

        ``integrated_account_id``  an id or an IntegratedAccount; None only with an account's own token.
        ``start_time, end_time``   aware datetimes, dates (midnight UTC), ISO 8601 text with an offset (sent unchanged),
                                   or relative to now: timedeltas, ``now``, ``today``, ``-7d``, ``today-12h``. Those are
                                   resolved once, for all pages. Gong needs both times, and returns whole days in the
                                   company's time zone.
        ``users``                  ids, Persons or Users; None: everyone. More than 20 are sent in batches, in turn.
        ``meeting``                of transcripts: the id of a meeting, or a Meeting. Needed, before anything is sent.
        ``created_at, updated_at`` of users: a time, or operators such as ``{"gt": time}``.
        ``limit``                  most records on a page; by default the service decides.
        ``ignore_limit``           ask the service to ignore ``limit``.
        ``super_query``            ``apac`` or ``wnam``: read Truto's synced store. Operators go into
                                   ``extra_query={"created_at": {"gt": time}, "sort_by": ...}``.
        ``skip_api_call``          do not ask the provider; ``Page.debug`` is then None.
        ``remote_query``           passed to the provider unchanged.
        ``extra_query``            merged into the query last, its text unchanged; None removes a parameter. Like
                                   ``remote_query`` it may have five levels: the service cannot read deeper ones.
        ``object_arrays``          how users are written: ``indices``, as the service reads them, or ``brackets``, as
                                   its documentation shows, for an environment whose mapping needs that.

        What they contain:

        ``ignore_remote_data``     leave out the provider's own record.
        ``exclude_fields``         names of fields to leave out; they are then None.
        ``response_format``        ``unified``, ``debug`` (which fills ``Page.debug``) or ``normalized``, where
                                   metrics may stand beside the other fields; unknown fields are reported once.
        ``item_type``              another msgspec Struct, ``dict`` for any shape, ``msgspec.Raw`` for exact bytes.
        ``on_invalid``             ``repair``: a value of the wrong type becomes None, is listed in ``Page.issues`` and
                                   logged once per page; ``raise``: it is a DecodeError.

        How to iterate:

        ``cursor``                 where to start: a ``Page.position``, its text, or the service's own cursor. With a
                                   position, relative times are those of the walk it comes from.
        ``empty_on_not_found``     take the provider's 404 as an empty page if it says that there is no data for this
                                   period or filter. Any other 404 is a NotFoundError.
        ``prefetch``               1 fetches the next page while you work on this one. 0 does not, which saves a request
                                   and its connection if you stop early.
        ``max_pages``              stop after this many pages.

        :raises UsageError: at once, for an argument that can never be right.
        """
        format: object = plain(response_format)
        if not isinstance(format, str) or format not in ("unified", "normalized", "debug"):
            raise UsageError(
                f"list() takes response_format 'unified', 'normalized' or 'debug', not {brief(format)}; "
                "use raw() or stream() for the others"
            )
        query = self._query(integrated_account_id, response_format, filters, cursor=cursor)
        return make_paginator(
            self._client,
            query,
            PageReader(self._item_reader(item_type, on_invalid, response_format, integrated_account_id)),
            cursor=cursor,
            empty_on_not_found=empty_on_not_found,
            prefetch=prefetch,
            max_pages=max_pages,
            label=f"list of {self._model}/{self._resource}",
            explain=functools.partial(self._explain, query.account, "list"),
        )

    # fmt: off
    @overload
    async def get(
        self, id: str, integrated_account_id: Account = None, *, response_format: GetFormat = "unified",
        on_invalid: OnInvalid = "repair", ignore_remote_data: bool = False,
        exclude_fields: Iterable[str] | None = (), remote_query: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
    ) -> T: ...
    @overload
    async def get(
        self, id: str, integrated_account_id: Account = None, *, item_type: type[S],
        response_format: GetFormat = "unified", on_invalid: OnInvalid = "repair",
        ignore_remote_data: bool = False, exclude_fields: Iterable[str] | None = (),
        remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
    ) -> S: ...
    # fmt: on
    async def get(
        self,
        id: str,
        integrated_account_id: Account = None,
        *,
        item_type: Any = None,
        response_format: GetFormat = "unified",
        on_invalid: OnInvalid = "repair",
        ignore_remote_data: bool = False,
        exclude_fields: Iterable[str] | None = (),
        remote_query: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
    ) -> Any:
        """Fetch one item by its id, with all fields; some lists have a part of them only.

            meeting = await truto.meetings.get("7782342274025937895", account_id)

        ``ignore_remote_data``, ``exclude_fields``, ``remote_query`` and ``extra_query`` are those of ``list``. Repairs
        are logged, and events. ``response_format="raw"`` is the provider's own record: pass ``item_type=dict`` with it.

        :raises NotFoundError: there is no such item, or the provider has no ``get`` for this resource.
        :raises DecodeError: the response is not an item of this type.
        """
        if not isinstance(plain(id), str) or plain(id) in {"", ".", ".."}:
            raise UsageError(f"get() takes the id of an item as text, not {brief(id)}")
        format: object = plain(response_format)
        if not isinstance(format, str) or format not in ("unified", "normalized", "debug", "raw"):
            raise UsageError(
                f"get() takes response_format 'unified', 'normalized', 'debug' or 'raw', not {brief(format)}"
            )
        query = list_query(
            "unified",
            self._model,
            self._resource,
            id,
            account=integrated_account_id,
            response_format=response_format,
            ignore_remote_data=ignore_remote_data,
            exclude_fields=exclude_fields,
            remote_query=remote_query,
            extra_query=extra_query,
        )
        reader = self._item_reader(item_type, on_invalid, response_format, integrated_account_id)
        try:
            return await fetch_record(self._client, query, reader, in_result=response_format == "debug")
        except APIError as error:
            await self._explain(query.account, "get", error)
            raise

    async def meta(self, method: str = "list", integrated_account_id: Account = None) -> MethodSchema:
        """Return which parameters a method takes for an account's provider, and the fields of its items.

            found = await truto.meetings.meta("list", account_id)
            found.query_schema["properties"]

        :raises NotFoundError: the provider does not have this resource, or this method of it.
        """
        query = list_query(
            "unified", self._model, self._resource, "meta", method, account=integrated_account_id
        )
        try:
            return await fetch_record(self._client, query, item_reader(MethodSchema))
        except APIError as error:
            await self._explain(query.account, method, error)
            raise

    async def _explain(self, account: str | None, method: str, error: APIError) -> None:
        """Add what the account offers to an error that may mean that it does not offer this method."""
        if account is not None and may_mean_unsupported(error):
            await add_offered(self._client, error, account, (self._model, self._resource, method))

    # fmt: off
    @overload
    async def keyed(
        self, integrated_account_id: Account = None, *, start_time: When | None = None,
        end_time: When | None = None, users: Iterable[UserFilter] | None = None, key_by: str = "id",
        response_format: ListFormat = "unified", on_invalid: OnInvalid = "repair",
        empty_on_not_found: bool = True, max_pages: int | None = None, limit: int | None = None,
        ignore_limit: bool = False, ignore_remote_data: bool = False,
        exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
        skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
    ) -> Keyed[T]: ...
    @overload
    async def keyed(
        self, integrated_account_id: Account = None, *, item_type: type[S], start_time: When | None = None,
        end_time: When | None = None, users: Iterable[UserFilter] | None = None, key_by: str = "id",
        response_format: ListFormat = "unified", on_invalid: OnInvalid = "repair",
        empty_on_not_found: bool = True, max_pages: int | None = None, limit: int | None = None,
        ignore_limit: bool = False, ignore_remote_data: bool = False,
        exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
        skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
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
        **filters: Any,
    ) -> Keyed[Any]:
        """Fetch all pages into one dict, keyed by the service (``truto_key_by``). Takes the arguments of ``list``.

            by_id = await truto.interactions.keyed(account_id, start_time=start, end_time=end)

        A key that comes again, on the same page or a later one, keeps its first item; ``.issues`` lists the second.
        They also tell if the service counted more items than there are keys: items with the same key are lost then.

        :raises DecodeError: either of these, with ``on_invalid="raise"``.
        """
        pages = self.keyed_pages(
            integrated_account_id, key_by=key_by, item_type=item_type, response_format=response_format,
            on_invalid=on_invalid, empty_on_not_found=empty_on_not_found, max_pages=max_pages, **filters,
        )
        return await collect_keyed(pages, on_invalid, account_id(integrated_account_id))

    def keyed_pages(
        self, account: Account, *, key_by: str, item_type: Any, response_format: ListFormat,
        on_invalid: OnInvalid = "repair", empty_on_not_found: bool = True, max_pages: int | None = None,
        cursor: str | Position | None = None, **filters: Any,
    ) -> Pages[PageData[Any]]:
        """Iterate over the pages of ``keyed``, for a caller that stores each of them."""
        if not isinstance(plain(key_by), str) or not key_by:
            raise UsageError(f"key_by is the name of a field, such as 'id', not {brief(key_by)}")
        query = self._query(account, response_format, filters, key_by=key_by, cursor=cursor)
        reader = self._item_reader(item_type, on_invalid, response_format, query.account)
        return keyed_pages(
            self._client, query, PageReader(reader, keyed=True), cursor=cursor,
            empty_on_not_found=empty_on_not_found, max_pages=max_pages,
            explain=functools.partial(self._explain, query.account, "list"),
        )

    @takes_filters
    def raw(
        self, integrated_account_id: Account = None, *, start_time: When | None = None,
        end_time: When | None = None, users: Iterable[UserFilter] | None = None,
        cursor: str | Position | None = None, prefetch: int = 1, max_pages: int | None = None,
        limit: int | None = None, ignore_limit: bool = False, ignore_remote_data: bool = False,
        exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
        skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
    ) -> RawPages:
    # fmt: on
        """Get the provider's own response, undecoded: ``await`` gives the first body, ``async for`` one per page.

            response = await truto.interactions.raw(account_id, start_time=start, end_time=end)
            response.json()["peopleInteractionStats"]

        It continues only if the body has a ``next_cursor`` at its top level. A JSON body whose cursor cannot be read is
        handed out, and going on from it is a DecodeError. Gong's own body says by ``provider_cursor`` that there is
        more, for which this format cannot ask. Filters are those of ``list``. A 404 is always an error here.
        """
        given = locals()
        return self._raw(**{name: given[name] for name in given if name != "self"})

    def _raw(
        self,
        integrated_account_id: Account = None,
        *,
        cursor: str | Position | None = None,
        prefetch: int = 1,
        max_pages: int | None = None,
        **filters: Any,
    ) -> RawPages:
        query = self._query(integrated_account_id, "raw", filters, cursor=cursor)
        return make_raw_pages(self._client, query, cursor=cursor, prefetch=prefetch, max_pages=max_pages)

    # fmt: off
    @overload
    def stream(
        self, integrated_account_id: Account = None, *, start_time: When | None = None,
        end_time: When | None = None, users: Iterable[UserFilter] | None = None, path: str = "result",
        key_by: str | None = None, cursor: str | Position | None = None,
        response_format: StreamFormat = "stream", on_invalid: OnInvalid = "repair",
        follow_cursor: bool = True, engine: Engine = "auto", max_item_bytes: int = MAX_ITEM_BYTES,
        max_envelope_bytes: int = MAX_ENVELOPE_BYTES, max_stream_bytes: int | None = None,
        progress: bool | None = None, limit: int | None = None, ignore_limit: bool = False,
        ignore_remote_data: bool = False, exclude_fields: Iterable[str] | None = (),
        super_query: str | None = None, skip_api_call: bool = False,
        remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays = "indices",
    ) -> ItemStream[T]: ...
    @overload
    def stream(
        self, integrated_account_id: Account = None, *, item_type: type[S], start_time: When | None = None,
        end_time: When | None = None, users: Iterable[UserFilter] | None = None, path: str = "result",
        key_by: str | None = None, cursor: str | Position | None = None,
        response_format: StreamFormat = "stream", on_invalid: OnInvalid = "repair",
        follow_cursor: bool = True, engine: Engine = "auto", max_item_bytes: int = MAX_ITEM_BYTES,
        max_envelope_bytes: int = MAX_ENVELOPE_BYTES, max_stream_bytes: int | None = None,
        progress: bool | None = None, limit: int | None = None, ignore_limit: bool = False,
        ignore_remote_data: bool = False, exclude_fields: Iterable[str] | None = (),
        super_query: str | None = None, skip_api_call: bool = False,
        remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays = "indices",
    ) -> ItemStream[S]: ...
    # fmt: on
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
        max_envelope_bytes: int = MAX_ENVELOPE_BYTES,
        max_stream_bytes: int | None = None,
        progress: bool | None = None,
        **filters: Any,
    ) -> ItemStream[Any]:
        """Read a body of any size as it arrives, in constant memory. Returns an ItemStream; open it by ``async with``.

            async with truto.interactions.stream(account_id, start_time=start, end_time=end) as stream:
                async for interaction in stream:
                    print(interaction)

        ``path``              where the items are in the body, keys joined by dots. For Gong's own body use
                              ``path="peopleInteractionStats", item_type=dict``.
        ``key_by``            ask for the items as an object keyed by that field (``truto_key_by``).
        ``response_format``   ``stream``, or any other format to read that one incrementally.
        ``follow_cursor``     go on to the next page by the ``next_cursor`` at the top level of the body.
        ``engine``            ``auto``, as fast as decoding a whole body, or ``ijson``, several times slower, which
                              parses every byte with ijson.
        ``max_item_bytes``    most bytes of one item; ``max_stream_bytes`` of all bodies together (None: no limit).
        ``progress``          show a line that says how far it is: None in a notebook only, True always, False never.
        ``max_envelope_bytes``  most bytes around the items of a body, such as the ``debug`` of that format.

        Filters, ``item_type`` and ``on_invalid`` are those of ``list``. A 404 is always an error here.

        :raises UsageError: at once, for an argument that can never be right.
        """
        query = self._query(integrated_account_id, response_format, filters, key_by=key_by, cursor=cursor)
        # Imported here: ijson takes half as long to load as the rest of the package, and many never need it.
        from .streams import make_stream

        return make_stream(
            self._client,
            query,
            self._item_reader(item_type, on_invalid, response_format, query.account),
            path=path,
            is_keyed=key_by is not None,
            cursor=cursor,
            follow_cursor=follow_cursor,
            engine=engine,
            max_item_bytes=max_item_bytes,
            max_envelope_bytes=max_envelope_bytes,
            max_stream_bytes=max_stream_bytes,
            progress=progress,
        )

    def __dir__(self) -> Iterable[str]:
        """Leave out what the command line needs, so that completion shows what is for callers."""
        return sorted({*super().__dir__()} - {"keyed_pages"})

    def _item_reader(
        self, item_type: Any, on_invalid: OnInvalid, response_format: ResponseFormat, account: Account
    ) -> ItemReader[Any]:
        tell = functools.partial(self._client.emitter.report_unknown_fields, account=account_id(account))
        reader = item_reader(item_type or self._item_type, on_invalid).for_walk(tell)
        if response_format != "normalized":
            return reader
        from truto_ci_async._wire.flat_rows import flat_row_reader

        return flat_row_reader(reader)

    def _query(
        self,
        account: Account,
        response_format: ResponseFormat,
        filters: Mapping[str, Any],
        *,
        key_by: str | None = None,
        cursor: str | Position | None = None,
    ) -> ListQuery:
        """Check the filters, and resolve relative times: now, or as in the walk that ``cursor`` continues.

        :raises UsageError: a filter that can never be right.
        """
        extra: Any = filters.get("extra_query") or {}
        missing = [name for name in self.required_filters if filters.get(name) is None and name not in extra]
        if missing:
            raise UsageError(
                f"{self._resource} needs {' and '.join(missing)}: the service refuses a call without"
            )
        query = list_query(
            "unified",
            self._model,
            self._resource,
            account=account,
            response_format=response_format,
            key_by=key_by,
            **cast("Any", filters),
        )
        return query.continued_from(cursor)
