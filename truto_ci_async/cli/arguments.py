"""The commands of ``truto-ci`` and their options and help, as an argparse parser.

Parsing has no effects: ``options.command`` of the result names the function in ``commands`` that does the work.
"""

# ruff format would give each argument of an option a line of its own.
# fmt: off

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from textwrap import fill
from typing import Any, Final, NoReturn, TypeAlias

from truto_ci_async._text import hide_passwords, printable
from truto_ci_async.cli.output.writers import FORMATS

from .messages import EXIT_CODES, PULL_EXIT_CODES
from .resources import MODEL, RESOURCES, ResourceCommand
from .values import filled, moment, name_list, rate, seconds, whole_number, window_length

RESPONSE_FORMATS: Final = ("unified", "normalized", "debug", "raw", "stream")
SANDBOX_SEED: Final = 7

# argparse has no public name for either.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
Group: TypeAlias = "argparse._ArgumentGroup"  # pyright: ignore[reportPrivateUsage]

MAIN_HELP: Final = f"""\
try it now, without an account (--sandbox starts a local service with made-up data):
  truto-ci accounts --sandbox
  truto-ci interactions --sandbox --max-items 5
  truto-ci interactions --sandbox -o csv | head -3
  truto-ci transcripts --sandbox -o text
  truto-ci pull --sandbox --out out/

with your own account:
  export TRUTO_API_TOKEN=...
  truto-ci accounts --integration gong --status active
  truto-ci interactions -a ID --start-time 2024-01-01 --end-time 2024-02-01 -o ndjson --out january.ndjson

Data goes to stdout and everything else to stderr. `truto-ci COMMAND --help` has the options of a command.

{EXIT_CODES}
environment:
  TRUTO_API_TOKEN      the API token
  TRUTO_API_BASE_URL   the address of the service (default: https://api.truto.one)
  HTTPS_PROXY, NO_PROXY, NO_COLOR, COLUMNS   as usual
"""
EXAMPLES: Final = "examples (leave out --sandbox once TRUTO_API_TOKEN is set):"
UNIFIED_EXAMPLES: Final = f"""\
{EXAMPLES}
  truto-ci unified conversational-intelligence interactions --sandbox -o json --max-items 2
  truto-ci unified conversational-intelligence meetings 21733121561272471090 --sandbox
  truto-ci unified conversational-intelligence meetings --sandbox -m meta -o yaml
  truto-ci unified crm contacts --sandbox -o csv

{EXIT_CODES}"""
PULL_EXAMPLES: Final = f"""\
{EXAMPLES}
  truto-ci pull --sandbox --out out/
  truto-ci pull --sandbox --out days/ --start-time 2024-01-01 --end-time 2024-01-04 --window day --format csv
  truto-ci pull --sandbox --out out/ --fresh --report report.json --resource meetings,users

every night, the week before:
  truto-ci pull --integration gong --status active --start-time today-7d --end-time today --out "week-$(date +%F)"

Rows are in out/RESOURCE.ndjson, out/RESOURCE.csv or out/RESOURCE/*.parquet, each with its account, tenant, requested
window and when it was pulled. An account whose product lacks a resource counts as done. manifest.json lists the files
and how much is committed. The first Ctrl-C (or SIGTERM) writes the pages already fetched; the second ends at once.

{PULL_EXIT_CODES}"""
ACCOUNTS_EXAMPLES: Final = f"""\
{EXAMPLES}
  truto-ci accounts --sandbox
  truto-ci accounts --sandbox --integration gong --status active -o ndjson
  truto-ci accounts c590b1b6-d8ec-4915-bad0-f00d5d483d57 --sandbox

{EXIT_CODES}"""
CAPABILITIES_EXAMPLES: Final = f"""\
examples:
  truto-ci capabilities --sandbox
  truto-ci capabilities --sandbox --resource meetings -o json

{EXIT_CODES}"""
REPORT_EXAMPLES: Final = """\
example:
  truto-ci report data -o report.html
"""
SANDBOX_EXAMPLES: Final = """\
examples:
  truto-ci sandbox --for 1
  truto-ci sandbox --port 8123 --for 600 > sandbox.env &
  truto-ci sandbox --for 1 --provider-rate 3/1 --provider-shape gong

"""


