"""The commands of ``truto-ci``: a command line becomes the function to run and its options, or a message.

A command is loaded when it is used: ``COMMANDS`` names its module, whose function ``command`` describes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final

import click
from click.shell_completion import CompletionItem, shell_complete

from truto_ci_async._checks import did_you_mean
from truto_ci_async._text import hide_passwords
from truto_ci_async._version import __version__

from .completion import VARIABLE
from .messages import EXIT_CODES, say
from .options import CONNECTED, Command, Options, Run, write_epilog, write_options

NAME: Final = "truto-ci"
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {  # module, and what the list of commands says
    "interactions": ("unified", "talk metrics of the people in one account"),
    "meetings": ("unified", "recorded meetings of one account"),
    "transcripts": ("unified", "what was said in a meeting"),
    "users": ("unified", "the people of the connected product's workspace"),
    "activity": ("unified", "how much each user did in a window"),
    "unified": ("unified", "any unified resource, such as crm contacts"),
    "export": ("unified", "any unified resource as MODEL/RESOURCE, like Truto's own command line"),
    "pull": ("pull", "fetch many accounts into a folder or a database"),
    "sync": ("pull", "keep the tables of a database up to date"),
    "report": ("report", "write charts and tables of a pull as one HTML page"),
    "accounts": ("accounts", "list the connected accounts"),
    "capabilities": ("accounts", "list what one account supports"),
    "login": ("session", "store an API token, as a profile"),
    "logout": ("session", "remove a profile"),
    "profiles": ("session", "list the profiles"),
    "whoami": ("session", "show which token is in use, and what it has access to"),
    "doctor": ("doctor", "diagnose the token, the network and the installation"),
    "sandbox": ("sandbox", "serve made-up data on this machine"),
    "completion": ("completion", "print the script for completion in your shell"),
}
# Options of earlier versions and of other programs, and what does the same.
RENAMED: Final = {
    "--format": "-o FORMAT for what is written, --response-format for what is asked",
    **dict.fromkeys(("--from", "--since", "--after"), "--start-time TIME"),
    **dict.fromkeys(("--to", "--until", "--before"), "--end-time TIME"),
    **dict.fromkeys(("--id", "--account-id", "--integrated-account-id"), "-a ID"),
    **dict.fromkeys(("--file", "--output-file"), "--out FILE"),
    **{f"--{each}": f"-o {each}" for each in ("table", "json", "ndjson", "csv", "yaml", "parquet")},
    "--out": "--to URL",  # of sync
    "--start-time": "--max-history TIME",  # of sync
}

MAIN_HELP: Final = f"""\
try it now, without an account (--sandbox starts a local service with made-up data):
  truto-ci accounts --sandbox
  truto-ci interactions --sandbox --max-items 5
  truto-ci interactions --sandbox -o csv | head -3
  truto-ci transcripts --sandbox -o text
  truto-ci pull --sandbox --out out/

with your own account:
  truto-ci login                      # or export TRUTO_API_TOKEN=...
  truto-ci accounts --integration gong --status active
  truto-ci interactions -a ID --start-time 2024-01-01 --end-time 2024-02-01 --out january.ndjson

Data goes to stdout and everything else to stderr. `truto-ci COMMAND --help` has the options of a command.

