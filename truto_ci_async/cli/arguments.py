"""The command line of ``truto-ci`` as argparse knows it: commands, options, their help, and values made of text.

Nothing here does anything: ``options.command`` of the result names what to do, and ``cli`` does it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from textwrap import fill
from typing import Any, Final, TypeAlias, cast

from truto_ci_async.errors import UsageError

from .output.writers import FORMATS

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
INCOMPLETE: Final = 4
SOME_FAILED: Final = 5
CONFLICT: Final = 6
INTERRUPTED: Final = 130
TERMINATED: Final = 143

EXIT_CODES: Final = """\
exit codes:
  0    done (also when the reader of a pipe had enough)
  1    failed
  2    wrong usage: the command line, or no token
  3    refused: another token is needed, or the account's owner must reconnect or grant rights
  4    incomplete: something was written, then the service or the network failed; stderr says how to go on
  130  interrupted by Ctrl-C (143: by SIGTERM); stderr says how to go on
"""
# What differs for ``pull``.
PULL_EXIT_CODES: Final = """\
exit codes:
  0    done: every account was pulled to the end
  1    failed
  2    wrong usage: the command line, or no token
  3    refused: another token is needed
  4    incomplete: accounts are parked until they may be asked again, or the disk failed; run it again then
  5    some accounts failed, for reasons of their own; the others are done or parked
  6    conflict: the folder is in use by another run, belongs to another pull, or was altered
  130  interrupted by Ctrl-C (143: by SIGTERM); run it again to go on
"""

INTERACTIONS: Final = ("conversational-intelligence", "interactions")
RESPONSE_FORMATS: Final = ("unified", "normalized", "debug", "raw", "stream")

SANDBOX_SEED: Final = 7

# --- commands ------------------------------------------------------------------------------------------


# argparse names neither in public.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
Group: TypeAlias = "argparse._ArgumentGroup"  # pyright: ignore[reportPrivateUsage]


def build_parser() -> argparse.ArgumentParser:
    """Describe every command; ``options.command`` of the result is its name, or None when none was given."""
    parser = _parser(
        argparse.ArgumentParser,
        prog="truto-ci",
        description="Talk metrics of the people on your customers' calls, from Truto's unified "
        "conversational-intelligence API.",
        epilog="""\
try it now, without an account (--sandbox starts a local service with made-up data):
  truto-ci accounts --sandbox
  truto-ci interactions --sandbox --max-items 5
  truto-ci interactions --sandbox -o csv | head -3
  truto-ci pull --sandbox --out out/

with your own:
  export TRUTO_API_TOKEN=...
  truto-ci accounts --integration gong --status active
  truto-ci interactions -a ID --start-time 2024-01-01 --end-time 2024-02-01 -o ndjson --out january.ndjson

Data goes to stdout and everything else to stderr. `truto-ci COMMAND --help` tells more.

"""
        + EXIT_CODES
        + """