def build_parser() -> argparse.ArgumentParser:
    """Describe every command; ``options.command`` of the result is its name, or None when none was given."""
    from truto_ci_async import __version__

    parser = _parser(
        _Parser, prog="truto-ci", epilog=MAIN_HELP,
        description="Talk metrics of the people on your customers' calls, from Truto's unified "
        "conversational-intelligence API.")
    parser.add_argument("--version", action="version", version=f"truto-ci {__version__}")
    _add_connection(parser, {"token": None, "api_url": None, "sandbox": False, "timeout": None, "verbose": 0})
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, resource in RESOURCES.items():
        _add_resource(commands, name, resource)
    _add_unified(commands)
    _add_pull(commands)
    _add_accounts(commands)
    _add_capabilities(commands)
    _add_report(commands)
    _add_sandbox(commands)
    return parser


def _parser(make: Callable[..., argparse.ArgumentParser], *names: str, description: str, **kwargs: Any
) -> argparse.ArgumentParser:
    return make(
        *names, description=fill(description, 79), allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the line breaks of the examples
        **kwargs)


def _command(commands: Commands, name: str, **kwargs: Any) -> argparse.ArgumentParser:
    parser = _parser(commands.add_parser, name, **kwargs)
    parser.set_defaults(command=name)
    return parser


