"""Opens the client of a command: for the real service, or for a sandbox that lives as long as the command."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from .activity import Activity, shown
from .messages import note, say
from .options import PRODUCTS, Options, refuse
from .profiles import credentials
from .resources import method_of, resource_command

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient
    from truto_ci_async.events import Event
    from truto_ci_async.sandbox import Sandbox

# The window for a sandbox when none is given. A fixed month, so that the same command always shows the same rows.
SANDBOX_SEED: Final = 7
SANDBOX_WINDOW: Final = (date(2024, 1, 1), date(2024, 2, 1))


@asynccontextmanager
async def connect(
    options: Options,
    status: Callable[[], list[str]],
    activity: Activity | None = None,
    sandbox_options: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncGenerator[TrutoClient]:
    """Open a client, and say on stderr how far the command is while it runs.

    ``status`` says that; without an ``activity`` of the caller's own, what the client waits for is added.

    With ``--sandbox``, start a sandbox too, and fill in the options that may then be left out. Rate limits among
    ``sandbox_options`` apply to the sandbox and to the client. ``options.source`` then says where the token is from.
    """
    from truto_ci_async import Pacing, Rate, Timeouts, TrutoClient

    events = activity or Activity()
    hooks: list[Callable[[Event], object]] = [events.on_event]
    if options.verbose:
        hooks.append(lambda event: say(f"- {event}"))
    settings: dict[str, Any] = {"on_event": hooks}
    if (seconds := options.timeout) is not None:
        whole = dict.fromkeys(("read", "attempt", "total"), seconds)
        settings["timeouts"] = Timeouts(connect=min(seconds, 10), **whole)
    async with AsyncExitStack() as stack:
        if not options.sandbox:
            token, url, options.source = credentials(options.token, options.profile, options.api_url)
        else:
            from truto_ci_async.sandbox import Sandbox

            refuse({
                "--sandbox has a token and an address of its own: leave out --token, --profile and --api-url":
                    options.token or options.api_url or options.profile,
            })  # fmt: skip
            if sandbox_options:
                limits: dict[str, Any] = {
                    name: Rate(*sandbox_options[f"{name}_rate"]) for name in ("token", "account")
                }
                settings["pacing"] = Pacing(**limits)
            sandbox = Sandbox(seed=SANDBOX_SEED, providers=1, **sandbox_options)
            await stack.enter_async_context(sandbox)
            _fill_in(options, sandbox)
            token, url, options.source = sandbox.token, sandbox.url, "sandbox"
        client = await stack.enter_async_context(TrutoClient(token, base_url=url, **settings))
        events.watch(client)
        await stack.enter_async_context(
            shown(lambda: status() + ([] if activity is not None else [events.waiting()]))
        )
        yield client


def _fill_in(options: Options, sandbox: Sandbox) -> None:
    """Put in an account, a meeting and a window where none is given, and say so."""
    notes: list[str] = []
    given = vars(options).get
    meetings: list[str] = given("meeting") or []
    if options.command != "accounts" and hasattr(options, "account") and options.account is None:
        options.account = _account_with(sandbox, given("id") or next(iter(meetings), None))
        notes.append(f"account {options.account}")
    command = resource_command(given("model", ""), given("resource", ""))
    is_list = command is not None and method_of(options) == "list"
    filters = command.filters if command is not None and is_list else ()
    of_users = given("resource") == ["users"]  # which have no windows
    if (options.command == "pull" and not of_users) or "start_time" in filters:
        # The synced store needs no window.
        is_synced = given("super_query") or "truto_super_query" in (given("extra_query") or {})
        if options.start_time is None and options.end_time is None and not is_synced:
            options.start_time, options.end_time = SANDBOX_WINDOW
            notes.append(f"window {SANDBOX_WINDOW[0]} to {SANDBOX_WINDOW[1]}")
    if options.command == "sync" and options.time_zone is None and not of_users:
        options.time_zone = "US/Pacific"
        notes.append(f"time zone {options.time_zone}")
    if "meeting" in filters and not meetings and options.account in sandbox.account_ids:
        options.meeting = [_first_recorded(sandbox, options.account)]
        notes.append(f"meeting {options.meeting[0]}")
    note(f"using made-up data from a sandbox{': ' if notes else ''}{', '.join(notes)}")


def _account_with(sandbox: Sandbox, id: str | None) -> str:
    """Return the account that has a meeting or user of this id, else the first, which has every resource."""
    every = (each for provider in PRODUCTS if id for each in sandbox.accounts_of(provider))
    has_it = (each for each in every if id in sandbox.user_ids(each) or id in sandbox.meeting_ids(each))
    return next(has_it, sandbox.account_ids[0])


def _first_recorded(sandbox: Sandbox, account: str) -> str:
    """Return the first meeting with a transcript; some have none."""
    ids = sandbox.meeting_ids(account)
    return next(id for id in ids if sandbox.expected(account, resource="transcripts", meeting=id))
