"""Exit codes, and what the command line prints on stderr: errors, advice, and how to continue."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from truto_ci_async import errors
from truto_ci_async._text import printable
from truto_ci_async.cli.output import status_line

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
  0    done (also when the reader of a pipe stops reading)
  1    failed, or the packages of the cli extra are not installed
  2    wrong usage: the command line, or no token
  3    refused: another token is needed, or the account's owner must reconnect it or grant rights
  4    incomplete: some pages were written before the service, network or disk failed; stderr says how to continue
  130  interrupted by Ctrl-C (143: by SIGTERM or the end of its terminal); stderr says how to continue
"""
PULL_EXIT_CODES: Final = """\
exit codes:
  0    done: every account was pulled to the end
  1    failed
  2    wrong usage: the command line, or no token
  3    refused: another token is needed
  4    incomplete: some accounts are parked until the service accepts requests again, or storage failed; run it again
  5    some accounts failed; the others are done or parked
  6    conflict: the folder or table is in use by another run, belongs to another pull, or was altered
  130  interrupted by Ctrl-C (143: by SIGTERM or the end of its terminal); run it again to continue
"""


_quiet = False


def be_quiet(wanted: bool) -> None:
    """Show no notes and no progress, until told otherwise."""
    global _quiet
    _quiet = wanted


def is_quiet() -> bool:
    return _quiet


def note(line: str) -> None:
    """Print a line that a command which succeeds can do without, unless told to be quiet."""
    if not _quiet:
        say(line)


def say(line: str) -> None:
    """Print one line on stderr, without characters that control a terminal. A closed stderr is ignored."""
    status_line.hide()
    with suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def exit_code(error: BaseException, *, is_partly_done: bool = False) -> int:
    match error:
        case errors.UsageError() | errors.ConfigurationError():
            return USAGE
        case errors.AuthenticationError() | errors.ReconnectRequiredError() | errors.PermissionDeniedError():
            return REFUSED
        case errors.StateConflictError() | errors.DamagedStateError():
            return CONFLICT
        case errors.StorageError():
            return INCOMPLETE
        case errors.TransportError() | errors.RateLimitError() | errors.ServerError() | OSError() if (
            is_partly_done
        ):
            return INCOMPLETE
        case _:
            return FAILED


