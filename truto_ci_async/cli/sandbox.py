"""``sandbox``: a local stand-in for the service."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click

from .connection import SANDBOX_SEED, SANDBOX_WINDOW
from .messages import Progress, say
from .options import DISPLAYED, PRODUCTS, Command, Options, choice, flag, text
from .values import rate, seconds, whole_number

if TYPE_CHECKING:
    from truto_ci_async.sandbox import Sandbox

DATA: Final = "made-up data"
LIMITS: Final = "limits, as REQUESTS/SECONDS or off"
FORMS: Final = "where the service's documentation leaves more than one form open"
EXAMPLES: Final = """\
examples:
  truto-ci sandbox --for 1
  truto-ci sandbox --port 8123 --for 600 > sandbox.env &
  truto-ci sandbox --for 1 --provider-rate 3/1 --provider-shape gong
"""


async def run_sandbox(options: Options, progress: Progress) -> None:
    """Serve made-up data until interrupted, or for the given time."""
    from truto_ci_async.cli.output.streams import open_stdout
    from truto_ci_async.sandbox import run

    def say_ready(running: Sandbox) -> None:
        values = {"TRUTO_API_BASE_URL": running.url, "TRUTO_API_TOKEN": running.token}
        values |= {f"ACCOUNT_{number}": each for number, each in enumerate(running.account_ids, 1)}
        for provider in PRODUCTS[1:]:  # the first is Gong
            ids = running.accounts_of(provider)
            values |= {f"{provider.upper()}_{number}": each for number, each in enumerate(ids, 1)}
        open_stdout().write("".join(f"export {name}={value}\n" for name, value in values.items()).encode())
        window = f"--start-time {SANDBOX_WINDOW[0]} --end-time {SANDBOX_WINDOW[1]}"
        say(f"paste these into another terminal, then: truto-ci interactions -a $ACCOUNT_1 {window}")
        end = f"for {options.seconds:g} s" if options.seconds else "until Ctrl-C"
        say(f"serving made-up data, to this machine only, {end}")

    passed_on = (
        *("accounts", "interactions", "meetings", "year", "providers", "seed", "token_rate", "account_rate"),
        *("provider_rate", "provider_shape", "stream_as", "capabilities_shape", "accounts_key", "end_cursor"),
    )
    with suppress(TimeoutError):
        async with asyncio.timeout(options.seconds):
            await run(
                options.port,
                ready=say_ready,
                realistic=not options.plain,
                strict=not options.lenient,
                **options.pick(*passed_on),
            )


def command(name: str) -> Command:
    numbers = (
        ("port", 0, 65_535, 0, "port to listen on (default: a free one)"),
        ("accounts", 1, 10_000, 3, "active accounts (default: 3)"),
        ("interactions", 0, 1_000_000, 250, "people in each account (default: 250)"),
        ("meetings", 0, 1_000_000, 600, "meetings in each account, all in one year (default: 600)"),
        ("year", 1, 9_998, 2024, "that year (default: 2024)"),
        ("providers", 0, 10_000, 1, "accounts of each of Avoma, Chorus, Fireflies.ai and Wingman (default: 1); the "
         "others are Gong's"),
    )  # fmt: skip
    rates = (
        ("token", "500/10", "Truto's for one token (default: 500/10)"),
        ("account", "50/10", "Truto's for one account (default: 50/10)"),
        ("provider", "off", "the provider's for one account, such as Gong's 3/1; its responses have ratelimit-* "
         "headers (default: off)"),
    )  # fmt: skip
    forms = (  # the first one is the default
        ("provider-shape", ("envelope", "gong"), "raw and stream responses: in Truto's envelope (default), or Gong's "
         "own body"),
        ("stream-as", ("json", "ndjson", "bytes", "empty"), "what stream responses are (default: json)"),
        ("capabilities-shape", ("list", "resources"), "the unified resources of an account: a list (default), or an "
         "object with resources"),
        ("accounts-key", ("result", "results"), "the member that holds the accounts (default: result)"),
        ("end-cursor", ("null", "empty", "absent"), "next_cursor on the last page (default: null)"),
    )  # fmt: skip
    params: list[click.Parameter] = [
        *(text(f"--{each}", group=DATA, metavar="YEAR" if each == "year" else "N", default=str(default), help=help,
               read=whole_number(least, most)) for each, least, most, default, help in numbers),
        flag("--plain", group=DATA, help="statistics and emails that are plain noise, instead of plausible ones"),
        text("--seed", group=DATA, metavar="N", default=str(SANDBOX_SEED), read=int,
             help=f"the same number always gives the same data (default: {SANDBOX_SEED})"),
        text("--for", "seconds", group=DATA, metavar="SECONDS", read=seconds,
             help="stop after this time (default: never)"),
        *(text(f"--{each}-rate", group=LIMITS, metavar="RATE", default=default, read=rate, help=help)
          for each, default, help in rates),
        *(choice(f"--{each}", group=FORMS, choices=choices, default=choices[0], help=help)
          for each, choices, help in forms),
        flag("--lenient", group=FORMS, help="ignore unknown parameters and misread filters as the service does; by "
             "default they are refused, with the reason"),
        *DISPLAYED,
    ]  # fmt: skip
    return Command(
        name, run_sandbox, params, examples=EXAMPLES,
        help="Serve a local stand-in for the service until Ctrl-C, with made-up accounts and people. It prints lines "
        "to paste into another terminal, where every command then uses it instead of the real service.",
    )  # fmt: skip
