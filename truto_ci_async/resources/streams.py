"""Joins a query, a decoder and a client into the ``ItemStream`` that ``stream()`` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from truto_ci_async._checks import brief, is_whole_number
from truto_ci_async._wire.incremental.item_decoder import Engine, ItemDecoder, NdjsonDecoder
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async._wire.list_query import ListQuery, RequestTargets
from truto_ci_async.errors import UsageError
from truto_ci_async.models import Position
from truto_ci_async.pagination.next_page import PageCursor
from truto_ci_async.pagination.page_body import Decoder
from truto_ci_async.pagination.stream import ItemStream

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import Reopen


def make_stream(
    client: BaseClient,
    query: ListQuery,
    reader: ItemReader[Any],
    *,
    path: str,
    is_keyed: bool,
    cursor: str | Position | None,
    follow_cursor: bool,
    engine: Engine,
    max_item_bytes: int,
    max_envelope_bytes: int,
    max_stream_bytes: int | None,
    progress: bool | None,
) -> ItemStream[Any]:
    """Make a stream, which opens its first page when it is entered.

    :raises UsageError: a size, path, engine or cursor that can never be right.
    """
    for name, value in (
        ("max_item_bytes", max_item_bytes),
        ("max_envelope_bytes", max_envelope_bytes),
        ("max_stream_bytes", max_stream_bytes),
    ):
        if value is not None and not is_whole_number(value, least=1):
            raise UsageError(f"{name} is a number of bytes, 1 or more, not {brief(value)}")
    targets = RequestTargets(query)

    def new_decoder(is_ndjson: bool) -> Decoder[Any]:
        if is_ndjson:
            return NdjsonDecoder(reader, max_item_bytes=max_item_bytes)
        return ItemDecoder(
            reader,
            path=path,
            key_by=is_keyed,
            engine=engine,
            max_item_bytes=max_item_bytes,
            max_envelope_bytes=max_envelope_bytes,
        )

    def open_at(here: Position) -> Reopen:
        return client.open_stream(targets.at(here.user_batch, here.cursor), account=query.account)

    new_decoder(False)  # raises at once for a bad path or engine
    return ItemStream(
        open_at,
        new_decoder,
        PageCursor(query.start_position(cursor), len(query.user_batches), account=query.account),
        follow_cursor=follow_cursor,
        max_stream_bytes=max_stream_bytes,
        emitter=client.emitter,
        account=query.account,
        item_type=reader.item_type,
        progress=progress,
    )