class _Parser(argparse.ArgumentParser):
    _given: Sequence[str] = ()

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - its overloads say the same
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._given, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with the message, which may quote the command line; not what looks like a secret in it."""
        super().error(printable(hide_passwords(self._without_values(message))))

    def _without_values(self, message: str) -> str:
        """Leave out what was given to options that do not exist: one may be a mistyped --token."""
        for before, arg in pairwise(["", *self._given]):
            name, equals, _ = arg.partition("=")
            if self._is_unknown(name):
                if name[1] == "-":
                    shown = f"{name}=***" if equals else name
                else:
                    shown = f"{arg[:2]}***" if arg[2:] else arg
            elif self._is_unknown(before) and "=" not in before and arg:
                shown = "***"
            else:
                continue
            masked = shown.replace("\\", r"\\")
            message = re.sub(rf"(?<![\w-]){re.escape(arg)}(?![\w-])", masked, message)
        return message

    def _is_unknown(self, arg: str) -> bool:
        is_option = len(arg) > 1 and arg[0] == "-" and not arg[1].isdigit()
        return is_option and arg not in self._option_string_actions


# --- commands --------------------------------------------------------------------------------------------------


def _add_resource(commands: Commands, name: str, resource: ResourceCommand) -> None:
    parser = _command(
        commands, name, help=resource.help, description=resource.description,
        epilog=f"{EXAMPLES}\n{resource.examples}\n{EXIT_CODES}")
    if resource.has_get:
        parser.add_argument("id", nargs="?", type=filled, metavar="ID", help="show this one, with all its fields")
    _add_list(parser, resource.filters, resource.text_formats, has_get=resource.has_get)
    parser.set_defaults(model=MODEL, resource=name)


def _add_unified(commands: Commands) -> None:
    parser = _command(
        commands, "unified", help="any other unified resource", epilog=UNIFIED_EXAMPLES,
        description="List the items of any unified resource of one account, or show one of them.")
    parser.add_argument("model", type=filled, metavar="MODEL", help="such as conversational-intelligence or crm")
    parser.add_argument("resource", type=filled, metavar="RESOURCE", help="such as interactions or contacts")
    parser.add_argument("id", nargs="?", type=filled, metavar="ID", help="show this one item")
    _add_list(parser, ("start_time", "end_time", "users", "meeting"), (), has_get=True)


def _add_list(
    parser: argparse.ArgumentParser, filters: Collection[str], text_formats: Sequence[str], *, has_get: bool
) -> None:
    """Add the options of a unified resource: ``filters`` are those that not every resource has."""
    parser.set_defaults(id=None, start_time=None, end_time=None, users=[], meeting=[])
    group = parser.add_argument_group("what to ask for")
    group.add_argument(
        "-a", "--account", type=filled, metavar="ID",
        help="the integrated account (see `truto-ci accounts`); leave it out with an account's own token")
    group.add_argument(
        "-m", "--method", choices=("list", "get", "meta") if has_get else ("list", "meta"),
        help="list (default)" + (", get (default with an ID)" if has_get else "")
        + ", or meta: which parameters a list takes and which fields its items have, as JSON Schema"
        + (" (for `get`, write get as the ID)" if has_get else ""))
    if "start_time" in filters:
        group.add_argument(
            "--start-time", type=moment, metavar="TIME",
            help="beginning of the window: 2024-01-01 (midnight UTC), 2024-01-01T09:30:00+01:00, or relative to now: "
            "today, --start-time=-7d (s, m, h, d, w), today-12h; Gong needs a window for interactions and activity, "
            "and returns whole days in the company's own time zone")
        group.add_argument("--end-time", type=moment, metavar="TIME", help="end of the window, exclusive")
    if "meeting" in filters:
        group.add_argument(
            "--meeting", action="append", default=[], type=filled, metavar="ID",
            help="the meeting whose transcript is wanted; may be repeated")
    _add_filters(group, has_users="users" in filters)
    group.add_argument("--ignore-limit", action="store_true", help="ask the service to ignore --limit")
    group.add_argument(
        "--super-query", type=filled, metavar="REGION", help="read Truto's synced store in apac or wnam")
    group.add_argument("--skip-api-call", action="store_true", help="do not ask the provider")
    group.add_argument(
        "--remote-query", action="append", default=[], metavar="NAME=VALUE,...",
        help="parameters for the provider itself, written as for -q; may be repeated")
    _add_query(group)
    group = parser.add_argument_group("response format")
    group.add_argument(
        "--format", choices=RESPONSE_FORMATS, default="unified",
        help="unified (default); normalized; debug: with Truto's request to the provider, its values hidden; raw: the "
        "provider's own responses, one document per page; stream: items as they arrive, in little memory however "
        "large the response")
    group.add_argument(
        "--path", type=filled, metavar="KEY",
        help="with --format stream: where the items are in the response, keys joined by dots (default: result); "
        "peopleInteractionStats for Gong's own body")
    group.add_argument(
        "--key-by", type=filled, metavar="FIELD",
        help="one object with each item under its FIELD, such as id (json, yaml)")
    _add_pages(parser, "items")
    texts = "; text: one line per sentence; vtt: subtitles, as WebVTT" if text_formats else ""
    group.add_argument(
        "--columns", type=filled, metavar="NAME,...",
        help="the columns of a table or CSV, in this order; --columns=-remote_data leaves one out")
    _add_output(
        parser, f"table (default), json (one array{'; default of a single item, as one object' if has_get else ''}), "
        "ndjson (one object per line; default of --format stream), csv, yaml; json, ndjson and yaml hold what the "
        f"service sent, csv one flat row per item{texts}", (*FORMATS, *text_formats))
    _add_connection(parser)


def _add_pull(commands: Commands) -> None:
    parser = _command(
        commands, "pull", help="interactions and more of many accounts, into a folder", epilog=PULL_EXAMPLES,
        description="Pull resources of many accounts into a folder, many at a time, within the limits of the service. "
        "Run the same command again and it continues where the last run stopped, however that ended: no row is lost or "
        "written twice. Once everything is there, it sends no more requests.")
    group = parser.add_argument_group("which accounts")
    group.add_argument("--accounts", type=filled, metavar="ID,...", help="these accounts; see `truto-ci accounts`")
    group.add_argument(
        "--accounts-file", type=filled, metavar="FILE",
        help="the accounts in FILE: on each line an id, or a JSON object with an id and optionally a tenant_id")
    group.add_argument("--integration", type=filled, metavar="NAME", help="all accounts of this product, such as gong")
    group.add_argument("--status", type=filled, metavar="STATUS", help="all accounts with this status, such as active")
    group.add_argument(
        "--allow-empty", action="store_true", help="finish with nothing done if there is no such account; otherwise "
        "that is an error")
    group = parser.add_argument_group("what to ask for")
    group.add_argument(
        "--resource", type=name_list, default=["interactions"], metavar="NAME,...",
        help="interactions (default), meetings, transcripts, users, activity; several are pulled one after another")
    _add_pull_window(group)
    group.add_argument(
        "--lookback", type=filled, metavar="LENGTH",
        help="ask again for transcripts that earlier runs found missing at most so long ago, such as 2d")
    _add_filters(group)
    _add_limit(group)
    _add_query(group)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out", type=filled, metavar="DIR", required=True, help="the folder for rows and progress; created if needed")
    group.add_argument(
        "--format", choices=("ndjson", "csv", "parquet"), default="ndjson",
        help="ndjson (default; what the service sent), csv (flat rows), parquet (typed columns)")
    _add_csv_formulas(group)
    group.add_argument(
        "--report", type=filled, metavar="FILE",
        help="write which accounts are done, failed and parked to FILE (- for stdout), as JSON")
    group = parser.add_argument_group("how to run")
    group.add_argument(
        "--max-accounts", type=whole_number(1), default=32, metavar="N", help="accounts asked at a time (default: 32)")
    group.add_argument("--fresh", action="store_true", help="discard the earlier output and progress, and start over")
    group.add_argument("--grow", action="store_true", help="continue, and add accounts found since the pull began")
    _add_connection(parser)


def _add_csv_formulas(group: Group) -> None:
    group.add_argument(
        "--csv-formulas", choices=("keep", "escape"), default="keep",
        help="escape: with csv, put ' before text that a spreadsheet would take for a formula, such as =1+1")


def _add_pull_window(group: Group) -> None:
    group.add_argument(
        "--start-time", type=moment, metavar="TIME",
        help="beginning of the window: 2024-01-01 (midnight UTC), 2024-01-01T09:30:00+01:00, or relative to now: "
        "today, --start-time=-7d (s, m, h, d, w), today-12h; a pull that continues keeps the now of its first run")
    group.add_argument("--end-time", type=moment, metavar="TIME", help="end of the window, exclusive (default: now)")
    group.add_argument(
        "--window", type=window_length, metavar="LENGTH",
        help="split the time into a series of windows and request each one: day, week, month, or a length such as 6h "
        "or 10d; the rows of different windows cannot be added up")


def _add_accounts(commands: Commands) -> None:
    parser = _command(
        commands, "accounts", help="the connected accounts", epilog=ACCOUNTS_EXAMPLES,
        description="List the integrated accounts of the token's environment, or show one of them. Their context, "
        "which can hold secrets, is left out.")
    parser.add_argument(
        "id", nargs="?", type=filled, metavar="ID", help="show this one; me: the account that the token belongs to")
    group = parser.add_argument_group("what to ask for")
    group.add_argument("--integration", type=filled, metavar="NAME", help="only accounts of this product, such as gong")
    group.add_argument(
        "--status", type=filled, metavar="STATUS",
        help="active, connecting, post_install_error, validation_error or needs_reauth")
    group.add_argument("--tenant-id", type=filled, metavar="ID", help="only accounts of this tenant of yours")
    group.add_argument(
        "--is-sandbox", choices=("true", "false"),
        help="only accounts that are (or are not) sandboxes of the provider; unrelated to --sandbox")
    _add_query(group, "created_at[gt]=... (here a dot is part of a name)")
    _add_pages(parser, "accounts")
    _add_output(parser, "table (default), json (one array), ndjson (one object per line), csv, yaml")
    _add_connection(parser)


def _add_capabilities(commands: Commands) -> None:
    parser = _command(
        commands, "capabilities", help="what one account supports", epilog=CAPABILITIES_EXAMPLES,
        description="Show which unified resources an account supports, and whether it is blocked.")
    parser.add_argument(
        "account", nargs="?", type=filled, metavar="ID", help="the integrated account (see `truto-ci accounts`)")
    parser.add_argument(
        "--type", choices=("unified", "proxy", "all"), default="unified",
        help="unified resources (default), those of the provider's own API, or all")
    parser.add_argument(
        "--resource", action="append", default=[], type=filled, metavar="NAME",
        help="only this resource; may be repeated")
    parser.add_argument(
        "--method", action="append", default=[], dest="methods", type=filled, metavar="NAME",
        help="only this method; may be repeated")
    _add_output(parser, "table (default), json (one object), ndjson (one resource per line), csv, yaml")
    _add_connection(parser)


def _add_report(commands: Commands) -> None:
    parser = _command(
        commands, "report", help="charts and tables of a pull, as one page of HTML", epilog=REPORT_EXAMPLES,
        description="Write a report on the folder of a pull: what was asked, what is missing and why, charts of the "
        "metrics, and a table of people to sort, search and download. The page opens from disk, without a network.")
    parser.add_argument("folder", type=filled, metavar="FOLDER", help="the --out of `truto-ci pull`")
    parser.add_argument(
        "-o", "--output", type=filled, default="report.html", metavar="FILE", help="default: report.html")
    parser.add_argument("--title", type=filled, default="Talk metrics", metavar="TEXT", help="default: Talk metrics")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="-vv shows where an error came from")


def _add_sandbox(commands: Commands) -> None:
    parser = _command(
        commands, "sandbox", help="serve made-up data on this machine", epilog=SANDBOX_EXAMPLES,
        description="Serve a local stand-in for the service until Ctrl-C, with made-up accounts and people. It prints "
        "lines to paste into another terminal, where every command then uses it instead of the real service.")
    for name, least, most, default, text in (
        ("port", 0, 65_535, 0, "port to listen on (default: a free one)"),
        ("accounts", 1, 10_000, 3, "active accounts (default: 3)"),
        ("interactions", 0, 1_000_000, 250, "people in each account (default: 250)"),
        ("meetings", 0, 1_000_000, 600, "meetings in each account, all in one year (default: 600)"),
        ("year", 1, 9_998, 2024, "that year (default: 2024)"),
        ("providers", 0, 10_000, 1, "accounts of each of Avoma, Chorus, Fireflies.ai and Wingman (default: 1); the "
         "others are Gong's"),
    ):
        parser.add_argument(
            f"--{name}", type=whole_number(least, most), default=default, metavar="YEAR" if name == "year" else "N",
            help=text)
    parser.add_argument(
        "--plain", action="store_true",
        help="statistics and emails that are plain noise, instead of plausible ones")
    parser.add_argument(
        "--seed", type=int, default=SANDBOX_SEED, metavar="N",
        help=f"the same number always gives the same data (default: {SANDBOX_SEED})")
    parser.add_argument(
        "--for", type=seconds, dest="seconds", metavar="SECONDS", help="stop after this time (default: never)")
    group = parser.add_argument_group("limits, as REQUESTS/SECONDS or off")
    for name, value, text in (
        ("token", "500/10", "Truto's for one token (default: 500/10)"),
        ("account", "50/10", "Truto's for one account (default: 50/10)"),
        ("provider", "off", "the provider's for one account, such as Gong's 3/1; its responses have ratelimit-* "
         "headers (default: off)"),
    ):
        group.add_argument(f"--{name}-rate", type=rate, default=value, metavar="RATE", help=text)
    _add_sandbox_forms(parser.add_argument_group("where the service's documentation leaves more than one form open"))


def _add_sandbox_forms(group: Group) -> None:
    for name, choices, text in (  # the first one is the default
        ("provider-shape", ("envelope", "gong"), "raw and stream responses: in Truto's envelope (default), or Gong's "
         "own body"),
        ("stream-as", ("json", "ndjson", "bytes", "empty"), "what stream responses are (default: json)"),
        ("capabilities-shape", ("list", "resources"), "the unified resources of an account: a list (default), or an "
         "object with resources"),
        ("accounts-key", ("result", "results"), "the member that holds the accounts (default: result)"),
        ("end-cursor", ("null", "empty", "absent"), "next_cursor on the last page (default: null)"),
    ):
        group.add_argument(f"--{name}", choices=choices, default=choices[0], help=text)
    group.add_argument(
        "--lenient", action="store_true",
        help="ignore unknown parameters and misread filters as the service does; by default they are refused, with "
        "the reason")


# --- options that commands share -------------------------------------------------------------------------------


def _add_connection(parser: argparse.ArgumentParser, defaults: Mapping[str, Any] | None = None) -> None:
    """Add the options that may stand before the command's name (with ``defaults``) or after it."""
    group = parser.add_argument_group("connection")

    def add(*names: str, dest: str, **kwargs: Any) -> None:
        default = argparse.SUPPRESS if defaults is None else defaults[dest]
        group.add_argument(*names, dest=dest, default=default, **kwargs)

    add("--sandbox", dest="sandbox", action="store_true",
        help="use made-up data from a local service that ends with the command; needs no token, and the account and "
        "the window may be left out")
    add("--token", dest="token", metavar="TOKEN",
        help="the API token; better set TRUTO_API_TOKEN, since every user of the machine can read a command line in "
        "its process list, and the shell keeps it in its history")
    add("--api-url", dest="api_url", metavar="URL",
        help="address of the service (default: TRUTO_API_BASE_URL, then https://api.truto.one)")
    add("--timeout", dest="timeout", type=seconds, metavar="SECONDS",
        help="longest time for one page, including all its attempts (default: 300)")
    add("-v", "--verbose", dest="verbose", action="count",
        help="show each request and response on stderr, never the token; -vv adds the traceback of an error")