environment:
  TRUTO_API_TOKEN      the API token
  TRUTO_API_BASE_URL   where the service is (default: https://api.truto.one)
  HTTPS_PROXY, NO_PROXY, NO_COLOR, COLUMNS   as usual
""",
    )
    from truto_ci_async import __version__

    parser.add_argument("--version", action="version", version=f"truto-ci {__version__}")
    _add_connection(parser, {"token": None, "api_url": None, "sandbox": False, "timeout": None, "verbose": 0})
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (
        _add_interactions,
        _add_unified,
        _add_pull,
        _add_accounts,
        _add_capabilities,
        _add_sandbox,
    ):
        add(commands)
    return parser


def _parser(
    make: Callable[..., argparse.ArgumentParser], *names: str, description: str, **kwargs: Any
) -> argparse.ArgumentParser:
    return make(
        *names,
        description=fill(description, 79),
        formatter_class=argparse.RawDescriptionHelpFormatter,  # the examples below stay as they are
        allow_abbrev=False,
        **kwargs,
    )


def _add_connection(parser: argparse.ArgumentParser, defaults: Mapping[str, Any] | None = None) -> None:
    """Add the options every command has, before its name (``defaults``) or after it."""
    group = parser.add_argument_group("connection")

    def add(*names: str, dest: str, **kwargs: Any) -> None:
        default = argparse.SUPPRESS if defaults is None else defaults[dest]
        group.add_argument(*names, dest=dest, default=default, **kwargs)

    add("--sandbox", dest="sandbox", action="store_true",
        help="use made-up data from a local service that ends with the command; needs no token, and the account and "
        "the window may be left out")  # fmt: skip
    add("--token", dest="token", metavar="TOKEN",
        help="the API token; better set TRUTO_API_TOKEN, since every user of the machine can read a command line in "
        "its process list, and the shell keeps it in its history")  # fmt: skip
    add("--api-url", dest="api_url", metavar="URL",
        help="where the service is (default: TRUTO_API_BASE_URL, then https://api.truto.one)")  # fmt: skip
    add("--timeout", dest="timeout", type=_seconds, metavar="SECONDS",
        help="longest time for one page, with all its attempts (default: 300)")  # fmt: skip
    add("-v", "--verbose", dest="verbose", action="count",
        help="show each request and answer on stderr, never the token; -vv adds the traceback of an error")  # fmt: skip


def _add_output(parser: argparse.ArgumentParser, formats: str) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", choices=FORMATS, help=formats)
    group.add_argument(
        "--out", metavar="FILE",
        help="write to FILE, which appears only when it is complete; after a failure the pages that were complete "
        "stay in FILE.partial")  # fmt: skip


def _add_walk(parser: argparse.ArgumentParser, items: str) -> None:
    group = parser.add_argument_group("pages")
    group.add_argument(
        "--limit", type=_positive, metavar="N", help="most items on a page (default: the service's)"
    )
    group.add_argument(
        "--max-items", type=_positive, metavar="N", help=f"stop after N {items} (default: all)"
    )
    group.add_argument("--max-pages", type=_positive, metavar="N", help="stop after N pages (default: all)")
    group.add_argument(
        "--next-cursor", metavar="CURSOR",
        help="go on from here: what an earlier run with the same filters told on stderr, or the service's next_cursor"
    )  # fmt: skip


def _add_query(group: Group, nested: str = "created_at[gt]=... or created_at.gt=...") -> None:
    group.add_argument(
        "-q", "--query", action="append", default=[], metavar="NAME=VALUE,...",
        help=f"more parameters, sent as they are; nested ones are written {nested}, each member of a list name[]=..., "
        "and a comma inside a value \\, (a backslash also takes the meaning from . [ ] = in a name, and from a "
        "backslash); may be repeated")  # fmt: skip
    group.add_argument(
        "--query-json", metavar="JSON",
        help="the same as a JSON object; null drops a parameter that would have been sent")  # fmt: skip


LIST_OUTPUT: Final = (
    "table (default), json (one array), ndjson (one object a line; default of --format stream), csv, yaml; json, "
    "ndjson and yaml hold what the service sent, csv one flat row for each item"
)


def _add_list(parser: argparse.ArgumentParser) -> None:
    """Add what the list of any unified resource can be asked."""
    group = parser.add_argument_group("what to ask for")
    group.add_argument(
        "-a", "--account", metavar="ID",
        help="the integrated account (see `truto-ci accounts`); leave it out with an account's own token")  # fmt: skip
    group.add_argument(
        "--start-time", type=_moment, metavar="TIME",
        help="beginning of the window: 2024-01-01 (midnight UTC) or 2024-01-01T09:30:00+01:00; Gong needs a window, "
        "and answers whole days of the company's own time zone")  # fmt: skip
    group.add_argument("--end-time", type=_moment, metavar="TIME", help="end of the window, not included")
    group.add_argument(
        "--user",
        action="append",
        default=[],
        dest="users",
        metavar="ID",
        help="only this user; may be repeated",
    )
    group.add_argument(
        "--format", choices=RESPONSE_FORMATS, default="unified",
        help="unified (default); normalized; debug: with what Truto asked the provider, its values hidden; raw: the "
        "provider's own answers, one document a page; stream: read as it arrives, item by item and in little memory, "
        "however large the answer")  # fmt: skip
    group.add_argument(
        "--path", metavar="KEY",
        help="with --format stream: where the items are in the answer, keys joined by dots (default: result); for "
        "Gong's own body peopleInteractionStats")  # fmt: skip
    group.add_argument(
        "--key-by",
        metavar="FIELD",
        help="give one object with the items under their FIELD, such as id (json, yaml)",
    )
    group.add_argument(
        "--exclude-field", action="append", default=[], dest="exclude_fields", metavar="FIELD",
        help="leave this field out; may be repeated")  # fmt: skip
    group.add_argument(
        "--ignore-remote-data", action="store_true", help="leave out remote_data, the provider's own record"
    )
    _add_query(group)
    _add_walk(parser, "items")
    _add_output(parser, LIST_OUTPUT)
    _add_connection(parser)


def _add_interactions(commands: Commands) -> None:
    parser = _parser(
        commands.add_parser,
        "interactions",
        help="talk metrics of one account's people",
        description="Walk through the interactions of one account: a row of talk metrics for each of its people.",
        epilog="""\
examples (leave out --sandbox once TRUTO_API_TOKEN is set):
  truto-ci interactions --sandbox
  truto-ci interactions --sandbox --start-time 2024-03-01 --end-time 2024-04-01 -o csv --max-items 3
  truto-ci interactions --sandbox --user 7407178509922943910 -o json --ignore-remote-data
  truto-ci interactions --sandbox --limit 100 --max-pages 1 -o ndjson
  truto-ci interactions --sandbox --key-by id -o json
  truto-ci interactions --sandbox --format stream -o ndjson | head -2

Truto's synced store understands sort_by and operators:
  truto-ci interactions --sandbox -q 'truto_super_query=wnam,created_at[gt]=2024-06-01T00:00:00Z' --max-items 3
  truto-ci interactions --sandbox --query-json '{"truto_super_query": "wnam", "sort_by": {"id": "desc"}}' --max-items 3

"""
        + EXIT_CODES,
    )
    _add_list(parser)
    parser.set_defaults(command="interactions", model=INTERACTIONS[0], resource=INTERACTIONS[1])


def _add_unified(commands: Commands) -> None:
    parser = _parser(
        commands.add_parser,
        "unified",
        help="any other unified resource",
        description="Walk through the items of any unified resource of one account.",
        epilog="""\
examples (leave out --sandbox once TRUTO_API_TOKEN is set):
  truto-ci unified conversational-intelligence interactions --sandbox -o json --max-items 2
  truto-ci unified crm contacts --sandbox -o csv

"""
        + EXIT_CODES,
    )
    parser.add_argument("model", metavar="MODEL", help="such as conversational-intelligence or crm")
    parser.add_argument("resource", metavar="RESOURCE", help="such as interactions or contacts")
    _add_list(parser)
    parser.set_defaults(command="interactions")


def _add_pull(commands: Commands) -> None:
    parser = _parser(
        commands.add_parser,
        "pull",
        help="the interactions of many accounts, into a folder",
        description="Pull the interactions of many accounts into a folder, many at a time, within the limits of the "
        "service. Run the same line again and it goes on where the last one stopped, however that ended: no row is "
        "lost or doubled. Once everything is there it asks nothing more.",
        epilog="""\
examples (leave out --sandbox once TRUTO_API_TOKEN is set):
  truto-ci pull --sandbox --out out/
  truto-ci pull --sandbox --out days/ --start-time 2024-01-01 --end-time 2024-01-04 --window day --format csv
  truto-ci pull --sandbox --out out/ --fresh --report report.json

every night, the week before:
  truto-ci pull --integration gong --status active --start-time today-7d --end-time today --out "week-$(date +%F)"

Rows carry the account, its tenant where that is known, and the window asked for. manifest.json lists the files, and
how much of each is committed. The first Ctrl-C (or SIGTERM) writes what is in hand and ends; the second ends at once.

"""
        + PULL_EXIT_CODES,
    )
    group = parser.add_argument_group("which accounts")
    group.add_argument("--accounts", metavar="ID,...", help="these; `truto-ci accounts` lists them")
    group.add_argument(
        "--accounts-file", metavar="FILE",
        help="those in FILE: one id, or one JSON object with an id and perhaps a tenant_id, on each line")  # fmt: skip
    group.add_argument("--integration", metavar="NAME", help="all of this product, such as gong")
    group.add_argument("--status", metavar="STATUS", help="all of this status, such as active")
    group = parser.add_argument_group("what to ask for")
    group.add_argument(
        "--start-time", type=_when, metavar="TIME",
        help="beginning of the window: 2024-01-01 (midnight UTC), 2024-01-01T09:30:00+01:00, or from now: "
        "today, --start-time=-7d (s, m, h, d, w), today-12h; a pull that goes on keeps its first now")  # fmt: skip
    group.add_argument(
        "--end-time", type=_when, metavar="TIME", help="end of the window, not included (default: now)"
    )
    group.add_argument(
        "--window", type=_window, metavar="LENGTH",
        help="cut the time into a series of windows, each asked for itself: day, week, month, or such as 6h or 10d; "
        "their rows cannot be added up")  # fmt: skip
    group.add_argument(
        "--user",
        action="append",
        default=[],
        dest="users",
        metavar="ID",
        help="only this user; may be repeated",
    )
    group.add_argument(
        "--limit", type=_positive, metavar="N", help="most items on a page (default: the service's)"
    )
    group.add_argument(
        "--exclude-field", action="append", default=[], dest="exclude_fields", metavar="FIELD",
        help="leave this field out; may be repeated")  # fmt: skip
    group.add_argument(
        "--ignore-remote-data", action="store_true", help="leave out remote_data, the provider's own record"
    )
    _add_query(group)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out", metavar="DIR", required=True, help="the folder for rows and progress; made if needed"
    )
    group.add_argument(
        "--format", choices=("ndjson", "csv", "parquet"), default="ndjson",
        help="ndjson (default; what the service sent), csv (flat rows), parquet (typed columns)")  # fmt: skip
    group.add_argument(
        "--report", metavar="FILE", help="write what was done, failed and parked to FILE, as JSON"
    )
    group = parser.add_argument_group("how")
    group.add_argument(
        "--max-accounts", type=_positive, default=32, metavar="N", help="accounts asked at once (default: 32)"
    )
    group.add_argument("--fresh", action="store_true", help="forget what is in the folder, and start over")
    group.add_argument(
        "--grow", action="store_true", help="go on, with the accounts that are new since the pull began added"
    )
    _add_connection(parser)
    parser.set_defaults(command="pull")


def _add_accounts(commands: Commands) -> None:
    parser = _parser(
        commands.add_parser,
        "accounts",
        help="the connected accounts",
        description="List the integrated accounts of the token's environment. Their context, which can hold secrets, "
        "is left out.",
        epilog="""\
examples (leave out --sandbox once TRUTO_API_TOKEN is set):
  truto-ci accounts --sandbox
  truto-ci accounts --sandbox --integration gong --status active -o ndjson

"""
        + EXIT_CODES,
    )
    group = parser.add_argument_group("what to ask for")
    group.add_argument("--integration", metavar="NAME", help="only accounts of this product, such as gong")
    group.add_argument(
        "--status", metavar="STATUS",
        help="active, connecting, post_install_error, validation_error or needs_reauth")  # fmt: skip
    group.add_argument("--tenant-id", metavar="ID", help="only accounts of this tenant of yours")
    group.add_argument(
        "--is-sandbox", choices=("true", "false"),
        help="only accounts that are (or are not) sandboxes of the provider; unrelated to --sandbox")  # fmt: skip
    _add_query(group, "created_at[gt]=... (a dot is part of a name here)")
    _add_walk(parser, "accounts")
    _add_output(parser, "table (default), json (one array), ndjson (one object a line), csv, yaml")
    _add_connection(parser)
    parser.set_defaults(command="accounts")


def _add_capabilities(commands: Commands) -> None:
    parser = _parser(
        commands.add_parser,
        "capabilities",
        help="what one account offers",
        description="Show which unified resources an account offers, and whether it is blocked.",
        epilog="example:\n  truto-ci capabilities --sandbox\n\n" + EXIT_CODES,
    )
    parser.add_argument(
        "account", nargs="?", metavar="ID", help="the integrated account (see `truto-ci accounts`)"
    )
    _add_output(parser, "table (default), json (one object), ndjson (one resource a line), csv, yaml")
    _add_connection(parser)
    parser.set_defaults(command="capabilities")


def _add_sandbox(commands: Commands) -> None:
    parser = _parser(
        commands.add_parser,
        "sandbox",
        help="serve made-up data on this machine",
        description="Serve a local stand-in for the service until Ctrl-C, with made-up accounts and people. It prints "
        "lines to paste into another terminal, where every command then asks it instead of the real one.",
        epilog="""\
examples:
  truto-ci sandbox --for 1
  truto-ci sandbox --port 8123 --for 600 > sandbox.env &

""",
    )
    parser.add_argument(
        "--port", type=_port, default=0, metavar="N", help="where to listen (default: a free port)"
    )
    parser.add_argument(
        "--accounts", type=_positive, default=3, metavar="N", help="active accounts (default: 3)"
    )
    parser.add_argument(
        "--interactions", type=_count, default=250, metavar="N", help="people in each account (default: 250)"
    )
    parser.add_argument(
        "--seed", type=int, default=SANDBOX_SEED, metavar="N",
        help=f"another number, other data; the same number, the same data (default: {SANDBOX_SEED})")  # fmt: skip
    parser.add_argument(
        "--for",
        type=_seconds,
        dest="seconds",
        metavar="SECONDS",
        help="stop after this time (default: never)",
    )
    parser.set_defaults(command="sandbox")


# --- values of options -----------------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


def _moment(text: str) -> date | datetime:
    """Read a day or a date-time; one without an offset means different moments to different people."""
    with suppress(ValueError):
        return date.fromisoformat(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date or date-time such as 2024-01-31 or 2024-01-31T09:30:00Z"
        ) from None
    if moment.utcoffset() is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no time zone: end it with Z or an offset such as +01:00"
        )
    return moment


_RELATIVE: Final = re.compile(r"(now|today)?([+-]\d{1,7}[smhdw])?", re.ASCII)
_LENGTH: Final = re.compile(r"(\d{1,7})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _when(text: str) -> date | datetime | str:
    """Read a moment, or leave one that is counted from now to the plan, which reads the clock once."""
    return text if text and _RELATIVE.fullmatch(text) else _moment(text)


def _window(text: str) -> str | timedelta:
    if text in ("day", "week", "month"):
        return text
    match = _LENGTH.fullmatch(text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not day, week, month, or a length such as 6h or 10d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def read_query(pairs: Sequence[str], text: str | None, *, dots_nest: bool = True) -> dict[str, Any] | None:
    """Return the parameters of ``--query-json`` with those of each ``-q`` put in; None when there are none.

    ``dots_nest=False`` is for endpoints whose names have dots in them.

    :raises UsageError: it cannot be read; the message says how to write it.
    """
    query: dict[str, Any] = {}
    if text is not None:
        try:
            document: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--query-json is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise UsageError(f'--query-json takes an object such as {{"sort_by": "id"}}, not {text:.40}')
        query = cast("dict[str, Any]", document)
    for each in pairs:
        for pair in _split(_marked(each), ","):
            name, *value = _split(pair, "=", 1)
            if not value:
                raise UsageError(
                    f'-q takes NAME=VALUE, and {_unmarked(pair)!r} has no "="; a comma in a value is written \\,'
                )
            _put(query, _path(name, dots_nest=dots_nest), _unmarked(value[0]))
    return query or None


# Text in which each character is known to be a mark or, after a backslash, just itself.
Marked = list[tuple[str, bool]]
MARKS: Final = frozenset("\\,=[].")


def _marked(text: str) -> Marked:
    """A backslash takes its meaning from a mark that follows it; before anything else it is itself."""
    marked: Marked = []
    characters = iter(zip(text, [*text[1:], ""], strict=True))
    for character, following in characters:
        if character == "\\" and following in MARKS and following:
            next(characters)
            marked.append((following, False))
        else:
            marked.append((character, character in MARKS))
    return marked


def _unmarked(marked: Marked) -> str:
    return "".join(character for character, _ in marked)


def _split(marked: Marked, mark: str, times: int = -1) -> list[Marked]:
    parts: list[Marked] = [[]]
    for each in marked:
        if each == (mark, True) and times:
            parts.append([])
            times -= 1
        else:
            parts[-1].append(each)
    return parts


def _path(name: Marked, *, dots_nest: bool) -> list[str]:
    """Read ``a[b].c`` as its parts; an empty last one stands for "one more of a list"."""
    wrong = UsageError(
        f"-q cannot read the name {_unmarked(name)!r}; write a=..., a[b]=..., a.b=... or a[]=..."
    )
    parts = [""]
    inside = closed = False
    for character, is_mark in name:
        if is_mark and character == "[" and not inside:
            inside, closed = True, False
            parts.append("")
        elif is_mark and character == "]" and inside:
            inside, closed = False, True
        elif is_mark and character == "." and dots_nest and not inside:
            closed = False
            parts.append("")
        elif closed or (is_mark and character in "[]"):
            raise wrong
        else:
            parts[-1] += character
    is_list = closed and parts[-1] == "" and len(parts) > 1
    if inside or not all(parts[:-1] if is_list else parts):
        raise wrong
    return parts


def _put(query: dict[str, Any], path: Sequence[str], value: str) -> None:
    clash = UsageError(f"-q gives {path[0]!r} a value and parts of its own; one of them has to go")
    is_list = path[-1] == ""
    *parents, name = path[:-1] if is_list else path
    here = query
    for parent in parents:
        child: object = here.setdefault(parent, {})
        if not isinstance(child, dict):
            raise clash
        here = cast("dict[str, Any]", child)
    there: object = here.get(name)
    if not is_list:
        if isinstance(there, dict | list):
            raise clash
        here[name] = value
    elif there is None:
        here[name] = [value]
    elif isinstance(there, list):
        here[name].append(value)
    else:
        raise clash