def describe(error: BaseException, option_names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return what happened. ``option_names`` are the options that stand for arguments in Python."""
    if _has_no_token(error):
        return "no API token"
    if isinstance(error, errors.UsageError | errors.ConfigurationError):
        return in_options(str(error), {"base_url": "--api-url", **option_names})
    if isinstance(error, errors.StateConflictError | errors.StorageError):
        return given_in_options(str(error), option_names)
    if isinstance(error, errors.TrutoError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
    return f"unexpected {type(error).__name__}: {error} (-vv shows where)"


def in_options(message: str, option_names: Mapping[str, str]) -> str:
    """Name options in a message about arguments: ``fresh=True`` is ``--fresh``, ``csv_formulas`` ``--csv-formulas``.

    A name of one word is one of English too, so it is taken for an argument only before ``=`` or at the beginning.
    """

    if " column " in message:  # the names in it are those of columns
        return message

    def named(match: re.Match[str]) -> str:
        return option_names.get(match[0], match[0])

    message = given_in_options(message, option_names)
    words = r"(?<![\w/-])(?:[a-z]+(?:_[a-z]+)+)(?![\w=-])|^[a-z]+(?=:| (?:is|has|must)\b)"
    message = re.sub(words, named, message)
    return re.sub(r"(--[a-z-]+) \(\1\)", r"\1", message)  # where the library names the option as well


def given_in_options(message: str, option_names: Mapping[str, str]) -> str:
    """Name options in a message that says to pass arguments: ``fresh=True`` is ``--fresh``."""

    def given(match: re.Match[str]) -> str:
        name, value = option_names.get(match[1]), match[2].strip("'\"")
        return match[0] if name is None else name if value == "True" else f"{name} {value}"

    return re.sub(r"\b(\w+)=('[^']*'|\"[^\"]*\"|[\w./:-]+)", given, message)


def advise(error: BaseException, option_names: Mapping[str, str]) -> str | None:
    """Return what to do about an error, or None when its own message says it. Other options are not named."""
    advice = (_advice(error) or "").split("; ")
    return "; ".join(each for each in advice if _options_in(each) <= set(option_names.values())) or None


def _options_in(text: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", text))


def _advice(error: BaseException) -> str | None:
    match error:
        case errors.ConfigurationError() if _has_no_token(error):
            return "`truto-ci login` stores one, or export TRUTO_API_TOKEN=...; --sandbox needs none"
        case errors.DeadlineError():
            return "--timeout SECONDS allows more time"
        case errors.ConnectError(attempts=0):  # to something else than the service
            return None
        case errors.ConnectError():
            return f"check the network and --api-url ({plural(error.attempts, 'attempt')})"
        case errors.ServerError(status=status) if status < 400:
            return "check --api-url"
        case errors.RateLimitError(retry_after=float() | int() as seconds):
            return f"wait {seconds:g} s, then run it again"
        case errors.PermissionDeniedError(missing_scopes=scopes) if scopes:
            return f"missing scopes: {', '.join(scopes)}; the account's owner can grant them"
        case errors.ServerError() | errors.TransportError():
            return f"it is safe to try again later ({plural(error.attempts, 'attempt')} so far)"
        case errors.BadRequestError() if missing := _missing_options(error):
            return f"add {' and '.join(missing)}"
        case errors.NotFoundError(is_remote=True):
            return "this comes from the connected product: check the id, or the window"
        case errors.DecodeError() if "path=" in error.message:
            return "--response-format stream --path KEY says where the items are"
        case _:
            return next((advice for kind, advice in _ADVICE.items() if isinstance(error, kind)), None)


def _has_no_token(error: BaseException) -> bool:
    return isinstance(error, errors.ConfigurationError) and "no API token" in error.message


_OPTIONS_FOR: Final = {
    "integrated_account_id": "-a ID (`truto-ci accounts` lists the accounts)",
    "start_time": "--start-time, such as -7d",
    "end_time": "--end-time, such as now",
}


def _missing_options(error: errors.BadRequestError) -> list[str]:
    """Return the options for the parameters that the service calls missing."""
    said = str(error)
    is_missing = "missing required query parameter" in said.casefold()
    return [option for name, option in _OPTIONS_FOR.items() if is_missing and name in said]


_ADVICE: Final[dict[type[errors.TrutoError], str]] = {
    errors.AuthenticationError: "check the token: it is valid in one environment, an account's own for 15 minutes",
    errors.ReconnectRequiredError: "the account's owner must reconnect it; trying again will not help",
    errors.PermissionDeniedError: "the token or the account's connection does not allow this",
    errors.NotFoundError: "`truto-ci accounts` lists the accounts, `truto-ci capabilities ID` shows what one supports",
    errors.BadRequestError: "change the request; -v shows it",
    errors.RateLimitError: "wait a while, then run it again",
    errors.AccountBlockedError: "Truto has blocked this account: contact its support",
    errors.DecodeError: "check --api-url; --response-format raw shows JSON of any shape",
    errors.BodyTooLargeError: "--limit N asks for smaller pages",
    errors.CursorExpiredError: "run it without --next-cursor to start the window again",
    errors.CursorLoopError: "this is an error of the service: report it to its support",
}


class Progress:
    """Counts what a command has written, and says how to continue. A page counts once it is written."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self.noun = "item"
        self.items = 0
        self.pages = 0
        self.position: object = None  # where to continue; None at the beginning and at the end
        self.repeated = 0  # items already written that come again when continuing from `position`
        self.more = "there is more"
        self.rest = ""  # what is missing although there is no position to continue from
        self.file: Path | None = None  # where the output is; None for stdout
        self.is_resumable = False  # the same command goes on with that file

    def add_page(self, items: int, position: object, *, repeated: int = 0) -> None:
        self.items += items
        self.pages += 1
        self.position = position
        self.repeated = repeated

    def say_done(self) -> None:
        """Say what a successful command wrote, and how to get more if it stopped at a limit."""
        note(self._written())
        if self.rest:
            say(f"warning: {self.rest}")
        if self.position is not None:
            note(f"{self.more}; {self._how_to_continue()}")
        elif self.repeated:
            note(f"{self.more} on this first page: raise --max-items")

    def say_unfinished(self) -> None:
        """Say what a command wrote before it failed, and how to continue."""
        if self.pages or self.items:
            say(f"complete so far: {self._written()}")
        if self.is_resumable and self.file is not None:
            say("run the same command again to continue")
        if self.position is not None:
            say(self._how_to_continue())

    def parts(self) -> list[str]:
        """Return what is said while a list is read."""
        if not self.items:
            return [f"no {self.noun} yet"]
        rate = self.items / max(self._clock() - self._started, 0.001)
        return [f"{plural(self.items, self.noun)} ({rate:,.0f}/s)", plural(self.pages, "page")]

    def _written(self) -> str:
        counts = plural(self.items, self.noun)
        if self.pages or not self.items:
            counts += f", {plural(self.pages, 'page')}"
        return counts if self.file is None else f"{counts}, in {self.file}"

    def _how_to_continue(self) -> str:
        """Say which option continues from the position, quoted for a shell: a cursor can be any text."""
        repeating = f" (it repeats the last {self.repeated:,})" if self.repeated else ""
        cursor = str(self.position)
        separator = "=" if cursor.startswith("-") else " "
        where = "" if self.file is None else ", in a file of another name"
        return f"to continue{repeating}{where}, add: --next-cursor{separator}{shlex.quote(cursor)}"
