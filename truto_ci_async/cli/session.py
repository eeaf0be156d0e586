"""``login``, ``logout``, ``profiles`` and ``whoami``: the tokens that are kept between commands."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from truto_ci_async.cli.output.status_line import is_terminal
from truto_ci_async.cli.output.streams import interruptible, print_found
from truto_ci_async.errors import PermissionDeniedError, UsageError

from . import options as opt
from .messages import EXIT_CODES, Progress, note, say
from .options import CONNECTED, CONNECTION, DISPLAYED, TEXT_OR_JSON, Command, Options, refuse
from .profiles import DEFAULT_PROFILE, PROFILE_VARIABLE, SERVICE, remove, store, stored_profiles

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient

MAX_TOKEN: Final = 16_384  # characters


async def run_login(options: Options, progress: Progress) -> None:
    """Ask for a token, try it, and keep it."""
    from .connection import connect

    name = _profile_in_use(options.profile)
    refuse({
        "login keeps a token for a service: leave out --sandbox": options.sandbox,
        "--token would put the token into the shell's history: leave it out to be asked, or use --token-stdin":
            options.token,
    })  # fmt: skip
    token = options.token = _read_token(options, name)
    options.profile = None  # its token is the one to replace
    async with connect(options, lambda: ["asking the service"]) as client:
        seen = await _see(client)
        where = store(name, client.base_url, token)
    note(f"logged in to {client.base_url} as profile {name!r} ({seen['sees']}); the token is kept in {where}")
    if where.endswith(".json"):
        note("no keyring of the system works here, so that file protects it: it is readable by you alone")


def _profile_in_use(given: str | None = None) -> str:
    return given or os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE


def _read_token(options: Options, name: str) -> str:
    if options.token_stdin:
        with interruptible():
            token = "" if sys.stdin is None else sys.stdin.read(MAX_TOKEN + 1)  # pyright: ignore[reportUnnecessaryComparison]
    elif not is_terminal(sys.stdin):
        raise UsageError("login asks for the token, and there is no terminal: pass it with --token-stdin")
    else:
        try:
            with interruptible():
                token = click.prompt(f"API token for profile {name}", hide_input=True, err=True)
        except click.Abort:  # by Ctrl-C or Ctrl-D
            raise KeyboardInterrupt from None
    token = token.strip()
    if not token or len(token) > MAX_TOKEN or any(each.isspace() for each in token):
        raise UsageError("that is no API token: it is one word, as Truto's dashboard shows it")
    return token


async def _see(client: TrutoClient) -> dict[str, Any]:
    """Return what the token of a client opens; an account's own token opens that account alone."""
    try:
        first = await client.integrated_accounts.list(limit=1).first()
    except PermissionDeniedError:
        account = await client.integrated_accounts.me()
        return {"sees": f"account {account.id}", "account": account.id, "environment": account.environment_id}
    environment = first and first.environment_id
    sees = f"environment {environment or 'of unknown id'}" if first else "an environment without accounts"
    return {"sees": sees, "account": None, "environment": environment}


async def run_logout(options: Options, progress: Progress) -> None:
    """Remove a profile."""
    name = _profile_in_use(options.profile)
    if not remove(name):
        say(
            f"warning: the keyring did not remove the token, and may still have it, under {SERVICE} and {name}"
        )
    note(f"removed profile {name!r} and its token; to make the token useless everywhere, revoke it in Truto")


async def run_profiles(options: Options, progress: Progress) -> None:
    """List the profiles, without their tokens."""
    used = _profile_in_use()
    rows = [
        {"profile": name, "address": each.base_url, "token": "file" if each.token else "keyring", "used": name == used}
        for name, each in sorted(stored_profiles().items())
    ]  # fmt: skip
    lines = [
        f"{'*' if row['used'] else ' '} {row['profile']}  {row['address']}  (token in the {row['token']})"
        for row in rows
    ]
    print_found(rows, lines, as_json=options.output == "json")
    if not rows:
        note("no profiles; `truto-ci login` makes one")
    elif os.environ.get("TRUTO_API_TOKEN"):
        note("TRUTO_API_TOKEN is set, and used instead unless --profile is given")


async def run_whoami(options: Options, progress: Progress) -> None:
    """Say which token is used, for which address, and what it opens."""
    from .connection import connect

    async with connect(options, lambda: ["asking the service"]) as client:
        found = {"token from": options.source, "address": client.base_url, **await _see(client)}
    lines = [f"{name}: {found[name]}" for name in ("token from", "address", "sees")]
    print_found(found, lines, as_json=options.output == "json")


def command(name: str) -> Command:
    profile = opt.text(
        "--profile", group=CONNECTION, metavar="NAME", complete=opt.offer(opt.known_profiles),
        help=f"name of the profile (default: {PROFILE_VARIABLE}, then {DEFAULT_PROFILE})",
    )  # fmt: skip
    token_stdin = opt.flag("--token-stdin", group="the token", help="read it from stdin instead of asking")
    run, params, help, examples = {
        "login": (
            run_login, [token_stdin, *CONNECTED],
            "Ask for an API token, try it, and keep it with the address of its service as a profile. It is kept in the "
            "system's keyring if that works, else in a file that only you can read. Commands then need no "
            "TRUTO_API_TOKEN.",
            """\
examples:
  truto-ci login                  # asks for the token, and does not show it
  truto-ci login --profile staging --token-stdin < token.txt
""",
        ),
        "logout": (
            run_logout, [profile, *DISPLAYED],
            "Remove a profile and its token from this machine.",
            "example:\n  truto-ci logout --profile staging\n",
        ),
        "profiles": (
            run_profiles, [TEXT_OR_JSON, *DISPLAYED],
            "List the profiles, without their tokens. The one that is used is marked with a star.",
            "example:\n  truto-ci profiles\n",
        ),
        "whoami": (
            run_whoami, [TEXT_OR_JSON, *CONNECTED],
            "Say where the token comes from, which address it is used for, and what it opens.",
            """\
examples:
  truto-ci whoami
  truto-ci whoami --profile staging
  truto-ci whoami --sandbox
""",
        ),
    }[name]  # fmt: skip
    return Command(name, run, params, help=help, examples=examples, exit_codes=EXIT_CODES)
