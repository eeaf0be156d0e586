"""Opens the client of a command: for the real service, or for a sandbox that lives as long as the command."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from truto_ci_async.errors import UsageError

from .arguments import INTERACTIONS, SANDBOX_SEED
from .messages import say

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient
    from truto_ci_async.events import Event
    from truto_ci_async.sandbox import Sandbox

# The window for a sandbox when none is given. A fixed month, so that the same command always shows the same rows.
SANDBOX_WINDOW: Final = (date(2024, 1, 1), date(2024, 2, 1))


@asynccontextmanager
async def connect(
    options: argparse.Namespace,
    on_event: Callable[[Event], None] | None = None,
    sandbox_options: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncGenerator[TrutoClient]:
    """Open a client. With ``--sandbox``, start a sandbox too, and fill in the options that may then be left out.

    Rate limits among ``sandbox_options`` apply to the sandbox and to the client.
    """
    from truto_ci_async import Pacing, Rate, Timeouts, TrutoClient

    settings: dict[str, Any] = {"on_event": _event_hook(on_event, is_verbose=bool(options.verbose))}
    if (seconds := options.timeout) is not None:
        settings["timeouts"] = Timeouts(
            connect=min(seconds, 10), read=seconds, attempt=seconds, total=seconds
        )
    if not options.sandbox:
        async with TrutoClient(options.token, base_url=options.api_url, **settings) as client:
            yield client
        return
    if options.token or options.api_url:
        raise UsageError("--sandbox has a token and an address of its own: leave out --token and --api-url")
    from truto_ci_async.sandbox import Sandbox

    if "token_rate" in sandbox_options:
        settings["pacing"] = Pacing(
            token=Rate(*sandbox_options["token_rate"]), account=Rate(*sandbox_options["account_rate"])
        )
    async with Sandbox(seed=SANDBOX_SEED, **sandbox_options) as sandbox:
        _fill_in(options, sandbox)
        async with TrutoClient(sandbox.token, base_url=sandbox.url, **settings) as client:
            yield client


def _event_hook(
    on_event: Callable[[Event], None] | None, *, is_verbose: bool
) -> Callable[[Event], None] | None:
    if not is_verbose:
        return on_event

    def hook(event: Event) -> None:
        if on_event is not None:
            on_event(event)
        say(f"- {event}")

    return hook


def _fill_in(options: argparse.Namespace, sandbox: Sandbox) -> None:
    """Fill in the first account and a window if none is given, and say so."""
    notes: list[str] = []
    if "account" in options and options.account is None:
        options.account = sandbox.account_ids[0]
        notes.append(f"account {options.account}")
    if options.command == "pull" or getattr(options, "model", None) == INTERACTIONS[0]:
        # The synced store needs no window.
        is_synced = "truto_super_query" in (getattr(options, "extra_query", None) or {})
        if options.start_time is None and options.end_time is None and not is_synced:
            options.start_time, options.end_time = SANDBOX_WINDOW
            notes.append(f"window {SANDBOX_WINDOW[0]} to {SANDBOX_WINDOW[1]}")
    say(f"using made-up data from a sandbox{': ' if notes else ''}{', '.join(notes)}")
