"""The client: options, resources and their life on top of `BaseClient`, which makes the calls."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from truto_ci_async._http.base_client import BaseClient
from truto_ci_async.resources.base import Resource
from truto_ci_async.resources.integrated_accounts import IntegratedAccounts
from truto_ci_async.resources.interactions import Interactions

T = TypeVar("T")


class TrutoClient(BaseClient):
    """A connection to Truto. Lazy: it sends nothing, and opens no socket, before it is asked for something.

        async with TrutoClient() as truto:
            async for interaction in truto.interactions.list(account_id, start_time=start, end_time=end):
                print(interaction)

    In a notebook use it bare and ``await truto.aclose()`` in the last cell. One client serves one event loop;
    within it, any number of tasks.

    ``token``            the API token, or a plain or async function giving one, which is asked again when the
                         service refuses the last one. Default: the environment's ``TRUTO_API_TOKEN``.
    ``base_url``         default: the environment's ``TRUTO_API_BASE_URL``, then ``https://api.truto.one``.
    ``timeouts``         deadlines in seconds: see ``Timeouts``.
    ``retry``            attempts, waits and the budget all calls share: see ``RetryPolicy``.
    ``pacing``           the limits to stay within: see ``Pacing``; ``Pacing.off()`` for none.
    ``max_body_bytes``   most bytes of one buffered body, after decompression.
    ``max_connections``  most connections open at once; further calls wait for one.
    ``headers``          sent with every request. Authorization is not among them: that is ``token``.
    ``proxy``            an http or https proxy's URL; default: what the environment names (``HTTPS_PROXY``).
    ``ssl_context``      for a certificate authority of your own.
    ``session``          an aiohttp session to use; it stays open, whoever made it closes it.
    ``on_event``         called with every ``Event``; an exception in it never breaks a call.

    :raises ConfigurationError: an option that cannot work, such as no token at all.
    """

    @property
    def interactions(self) -> Interactions:
        """Talk metrics of the people on an account's calls."""
        return Interactions(self)

    @property
    def integrated_accounts(self) -> IntegratedAccounts:
        """The connected accounts of this environment."""
        return IntegratedAccounts(self)

    @overload
    def unified(self, model: str, resource: str) -> Resource[dict[str, Any]]: ...
    @overload
    def unified(self, model: str, resource: str, item_type: type[T]) -> Resource[T]: ...
    def unified(self, model: str, resource: str, item_type: Any = dict) -> Resource[Any]:
        """Return any other unified resource, with the same verbs.

            async for contact in truto.unified("crm", "contacts").list(account_id):
                print(contact["id"])

        ``item_type`` is a msgspec Struct, or ``dict`` for items as they come.

        :raises UsageError: an empty name.
        """
        return Resource[Any](self, model, resource, item_type)
