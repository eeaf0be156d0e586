"""``client.users``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Unpack, overload

from truto_ci_async._wire.filters import TimeFilter, account_id
from truto_ci_async.models import User
from truto_ci_async.pagination.paginator import Paginator

from .directory import directory
from .options import MODEL, Account, CommonListOptions
from .pulled import PulledResource

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient

S = TypeVar("S")


class UserListOptions(CommonListOptions, total=False):
    """Arguments of ``Users.list`` besides the account and the item type."""

    created_at: TimeFilter | None
    updated_at: TimeFilter | None


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

        @overload  # type: ignore[override]  # it takes other filters than the base
        def list(
            self, integrated_account_id: Account = None, **options: Unpack[UserListOptions]
        ) -> Paginator[User]: ...
        @overload
        def list(
            self,
            integrated_account_id: Account = None,
            *,
            item_type: type[S],
            **options: Unpack[UserListOptions],
        ) -> Paginator[S]: ...
        def list(self, *args: Any, **options: Any) -> Any: ...  # pyright: ignore[reportIncompatibleMethodOverride]

    async def directory(
        self, integrated_account_id: Account = None, *, ttl: float | None = None
    ) -> dict[str, User]:
        """Return all users of an account by their id, without ``remote_data``.

        They are fetched once and kept as long as the client, or for ``ttl`` seconds: None takes any that are there.
        Callers at the same time share one request. Each call returns a dict of its own.

        The ids are those of ``Interaction.user`` and ``Activity.user``. A ``speaker_id`` of Gong is a different id.
        """
        return await directory(self._client, self, account_id(integrated_account_id), ttl)