def _add_filters(group: Group, *, has_users: bool = True) -> None:
    if has_users:
        group.add_argument(
            "--user", action="append", default=[], dest="users", type=filled, metavar="ID",
            help="only this user; may be repeated")
    group.add_argument(
        "--exclude-field", action="append", default=[], dest="exclude_fields", type=filled, metavar="FIELD",
        help="leave this field out; may be repeated")
    group.add_argument(
        "--ignore-remote-data", action="store_true", help="leave out remote_data, the provider's own record")


def _add_query(group: Group, nested: str = "created_at[gt]=... or created_at.gt=...") -> None:
    group.add_argument(
        "-q", "--query", action="append", default=[], metavar="NAME=VALUE,...",
        help=f"more parameters, sent as they are; write nested ones as {nested}, each member of a list as name[]=..., "
        "and a comma inside a value as \\, (a backslash also makes . [ ] = and itself ordinary characters); may be "
        "repeated")
    group.add_argument(
        "--query-json", metavar="JSON",
        help="the same as a JSON object; null removes a parameter that would have been sent")


def _add_limit(group: Group) -> None:
    group.add_argument(
        "--limit", type=whole_number(1), metavar="N", help="most items per page (default: the service's)")


def _add_pages(parser: argparse.ArgumentParser, items: str) -> None:
    group = parser.add_argument_group("pages")
    _add_limit(group)
    group.add_argument("--max-items", type=whole_number(1), metavar="N", help=f"stop after N {items} (default: all)")
    group.add_argument("--max-pages", type=whole_number(1), metavar="N", help="stop after N pages (default: all)")
    group.add_argument(
        "--next-cursor", type=filled, metavar="CURSOR",
        help="continue here: what an earlier run with the same filters printed on stderr, or the service's "
        "next_cursor; write to another --out file, since that of the earlier run is not replaced")


def _add_output(parser: argparse.ArgumentParser, formats: str, choices: Sequence[str] = FORMATS) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", choices=choices, help=formats)
    _add_csv_formulas(group)
    group.add_argument(
        "--out", type=filled, metavar="FILE",
        help="write to FILE, in the format of its suffix unless -o is given; it appears only when it is complete, and "
        "after a failure the complete pages are kept in FILE.partial")
