"""``client.meetings``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Unpack, overload

from truto_ci_async._wire.times import When
from truto_ci_async.models import Meeting
from truto_ci_async.pagination.paginator import Paginator

from .options import MODEL, Account, CommonListOptions
from .pulled import PulledResource

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient

S = TypeVar("S")


class MeetingListOptions(CommonListOptions, total=False):
    """Arguments of ``Meetings.list`` besides the account and the item type."""

    start_time: When | None
    end_time: When | None


class Meetings(PulledResource[Meeting]):
    """``client.meetings``: recorded meetings, with attendees and recordings where the provider has them.

        async for meeting in truto.meetings.list(account_id, start_time="-7d", end_time="now"):
            print(meeting)

    Two or three of the five providers take a window, the others ignore it: compare ``start_time`` of what you get.
    A pull does that, and ``report.filtered`` names the accounts; see also ``meta("list", account_id)``. Lists of Avoma
    and Chorus have only some of the fields; ``get`` has all.
    """

    own_filters: ClassVar[tuple[str, ...]] = ("start_time", "end_time")

    def __init__(self, client: BaseClient) -> None:
        super().__init__(client, MODEL, "meetings", Meeting)

    if TYPE_CHECKING:  # at run time these are the base's, with the signature of ``own_filters``

        @overload  # type: ignore[override]  # it takes other filters than the base
        def list(
            self, integrated_account_id: Account = None, **options: Unpack[MeetingListOptions]
        ) -> Paginator[Meeting]: ...
        @overload
        def list(
            self,
            integrated_account_id: Account = None,
            *,
            item_type: type[S],
            **options: Unpack[MeetingListOptions],
        ) -> Paginator[S]: ...
        def list(self, *args: Any, **options: Any) -> Any: ...  # pyright: ignore[reportIncompatibleMethodOverride]
