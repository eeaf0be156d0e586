"""``client.users``."""

# The methods take other filters than the base, so the type checkers may not insist on the same ones.
# mypy: disable-error-code="override"
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from truto_ci_async._wire.filters import TimeFilter, account_id
from truto_ci_async._wire.item_reader import MAX_ENVELOPE_BYTES, MAX_ITEM_BYTES, OnInvalid
from truto_ci_async.models import Position, User
from truto_ci_async.pagination.paginator import Paginator, RawPages

from .options import MODEL, Account, ListFormat, StreamFormat
from .pulled import PulledResource
from .user_directory import directory

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._wire.incremental.item_decoder import Engine
    from truto_ci_async._wire.query_string import ObjectArrays
    from truto_ci_async.pagination.stream import ItemStream

    from .keyed import Keyed

S = TypeVar("S")


class Users(PulledResource[User]):
    """``client.users``: the people of the connected product's own workspace.

        names = await truto.users.directory(account_id)
        names[interaction.user.id].name

    Interactions and activity of Gong carry ids without names: these are the names.
    """

    own_filters: ClassVar[tuple[str, ...]] = ("created_at", "updated_at")

    def __init__(self, client: BaseClient) -> None:
        super().__init__(client, MODEL, "users", User)

    if TYPE_CHECKING:  # at run time these are the base's, with the signature of ``own_filters``
        # fmt: off
        @overload
        def list(
            self, integrated_account_id: Account = None, *, created_at: TimeFilter | None = None,
            updated_at: TimeFilter | None = None, cursor: str | Position | None = None,
            response_format: ListFormat = "unified", on_invalid: OnInvalid = "repair",
            empty_on_not_found: bool = True, prefetch: int = 1, max_pages: int | None = None,
            limit: int | None = None, ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> Paginator[User]: ...
        @overload
        def list(
            self, integrated_account_id: Account = None, *, item_type: type[S],
            created_at: TimeFilter | None = None, updated_at: TimeFilter | None = None,
            cursor: str | Position | None = None, response_format: ListFormat = "unified",
            on_invalid: OnInvalid = "repair", empty_on_not_found: bool = True, prefetch: int = 1,
            max_pages: int | None = None, limit: int | None = None, ignore_limit: bool = False,
            ignore_remote_data: bool = False, exclude_fields: Iterable[str] | None = (),
            super_query: str | None = None, skip_api_call: bool = False,
            remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
            object_arrays: ObjectArrays = "indices",
        ) -> Paginator[S]: ...
        def list(self, *args: Any, **options: Any) -> Any: ...
        @overload
        async def keyed(
            self, integrated_account_id: Account = None, *, created_at: TimeFilter | None = None,
            updated_at: TimeFilter | None = None, key_by: str = "id", response_format: ListFormat = "unified",
            on_invalid: OnInvalid = "repair", empty_on_not_found: bool = True, max_pages: int | None = None,
            limit: int | None = None, ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> Keyed[User]: ...
        @overload
        async def keyed(
            self, integrated_account_id: Account = None, *, item_type: type[S],
            created_at: TimeFilter | None = None, updated_at: TimeFilter | None = None, key_by: str = "id",
            response_format: ListFormat = "unified", on_invalid: OnInvalid = "repair",
            empty_on_not_found: bool = True, max_pages: int | None = None, limit: int | None = None,
            ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> Keyed[S]: ...
        async def keyed(self, *args: Any, **options: Any) -> Any: ...
        def raw(
            self, integrated_account_id: Account = None, *, created_at: TimeFilter | None = None,
            updated_at: TimeFilter | None = None, cursor: str | Position | None = None, prefetch: int = 1,
            max_pages: int | None = None, limit: int | None = None, ignore_limit: bool = False,
            ignore_remote_data: bool = False, exclude_fields: Iterable[str] | None = (),
            super_query: str | None = None, skip_api_call: bool = False,
            remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
            object_arrays: ObjectArrays = "indices",
        ) -> RawPages: ...
        @overload
        def stream(
            self, integrated_account_id: Account = None, *, created_at: TimeFilter | None = None,
            updated_at: TimeFilter | None = None, path: str = "result", key_by: str | None = None,
            cursor: str | Position | None = None, response_format: StreamFormat = "stream",
            on_invalid: OnInvalid = "repair", follow_cursor: bool = True, engine: Engine = "auto",
            max_item_bytes: int = MAX_ITEM_BYTES, max_envelope_bytes: int = MAX_ENVELOPE_BYTES,
            max_stream_bytes: int | None = None, progress: bool | None = None, limit: int | None = None,
            ignore_limit: bool = False, ignore_remote_data: bool = False,
            exclude_fields: Iterable[str] | None = (), super_query: str | None = None,
            skip_api_call: bool = False, remote_query: Mapping[str, Any] | None = None,
            extra_query: Mapping[str, Any] | None = None, object_arrays: ObjectArrays = "indices",
        ) -> ItemStream[User]: ...
        @overload
        def stream(
            self, integrated_account_id: Account = None, *, item_type: type[S],
            created_at: TimeFilter | None = None, updated_at: TimeFilter | None = None, path: str = "result",
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

    async def directory(
        self, integrated_account_id: Account = None, *, ttl: float | None = None
    ) -> dict[str, User]:
        """Return all users of an account by their id, without ``remote_data``.

        They are fetched once and kept as long as the client, or for ``ttl`` seconds: None takes any that are there.
        Callers at the same time share one request. Each call returns a dict of its own.

        The ids are those of ``Interaction.user`` and ``Activity.user``. A ``speaker_id`` of Gong is a different id.

        :raises TrutoError: the list of users failed, as in ``list``. Nothing is kept then; call it again.
        """
        return await directory(self._client, self, account_id(integrated_account_id), ttl)
