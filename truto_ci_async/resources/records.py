"""Fetches one object by its path: a record of a resource, an account, the schema of a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async._wire.list_query import ListQuery
from truto_ci_async._wire.record_reader import read_record
from truto_ci_async.models import ResponseInfo
from truto_ci_async.pagination.page_fetch import empty_body_error

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import CallTime

T = TypeVar("T")


async def fetch_record(
    client: BaseClient, query: ListQuery, reader: ItemReader[T], *, in_result: bool = False
) -> T:
    """Request what ``query`` names and read it as one item; see ``read_record``. Repairs are reported.

    :raises NotFoundError: the service has no such object.
    """

    async def read(body: bytes, time: CallTime) -> T:
        del time  # one record is decoded in one go
        item, issues = read_record(body, reader, in_result=in_result)
        client.emitter.report_repairs(issues, count=issues.total, account=query.account)
        return item

    def on_empty(response: ResponseInfo) -> Any:
        raise empty_body_error(None)

    item, _ = await client.request("GET", query.target(), account=query.account, read=read, on_empty=on_empty)
    return item
