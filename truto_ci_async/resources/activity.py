"""``client.activity``."""

# The methods take other filters than the base, so the type checkers may not insist on the same ones.
# mypy: disable-error-code="override"
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from truto_ci_async._wire.filters import UserFilter
from truto_ci_async._wire.item_reader import MAX_ENVELOPE_BYTES, MAX_ITEM_BYTES, OnInvalid
from truto_ci_async._wire.times import When
from truto_ci_async.models import Activity, Position
from truto_ci_async.pagination.paginator import Paginator, RawPages

from .options import MODEL, Account, ListFormat, StreamFormat
from .pulled import PulledResource

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._wire.incremental.item_decoder import Engine
    from truto_ci_async._wire.query_string import ObjectArrays
    from truto_ci_async.pagination.stream import ItemStream

    from .keyed import Keyed

S = TypeVar("S")


class Activities(PulledResource[Activity]):
    """``client.activity``: how much each user did in a window, such as calls hosted and feedback given. Gong only.

        async for activity in truto.activity.list(account_id, start_time="-30d", end_time="today"):
            print(activity)

    Both times are needed; Gong returns whole days in the company's time zone.
    """

    own_filters: ClassVar[tuple[str, ...]] = ("start_time", "end_time", "users")
    required_filters: ClassVar[tuple[str, ...]] = ("start_time", "end_time")

    def __init__(self, client: BaseClient) -> None:
        super().__init__(client, MODEL, "activity", Activity)

    if TYPE_CHECKING:  # at run time these are the base's, with the signature of ``own_filters``
        # fmt: off
        @overload
        def list(
            self, integrated_account_id: Account = None, *, start_time: When, end_time: When,
            users: Iterable[UserFilter] | None = None, cursor: str | Position | None = None,
            response_format: ListFormat = "unified", on_invalid: OnInvalid = "repair",
            empty_on_not_found: bool = True, prefetch: int = 1, max_pages: int | None = None,
            limit: int | None = None, ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> Paginator[Activity]: ...
        @overload
        def list(
            self, integrated_account_id: Account = None, *, item_type: type[S], start_time: When,
            end_time: When, users: Iterable[UserFilter] | None = None, cursor: str | Position | None = None,
            response_format: ListFormat = "unified", on_invalid: OnInvalid = "repair",
            empty_on_not_found: bool = True, prefetch: int = 1, max_pages: int | None = None,
            limit: int | None = None, ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> Paginator[S]: ...
        def list(self, *args: Any, **options: Any) -> Any: ...
        @overload
        async def keyed(
            self, integrated_account_id: Account = None, *, start_time: When, end_time: When,
            users: Iterable[UserFilter] | None = None, key_by: str = "id",
            response_format: ListFormat = "unified", on_invalid: OnInvalid = "repair",
            empty_on_not_found: bool = True, max_pages: int | None = None, limit: int | None = None,
            ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> Keyed[Activity]: ...
        @overload
        async def keyed(
            self, integrated_account_id: Account = None, *, item_type: type[S], start_time: When,
            end_time: When, users: Iterable[UserFilter] | None = None, key_by: str = "id",
            response_format: ListFormat = "unified", on_invalid: OnInvalid = "repair",
            empty_on_not_found: bool = True, max_pages: int | None = None, limit: int | None = None,
            ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> Keyed[S]: ...
        async def keyed(self, *args: Any, **options: Any) -> Any: ...
        def raw(
            self, integrated_account_id: Account = None, *, start_time: When, end_time: When,
            users: Iterable[UserFilter] | None = None, cursor: str | Position | None = None,
            prefetch: int = 1, max_pages: int | None = None, limit: int | None = None,
            ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> RawPages: ...
        @overload
        def stream(
            self, integrated_account_id: Account = None, *, start_time: When, end_time: When,
            users: Iterable[UserFilter] | None = None, path: str = "result", key_by: str | None = None,
            cursor: str | Position | None = None, response_format: StreamFormat = "stream",
            on_invalid: OnInvalid = "repair", follow_cursor: bool = True, engine: Engine = "auto",
            max_item_bytes: int = MAX_ITEM_BYTES, max_envelope_bytes: int = MAX_ENVELOPE_BYTES,
            max_stream_bytes: int | None = None, progress: bool | None = None, limit: int | None = None,
            ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> ItemStream[Activity]: ...
        @overload
        def stream(
            self, integrated_account_id: Account = None, *, item_type: type[S], start_time: When,
            end_time: When, users: Iterable[UserFilter] | None = None, path: str = "result",
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
        def stream(self, *args: Any, **options: Any) -> Any: ...
        # fmt: on
