"""The options of ``truto-ci``, each declared once: an option means the same for every command that has it.

Parsing has no effects and loads no client: a command's ``invoke`` returns what to run, and its options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from textwrap import fill
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

import click
from click.shell_completion import CompletionItem

from truto_ci_async._checks import did_you_mean
from truto_ci_async.errors import ConfigurationError, UsageError

from .messages import Progress
from .values import filled, moment, one_id, seconds, whole_number, word

FORMATS: Final = ("table", "json", "ndjson", "csv", "yaml")
RESPONSE_FORMATS: Final = ("unified", "normalized", "debug", "raw", "stream")
ASK: Final = "what to ask for"
OUTPUT: Final = "output"
DISPLAY: Final = "display"
CONNECTION: Final = "connection"


class Options(SimpleNamespace):
    """The options of one command line, by name. A command's ``defaults`` are those it does not offer."""

    def pick(self, *names: str) -> dict[str, Any]:
        """Return some of them, by name."""
        return {name: getattr(self, name) for name in names}

    def refuse(self, why: str, *names: str) -> None:
        """:raises UsageError: one of these options is given; the message names those, and then says ``why``."""
        if given := self.given(*names):
            raise UsageError(f"{' and '.join(given)}{why}")

    def given(self, *names: str) -> list[str]:
        """Return those of some options that have another value than without them, as they are written."""
        offered = [name for name in names if name in self.option_names]
        return [self.option_names[name] for name in offered if getattr(self, name) not in self.usual[name]]


def refuse(cases: Mapping[str, object]) -> None:
    """:raises UsageError: one of the cases is so; its key is the message."""
    for message, is_so in cases.items():
        if is_so:
            raise UsageError(message)


Run: TypeAlias = Callable[[Options, Progress], Coroutine[Any, Any, int | None]]
Reader: TypeAlias = Callable[[str], Any]
Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], list[Any]]


def not_one_of(value: str, choices: Sequence[str]) -> str:
    """Say which values there are, and which one may be meant."""
    one_of = "one of " if len(choices) > 1 else ""
    return f"{value!r} is not {one_of}{', '.join(choices)}{did_you_mean(value, choices)}"


class Choice(click.Choice[str]):
    """One of some words."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        has_out = ctx is not None and any(each.name == "out" for each in ctx.command.params)
        if has_out and "." in str(value):
            return f"{value!r} is no format; write --out {value}"
        return not_one_of(value, self.choices)


class Option(click.Option):
    """An option that the help shows under the heading ``group``."""

    def __init__(self, *names: str, help: str, group: str = ASK, **settings: Any) -> None:
        repeated = "; may be repeated" if settings.get("multiple") else ""
        super().__init__([*names], help=f"{help}{repeated}", **settings)
        self.group = group


class Command(click.Command):
    """A command, the function that runs it, and the values of options that the function reads and it does not offer."""

    def __init__(
        self,
        name: str,
        run: Run,
        params: Sequence[click.Parameter],
        *,
        help: str,
        examples: str = "",
        exit_codes: str = "",
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        epilog = f"{examples}\n{exit_codes}" if exit_codes else examples
        super().__init__(name, params=[*params], help=help, epilog=epilog)
        self.run = run
        self.defaults: Mapping[str, Any] = defaults or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # which its parser leaves out of some
            raise

    def invoke(self, ctx: click.Context) -> tuple[Run, Options]:
        """Return what to run. Options of the connection may stand before the command's name too."""
        names = {each.name: max(each.opts, key=len) for each in self.params if isinstance(each, Option)}
        before = {} if ctx.parent is None else ctx.parent.params
        given = {**ctx.params}
        for name, value in before.items():
            if name == "verbose" and name in given:
                given[name] += value
            elif given.get(name) in (None, False):
                if value and name not in names and name not in ("verbose", "quiet", "no_color"):
                    raise click.UsageError(f"it takes no --{name.replace('_', '-')}", ctx)
                given[name] = value
        if given.get("quiet") and given.get("verbose"):
            raise click.UsageError("--quiet and --verbose contradict each other: give one", ctx)
        usual = {each.name: (None, False, (), each.default) for each in self.params}
        return self.run, Options(
            command=self.name, option_names=names, usual=usual, **{**self.defaults, **given}
        )

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"\n{fill(self.help or '', min(formatter.width, 79))}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_epilog(formatter, self.epilog or "")


