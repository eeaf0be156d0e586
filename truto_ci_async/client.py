"""The client that users see: `BaseClient`, which makes the calls, with the resources added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from truto_ci_async._checks import brief, nearest_first
from truto_ci_async._http.base_client import BaseClient
from truto_ci_async.errors import UsageError
from truto_ci_async.resources.base import Resource
from truto_ci_async.resources.interactions import Interactions
from truto_ci_async.resources.options import MODEL, RESOURCES

if TYPE_CHECKING:  # each is imported when it is used first, which keeps the import of the client short
    from truto_ci_async._http.stats import ClientStats
    from truto_ci_async.resources.activity import Activities
    from truto_ci_async.resources.integrated_accounts import IntegratedAccounts
    from truto_ci_async.resources.meetings import Meetings
    from truto_ci_async.resources.transcripts import Transcripts
    from truto_ci_async.resources.users import Users

T = TypeVar("T")

# What resources and pulls use of a client.
_PLUMBING = frozenset({"admission", "emitter", "mask", "memo", "open_stream", "request", "spawn"})


class TrutoClient(BaseClient):
    """A client of Truto's API. It opens no socket before the first request.

        async with TrutoClient() as truto:
            async for interaction in truto.interactions.list(account_id, start_time=start, end_time=end):
                print(interaction)

    In a notebook, use it without ``async with`` and ``await truto.aclose()`` in the last cell. A client belongs to one
    event loop, and any number of tasks may share it.

    ``token``            the API token, or a plain or async function that returns one and is called again when the
                         service refuses the last one. Default: ``TRUTO_API_TOKEN`` from the environment.
    ``base_url``         default: ``TRUTO_API_BASE_URL`` from the environment, then ``https://api.truto.one``.
    ``timeouts``         deadlines in seconds: see ``Timeouts``.
    ``retry``            attempts, waits and the budget that all calls share: see ``RetryPolicy``.
    ``pacing``           the rate limits to stay within: see ``Pacing``; ``Pacing.off()`` for none.
    ``max_body_bytes``   most bytes of one buffered body, after decompression.
    ``max_connections``  most connections open at once; further calls wait for one.
    ``headers``          sent with every request; for authorization use ``token``.
    ``proxy``            URL of an http or https proxy. Default: what the environment names (``HTTPS_PROXY``).
    ``ssl_context``      for a certificate authority of your own.
    ``session``          an aiohttp session to use. The client does not close it. aiohttp may send a request on it
                         again when an idle connection turns out to be dead, and no event counts that.
    ``on_event``         called with every ``Event``, or several such functions; an exception in one does not affect
                         the call. ``truto_ci_async.integrations.opentelemetry`` has one.
    ``shared_budget``    asked before each request, so that several processes keep to one token's limits together: see
                         ``SharedBudget``. ``Pacing.off()`` turns it off as well.

    :raises ConfigurationError: an option that cannot work, or no token at all.
    """

    @property
    def interactions(self) -> Interactions:
        """Talk metrics of the people on an account's calls."""
        return Interactions(self)

    @property
    def meetings(self) -> Meetings:
        """Recorded meetings."""
        from truto_ci_async.resources.meetings import Meetings

        return Meetings(self)

    @property
    def transcripts(self) -> Transcripts:
        """What was said in a meeting."""
        from truto_ci_async.resources.transcripts import Transcripts

        return Transcripts(self)

    @property
    def users(self) -> Users:
        """The people of the connected product's own workspace."""
        from truto_ci_async.resources.users import Users

        return Users(self)

    @property
    def activity(self) -> Activities:
        """How much each user did in a window."""
        from truto_ci_async.resources.activity import Activities

        return Activities(self)

    @property
    def integrated_accounts(self) -> IntegratedAccounts:
        """The connected accounts of this environment."""
        from truto_ci_async.resources.integrated_accounts import IntegratedAccounts

        return IntegratedAccounts(self)

    def stats(self) -> ClientStats:
        """Return what the client is doing at the moment: calls under way, waits, limits and the retry budget.

            stats = truto.stats()
            is_healthy = not stats.is_closed and stats.retry_budget >= 1

        It sends nothing, and takes some microseconds.
        """
        from truto_ci_async._http.stats import client_stats

        return client_stats(
            self._open_calls, self.admission.limiter, self._budget, is_closed=self._transport.closed
        )

    def __dir__(self) -> list[str]:
        """Leave out what is for the package itself, so that completion shows what is for callers."""
        return sorted({*super().__dir__()} - _PLUMBING)

    @overload
    def unified(self, model: str, resource: str) -> Resource[dict[str, Any]]: ...
    @overload
    def unified(self, model: str, resource: str, item_type: type[T]) -> Resource[T]: ...
    def unified(self, model: str, resource: str, item_type: Any = dict) -> Resource[Any]:
        """Return any other unified resource; it has the same methods.

            async for contact in truto.unified("crm", "contacts").list(account_id):
                print(contact["id"])

        ``item_type`` is a msgspec Struct, or ``dict`` for plain items.

        :raises UsageError: an empty name, or a resource that ``conversational-intelligence`` does not have.
        """
        if model == MODEL and resource not in RESOURCES:
            raise UsageError(
                f"{MODEL} has no resource {brief(resource)}; it has {', '.join(nearest_first(RESOURCES, resource))}"
            )
        return Resource[Any](self, model, resource, item_type)