{EXIT_CODES}
environment:
  TRUTO_API_TOKEN      the API token
  TRUTO_PROFILE        the profile that is used without it
  TRUTO_API_BASE_URL   the address of the service (default: https://api.truto.one)
  HTTPS_PROXY, NO_PROXY, NO_COLOR, PAGER, COLUMNS   as usual
"""


class App(click.Group):
    """All commands. Only the one that is used is loaded."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Command | None:
        if cmd_name in COMMANDS:
            command: Command = import_module(f".{COMMANDS[cmd_name][0]}", __package__).command(cmd_name)
            return command
        if not ctx.resilient_parsing:
            nearest = did_you_mean(cmd_name, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
            if cmd_name in ("help", "version"):
                nearest = f"; write {NAME} --{cmd_name}"
            ctx.fail(f"there is no command {cmd_name!r}{nearest}")
        return None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        named = (CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items())
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(each for each in named if each.value.startswith(incomplete)), *options]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_epilog(formatter, MAIN_HELP)


_with_version: Final = click.version_option(
    __version__, prog_name=NAME, message="%(prog)s %(version)s", help="show the version"
)
app: Final = _with_version(App(
    NAME,
    help="Talk metrics of the people on your customers' calls, from Truto's unified conversational-intelligence API.",
    params=[*CONNECTED],
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
))  # fmt: skip


def parse(argv: Sequence[str]) -> tuple[Run, Options]:
    """Return what a command line asks to run.

    :raises click.exceptions.Exit: it asked for help, or the version.
    :raises click.UsageError: it is wrong; ``explain`` says how.
    """
    if instruction := os.environ.get(VARIABLE):
        raise click.exceptions.Exit(shell_complete(app, {}, NAME, VARIABLE, instruction))
    with app.make_context(NAME, [*argv]) as context:
        found: tuple[Run, Options] = app.invoke(context)
    return found


def explain(error: click.UsageError) -> None:
    """Say what is wrong with a command line, and how the command at hand is used."""
    context = error.ctx or click.Context(app, info_name=NAME)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(context.get_help(), err=True)
        return
    say(hide_passwords(f"{context.command_path}: {_reason(error, context)}"))
    usage = context.command.get_usage(context).removeprefix("Usage: ")
    say(f"usage: {' '.join(usage.split())} (--help has the options)")


def _reason(error: click.UsageError, context: click.Context) -> str:
    """Return the reason in our words. It quotes no value of an option that does not exist: it may be a token."""
    match error:
        case click.NoSuchOption():
            return f"there is no option {error.option_name}{_nearest_option(error.option_name, context)}"
        case click.MissingParameter(param=click.Parameter() as param):
            value = f" {param.make_metavar(context)}" if isinstance(param, click.Option) else ""
            return f"{_name(param)}{value} is missing"
        case click.BadParameter(param=click.Parameter() as param):
            return f"{_name(param)}: {error.message}"
        case click.BadOptionUsage():
            found = (each for each in context.command.params if error.option_name in each.opts)
            values = [each.make_metavar(context) for each in found] or ["VALUE"]
            return f"{error.option_name} needs a value: {error.option_name} {values[0]}"
        case _:
            pass
    if "unexpected extra" not in error.message:
        return error.format_message()
    if context.info_name == "login":  # it may be the token
        return "it takes no argument: it asks for the token, or reads it with --token-stdin"
    names = {each.name for each in context.command.params if not context.params.get(each.name or "")}
    hint = "--profile NAME" if context.info_name == "logout" else ""
    hint = "MODEL/RESOURCE" if context.info_name == "export" else hint
    hint = hint or next((text for name, text in _INSTEAD.items() if name in names), "")
    return error.format_message() + (f"; write {hint}" if hint else "")


# Options that a surplus argument may be the value of.
_INSTEAD: Final = {
    "account": "-a ID for the account",
    "accounts": "-a ID for the account",
    "meeting": "--meeting ID for the meeting",
    "method": "-m NAME for a method, such as -m meta",
    "to": "--out FOLDER for the folder",
}


def _nearest_option(name: str, context: click.Context) -> str:
    names = [each for param in context.command.get_params(context) for each in param.opts]
    is_before = context.parent is None
    other = RENAMED.get(name, "")
    if other.partition(" ")[0] in names and not is_before:
        return f"; write {other}"
    if nearest := did_you_mean(name, [each for each in names if each[:2] == "--"]):
        return nearest
    return "; options of a command go after its name: truto-ci COMMAND -a ..." if is_before else ""


def _name(param: click.Parameter) -> str:
    return max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name