def write_epilog(formatter: click.HelpFormatter, text: str) -> None:
    """Write paragraphs and lines that fit; a command that does not fit goes on behind a backslash."""
    text = re.sub(r"(?<=[^\n:])\n(?=\S)", " ", text)  # the lines of a paragraph
    for line in ("", *text.splitlines()):
        is_command = line.startswith("  truto-ci")
        if is_command:  # keep what is quoted together, and an option with its value
            kept = "'[^']*'|\"[^\"]*\"|(?<= )-[\\w-]+ (?=[^-#|])"
            line = re.sub(kept, lambda found: found[0].replace(" ", "\0"), line)
        hang = re.match(r" *(\S+  +)?", line)
        indent = " " * (6 if is_command else len(hang[0]) if hang else 0)
        width = formatter.width + 1 - 2 * is_command * (len(line) > formatter.width + 1)
        folded = fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        formatter.write(folded.replace("\n", " \\\n" if is_command else "\n").replace("\0", " ") + "\n")


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options under the headings of their groups."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
            groups.setdefault(getattr(param, "group", "help"), []).append(record)
    for group, records in groups.items():
        with formatter.section(group):
            formatter.write_dl(records, col_max=24)


def offer(
    words: Sequence[str] | Callable[[click.Context], Sequence[str]], *, several: bool = False
) -> Completer:
    """Return a completion with words that are usual, or with what a function finds; ``several``: after a comma too."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        given = before.split(",")
        found = words(ctx) if callable(words) else words
        return [f"{before}{comma}{each}" for each in found if each.startswith(last) and each not in given]

    return complete


def offer_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete the names of its files."""
    return [CompletionItem(incomplete, type="dir" if "FOLDER" in (param.metavar or "") else "file")]


def argument(name: str, metavar: str, *, required: bool = False, **settings: Any) -> click.Argument:
    shown = metavar if required else f"[{metavar}]"
    return click.Argument([name], type=word, metavar=shown, required=required, **settings)


def flag(*names: str, help: str, group: str = ASK) -> Option:
    return Option(*names, group=group, is_flag=True, help=help)


def text(
    *names: str, metavar: str, read: Reader = filled, complete: Completer | None = None, **settings: Any
) -> Option:
    """Return an option with a value that ``read`` reads. It raises ``ValueError``, and says how to write the value."""
    if metavar in ("FILE", "FOLDER"):
        complete = offer_files
    return Option(*names, type=read, metavar=metavar, shell_complete=complete, **settings)


def number(*names: str, read: Callable[[str], int] = whole_number(1), **settings: Any) -> Option:
    return text(*names, metavar="N", read=read, **settings)


def choice(*names: str, choices: Sequence[str], **settings: Any) -> Option:
    return Option(*names, type=Choice(choices), **settings)


# The integrations with conversational intelligence, and the statuses of an account.
PRODUCTS: Final = ("gong", "avoma", "chorus", "firefliesai", "wingman")
STATUSES: Final = ("active", "connecting", "post_install_error", "validation_error", "needs_reauth")


# --- which account ---------------------------------------------------------------------------------------------


def known_accounts(ctx: click.Context) -> Sequence[str]:
    """Return the accounts that earlier commands have seen, for completion."""
    from .kept_files import cached_accounts

    return cached_accounts()


def known_profiles(ctx: click.Context) -> Sequence[str]:
    """Return the names of the profiles, for completion."""
    from .profiles import stored_profiles

    with suppress(ConfigurationError):
        return sorted(stored_profiles())
    return ()


ACCOUNT: Final = text(
    "-a", "--account", metavar="ID", read=one_id, complete=offer(known_accounts),
    help="the integrated account (see `truto-ci accounts`); leave it out with an account's own token")  # fmt: skip


# --- what to ask for -------------------------------------------------------------------------------------------


def window(note: str, end: str = "") -> list[click.Parameter]:
    return [
        text("--start-time", metavar="TIME", read=moment,
             help="beginning of the window: 2024-01-01 (midnight UTC), 2024-01-01T09:30:00+01:00, or relative to now: "
             f"today, now, -7d (s, m, h, d, w), today-12h; {note}"),
        text("--end-time", metavar="TIME", read=moment, help=f"end of the window, exclusive{end}"),
    ]  # fmt: skip


