"""The arguments of a resource's methods, as type checkers see them, and the names of their formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from truto_ci_async._wire.filters import CommonFilters, Filters
from truto_ci_async._wire.item_reader import OnInvalid
from truto_ci_async.models import IntegratedAccount, Position

if TYPE_CHECKING:
    from truto_ci_async._wire.incremental.item_decoder import Engine

MODEL = "conversational-intelligence"
#: The resources of that model.
RESOURCES = ("activity", "interactions", "meetings", "transcripts", "users")

ListFormat: TypeAlias = Literal["unified", "normalized", "debug"]
GetFormat: TypeAlias = Literal["unified", "normalized", "debug", "raw"]
StreamFormat: TypeAlias = Literal["stream", "unified", "normalized", "raw", "debug"]
Account: TypeAlias = str | IntegratedAccount | None


class CommonListOptions(CommonFilters, total=False):
    """Arguments of the ``list`` of every resource, besides the account, its own filters and the item type."""

    cursor: str | Position | None
    response_format: ListFormat
    on_invalid: OnInvalid
    empty_on_not_found: bool
    prefetch: int
    max_pages: int | None


class ListOptions(CommonListOptions, Filters, total=False):
    """Arguments of ``Resource.list`` besides the account and the item type."""


class GetOptions(TypedDict, total=False):
    """Arguments of ``Resource.get`` besides the id, the account and the item type."""

    ignore_remote_data: bool
    exclude_fields: Iterable[str] | None
    response_format: GetFormat
    remote_query: Mapping[str, Any] | None
    extra_query: Mapping[str, Any] | None
    on_invalid: OnInvalid


class StreamOptions(Filters, total=False):
    """Arguments of ``Resource.stream`` besides the account and the item type."""

    path: str
    key_by: str | None
    cursor: str | Position | None
    response_format: StreamFormat
    on_invalid: OnInvalid
    follow_cursor: bool
    engine: Engine
    max_item_bytes: int
    max_envelope_bytes: int
    max_stream_bytes: int | None
    progress: bool | None


class KeyedOptions(Filters, total=False):
    """Arguments of ``Resource.keyed`` besides the account, the key and the item type."""

    response_format: ListFormat
    on_invalid: OnInvalid
    empty_on_not_found: bool
    max_pages: int | None
