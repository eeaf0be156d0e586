"""``client.activity``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Required, TypeVar, Unpack, overload

from truto_ci_async._wire.filters import UserFilter
from truto_ci_async._wire.times import When
from truto_ci_async.models import Activity
from truto_ci_async.pagination.paginator import Paginator

from .options import MODEL, Account, CommonListOptions
from .pulled import PulledResource

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient

S = TypeVar("S")


class ActivityListOptions(CommonListOptions, total=False):
    """Arguments of ``Activities.list`` besides the account and the item type."""

    start_time: Required[When]
    end_time: Required[When]
    users: Iterable[UserFilter] | None


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

        @overload  # type: ignore[override]  # it takes other filters than the base
        def list(
            self, integrated_account_id: Account = None, **options: Unpack[ActivityListOptions]
        ) -> Paginator[Activity]: ...
        @overload
        def list(
            self,
            integrated_account_id: Account = None,
            *,
            item_type: type[S],
            **options: Unpack[ActivityListOptions],
        ) -> Paginator[S]: ...
        def list(self, *args: Any, **options: Any) -> Any: ...  # pyright: ignore[reportIncompatibleMethodOverride]