USERS: Final = text("--user", "users", metavar="ID", multiple=True, help="only this user")
EXCLUSIONS: Final = (
    text("--exclude-field", "exclude_fields", metavar="FIELD", multiple=True,
         help="leave this field out"),
    flag("--ignore-remote-data", help="leave out remote_data, the provider's own record"),
)  # fmt: skip


def query(nested: str = "created_at[gt]=... or created_at.gt=...") -> list[click.Parameter]:
    return [
        Option("-q", "--query", multiple=True, metavar="NAME=VALUE,...",
               help=f"more parameters, sent as they are; write nested ones as {nested}, each member of a list as "
               "name[]=..., and a comma inside a value as \\, (a backslash also makes . [ ] = and itself ordinary "
               "characters)"),
        Option("--query-json", metavar="JSON",
               help="the same as a JSON object; null removes a parameter that would have been sent"),
    ]  # fmt: skip


def limit(group: str = ASK) -> Option:
    return number("--limit", group=group, help="most items per page (default: the service's)")


def pages(items: str) -> list[click.Parameter]:
    group = "pages"
    return [
        limit(group),
        number("--max-items", group=group, help=f"stop after N {items}"),
        number("--max-pages", group=group, help="stop after N pages"),
        text("--next-cursor", group=group, metavar="CURSOR",
             help="continue here: what an earlier run with the same filters printed on stderr, or the service's "
             "next_cursor; write to another --out file, since that of the earlier run is not replaced"),
    ]  # fmt: skip


# --- output ----------------------------------------------------------------------------------------------------


CSV_FORMULAS: Final = choice(
    "--csv-formulas", group=OUTPUT, choices=("keep", "escape"), default="keep",
    help="escape: with csv, put ' before text that a spreadsheet would take for a formula, such as =1+1",
)  # fmt: skip


def output(formats: str, choices: Sequence[str] = FORMATS) -> list[click.Parameter]:
    return [
        choice("-o", "--output", group=OUTPUT, choices=choices, help=formats),
        CSV_FORMULAS,
        text("--out", group=OUTPUT, metavar="FILE",
             help="write to FILE (- for stdout), in the format of its suffix unless -o is given; it appears only when "
             "it is complete, and after a failure the complete pages are kept in FILE.partial"),
        flag("--no-pager", group=OUTPUT, help="do not show it in PAGER, which is used in a terminal if it is set"),
    ]  # fmt: skip


TEXT_OR_JSON: Final = choice(
    "-o", "--output", group=OUTPUT, choices=("text", "json"), default="text", help="text (default), json"
)


# --- every command ---------------------------------------------------------------------------------------------


DISPLAYED: Final = (
    Option("-v", "--verbose", group=DISPLAY, count=True,
           help="show each request and response on stderr, never the token; -vv adds the traceback of an error"),
    flag("--quiet", group=DISPLAY, help="show nothing on stderr but warnings and errors"),
    flag("--no-color", group=DISPLAY, help="no colours, as with NO_COLOR"),
)  # fmt: skip
# These may stand before the command's name or after it.
CONNECTED: Final = (
    flag("--sandbox", group=CONNECTION,
         help="use made-up data from a local service that ends with the command; needs no token, and the account "
         "and the window may be left out"),
    text("--token", group=CONNECTION, metavar="TOKEN", read=str,
         help="the API token; better `truto-ci login`, or set TRUTO_API_TOKEN: every user of the machine can read "
         "a command line in its process list, and the shell keeps it in its history"),
    text("--profile", group=CONNECTION, metavar="NAME", complete=offer(known_profiles),
         help="use the token and the address that `truto-ci login` has kept under this name (default: "
         "TRUTO_API_TOKEN, then the profile of TRUTO_PROFILE, then `default`)"),
    text("--api-url", group=CONNECTION, metavar="URL", read=str,
         help="address of the service (default: TRUTO_API_BASE_URL, then https://api.truto.one)"),
    text("--timeout", group=CONNECTION, metavar="SECONDS", read=seconds,
         help="longest time for one page, including all its attempts (default: 300)"),
    *DISPLAYED,
)  # fmt: skip
