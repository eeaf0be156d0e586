"""Adds to the error of a call that an account's provider does not offer what it does offer."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from truto_ci_async._http.policy.retry import RetryPolicy
from truto_ci_async._wire.query_string import join_path
from truto_ci_async._wire.responses import read_capabilities
from truto_ci_async.errors import APIError, TrutoError
from truto_ci_async.models import Capabilities

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import CallTime

# Seconds that a caller waits at most for the explanation of an error.
LOOKUP_SECONDS = 5.0

_STATUSES = frozenset({404, 405, 501})
_WORDS = r"(?i)\b(?:(?:un|not )?support\w*|implement\w*|resource|method)\b"


def may_mean_unsupported(error: APIError) -> bool:
    """Tell whether an error of Truto itself may mean that the provider lacks the resource or the method."""
    if error.is_remote or "json" not in error.headers.get("content-type", "").lower():  # a proxy's page
        return False
    return error.status in _STATUSES or (
        error.status in (400, 422) and bool(re.search(_WORDS, error.message))
    )


async def add_offered(client: BaseClient, error: APIError, account: str, call: tuple[str, str, str]) -> None:
    """Set ``error.offered`` if the account does not offer ``call``: a model, a resource and a method.

    Failures here are never raised: ``error`` is what the caller needs to see.
    """
    import anyio  # not before it is needed: with it, importing the client takes 2 % longer

    model, resource, method = call
    with suppress(TrutoError), anyio.move_on_after(LOOKUP_SECONDS):
        found = await fetch_capabilities(
            client.with_options(retry=RetryPolicy(attempts=1, max_wait=0)), account, "?type=unified"
        )
        if found.unified and not found.supports(resource, method, model=model):
            error.offered = {each.resource or "?": each.methods for each in found.unified}


async def fetch_capabilities(client: BaseClient, account: str, query: str) -> Capabilities:
    """Request what an account offers; ``query`` narrows it.

    :raises NotFoundError: there is no such account.
    """

    async def read(body: bytes, time: CallTime) -> Capabilities:
        del time  # short enough not to be limited
        return read_capabilities(body)

    target = join_path("integrated-account", account, "capabilities") + query
    capabilities, _ = await client.request("GET", target, account=account, read=read)
    return capabilities
