"""``truto-ci``: the package from a shell. Parse, call the library, print; data on stdout, all else on stderr.

``main`` turns whatever happens into an exit code. Below it come the commands, each a coroutine function that takes the
parsed options and a ``Progress``, and keeps the latter up to date: an interruption or an error at any point can then
say how to go on. A new command is one such function, its line in ``COMMANDS``, and its options in ``_arguments``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from truto_ci_async.errors import (
    AccountBlockedError,
    AuthenticationError,
    BadRequestError,
    BodyTooLargeError,
    ConfigurationError,
    ConnectError,
    CursorExpiredError,
    CursorLoopError,
    DamagedStateError,
    DeadlineError,
    DecodeError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ReconnectRequiredError,
    ServerError,
    StateConflictError,
    StorageError,
    TransportError,
    TrutoError,
    UsageError,
)

from .arguments import (
    CONFLICT,
    DONE,
    FAILED,
    INCOMPLETE,
    INTERACTIONS,
    INTERRUPTED,
    REFUSED,
    SANDBOX_SEED,
    SOME_FAILED,
    TERMINATED,
    USAGE,
    build_parser,
    read_query,
)
from .output import writers as shapes
from .output.destinations import ClosedPipe, Output, Stdout, open_target
from .output.writers import CsvWriter, DocumentWriter, TableWriter, Writer, debug_document, make_writer

if TYPE_CHECKING:
    from truto_ci_async._wire import Filters
    from truto_ci_async.client import TrutoClient
    from truto_ci_async.events import Event
    from truto_ci_async.models import IntegratedAccount, Page
    from truto_ci_async.paginator import Paginator
    from truto_ci_async.sandbox import Sandbox
    from truto_ci_async.streams import ItemStream

# A sandbox for a pull has accounts and pages enough to see something, and the service's limits on a tenth of the time.
PULL_SANDBOX: Final[Mapping[str, Any]] = {
    "accounts": 24,
    "page_size": 25,
    "token_rate": (500, 1.0),
    "account_rate": (50, 1.0),
}

# What a sandbox is asked when no window is given. A fixed month: the same line shows the same rows every day.
SANDBOX_WINDOW: Final = (date(2024, 1, 1), date(2024, 2, 1))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing is raised, and no traceback shown but with ``-vv``."""
    try:
        code = _main(argv)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stdout.flush()
    except (ClosedPipe, BrokenPipeError):
        code = DONE
        _forget_stdout()
    return code


def _main(argv: Sequence[str] | None) -> int:
    try:
        parser = build_parser()
        options = parser.parse_args(argv)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except SystemExit as stop:  # argparse has said what there is to say
        return stop.code if isinstance(stop.code, int) else USAGE
    if options.command is None:
        parser.print_help(sys.stderr)
        return USAGE
    progress = Progress()
    try:
        with _warnings_shown():
            return asyncio.run(_until_terminated(COMMANDS[options.command](options, progress))) or DONE
    except ClosedPipe:
        raise
    except KeyboardInterrupt:
        say("interrupted")
        code = INTERRUPTED
    except asyncio.CancelledError:
        say("terminated")
        code = TERMINATED
    except Exception as error:  # noqa: BLE001 - the last line of defence: a plain line, whatever it is
        code = exit_code(error, progress)
        say(f"truto-ci: {describe(error)}")
        if advice := advise(error):
            say(f"  {advice}")
        if options.verbose > 1:
            say("".join(traceback.format_exception(error)).rstrip())
        if code == USAGE or isinstance(error, (CursorExpiredError, CursorLoopError)):
            progress.position = None  # going on from there leads nowhere
    progress.tell_what_is_left()
    return code


async def _until_terminated(work: Coroutine[Any, Any, int | None]) -> int | None:
    """Do ``work``; SIGTERM cancels it, as asyncio's runner does for Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError, RuntimeError, ValueError):  # on Windows, or outside the main thread
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _forget_stdout() -> None:
    """Let the interpreter's own flush at exit go nowhere: the reader is gone, and it would complain."""
    with suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def say(line: str) -> None:
    """Tell something on stderr."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _warnings_shown() -> Generator[None]:
    """Show the library's warnings, such as of repaired fields, on stderr."""
    handler = _OnStderr()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("truto_ci_async")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _OnStderr(logging.Handler):
    """Writes to what stderr is at the moment: a live display puts a stream of its own in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


# --- what happened, and what to do about it --------------------------------------------------------------------


def exit_code(error: BaseException, progress: Progress) -> int:
    if isinstance(error, (UsageError, ConfigurationError)):
        return USAGE
    if isinstance(error, (AuthenticationError, ReconnectRequiredError, PermissionDeniedError)):
        return REFUSED
    if isinstance(error, (StateConflictError, DamagedStateError)):
        return CONFLICT
    if isinstance(error, StorageError):
        return INCOMPLETE
    if (progress.pages or progress.items) and isinstance(
        error, (TransportError, RateLimitError, ServerError)
    ):
        return INCOMPLETE
    return FAILED


def describe(error: BaseException) -> str:
    if isinstance(error, TrutoError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
    return f"unexpected {type(error).__name__}: {error} (-vv shows where)"


def advise(error: BaseException) -> str | None:
    """Say what the reader of an error can do; None when the error says it itself."""
    match error:
        case ConfigurationError() if "no API token" in error.message:
            return "export TRUTO_API_TOKEN=..., or try --sandbox, which needs none"
        case AuthenticationError():
            return "check the token: it belongs to one environment, and an account's own lives 15 minutes"
        case ReconnectRequiredError():
            return "the owner of the account must reconnect it; trying again does not help"
        case PermissionDeniedError(missing_scopes=scopes) if scopes:
            return f"missing scopes: {', '.join(scopes)}; the owner of the account can grant them"
        case PermissionDeniedError():
            return "neither the token nor the connection allows this"
        case NotFoundError():
            return "`truto-ci accounts` lists the accounts, `truto-ci capabilities ID` what one offers"
        case BadRequestError():
            return "change the request; -v shows it"
        case RateLimitError(retry_after=float() | int() as seconds):
            return f"wait {seconds:g} s, then run it again"
        case RateLimitError():
            return "wait a while, then run it again"
        case AccountBlockedError():
            return "Truto has blocked this account: ask its support"
        case ServerError(status=status) if status < 400:
            return "check --api-url"
        case DeadlineError():
            return "--timeout SECONDS gives it longer"
        case ConnectError():
            return f"check the network, and --api-url ({_plural(error.attempts, 'attempt')})"
        case ServerError() | TransportError():
            return f"trying again later is safe ({_plural(error.attempts, 'attempt')})"
        case DecodeError() if "path=" in error.message:
            return "--format stream --path KEY says where the items are"
        case DecodeError():
            return "check --api-url; --format raw shows JSON of any shape"
        case BodyTooLargeError():
            return "--limit N asks for smaller pages"
        case CursorExpiredError():
            return "run it without --next-cursor: the window has to start again"
        case CursorLoopError():
            return "the service is at fault; tell its support"
        case _:
            return None


class Progress:
    """How far a command has come, for its last lines on stderr. A page counts once it is written."""

    def __init__(self) -> None:
        self.noun = "item"
        self.items = 0
        self.pages = 0
        self.position: object = None  # where to go on; None at the beginning, and at the end
        self.repeated = 0  # items written that come again when one goes on from there
        self.more = "there is more"
        self.output: Output | None = None

    def add(self, items: int, position: object, *, repeated: int = 0) -> None:
        self.items += items
        self.pages += 1
        self.position = position
        self.repeated = repeated

    def tell_end(self) -> None:
        """Say what was written by a command that did what it was asked to."""
        say(self._written())
        if self.position is not None:
            say(f"{self.more}{self._repeating()}; to go on, add: {_resuming(self.position)}")
        elif self.repeated:
            say(f"{self.more} on this first page: raise --max-items")

    def tell_what_is_left(self) -> None:
        """Say what was written by a command that could not finish, and how to go on."""
        if self.pages or self.items:
            say(f"complete so far: {self._written()}")
        if self.position is not None:
            say(f"to go on{self._repeating()}, add: {_resuming(self.position)}")

    def _repeating(self) -> str:
        return f" (it begins with {self.repeated:,} written above)" if self.repeated else ""

    def _written(self) -> str:
        file = self.output.file if self.output else None
        counts = _plural(self.items, self.noun)
        if self.pages or not self.items:
            counts += f", {_plural(self.pages, 'page')}"
        return counts if file is None else f"{counts}, in {file}"


def _resuming(position: object) -> str:
    """Write the option that goes on from a position, or from a cursor, whatever characters it is made of."""
    text = str(position)
    return f"--next-cursor{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# --- the commands ----------------------------------------------------------------------------------------------


async def interactions(options: argparse.Namespace, progress: Progress) -> None:
    """``interactions`` and ``unified``: one walk, written page by page."""
    is_typed = (options.model, options.resource) == INTERACTIONS and options.path is None
    shape = shapes.INTERACTIONS if is_typed else shapes.ANYTHING
    progress.noun = "interaction" if is_typed else "item"
    defaults = {"raw": "json", "debug": "json", "stream": "ndjson"}
    format = options.output or ("json" if options.key_by else defaults.get(options.format, "table"))
    _check_list(options, format)
    options.extra_query = read_query(options.query, options.query_json)
    writer = (
        DocumentWriter(format) if options.key_by else make_writer(format, shape, to_file=_is_file(options))
    )
    async with _connected(options) as client:
        with _written(options, writer, progress) as output:
            if options.key_by:
                await _keyed(client, options, output, progress)
            elif options.format == "raw":
                await _raw(client, options, output, progress)
            elif options.format == "stream":
                await _stream(client, options, output, progress, in_rows=format in ("table", "csv"))
            else:
                await _list(client, options, output, progress, in_rows=format in ("table", "csv"))
    progress.tell_end()


def _check_list(options: argparse.Namespace, format: str) -> None:
    """:raises UsageError: options that do not go together."""
    if options.path is not None and options.format != "stream":
        raise UsageError("--path goes with --format stream")
    if options.key_by and options.format == "stream":
        raise UsageError("--key-by gathers everything in memory, which --format stream is there to avoid")
    if options.key_by:
        if format not in ("json", "yaml"):
            raise UsageError(
                f"--key-by gives one object: -o json and -o yaml can hold it, -o {format} cannot"
            )
        if options.next_cursor or options.max_items:
            given = "--next-cursor" if options.next_cursor else "--max-items"
            raise UsageError(f"--key-by gathers whole pages from the beginning: leave out {given}")
    if options.format == "raw":
        if options.key_by or options.max_items:
            given = "--key-by" if options.key_by else "--max-items"
            raise UsageError(
                f"--format raw does not look at items, as {given} must; --max-pages counts pages"
            )
        if format in ("table", "csv"):
            raise UsageError(f"--format raw has no rows for -o {format}: take json, ndjson or yaml")


async def _list(
    client: TrutoClient, options: argparse.Namespace, output: Output, progress: Progress, *, in_rows: bool
) -> None:
    from msgspec import Raw

    from truto_ci_async.models import Interaction

    # Rows are made of typed items; the other formats pass on what the service sent, with every field it has.
    item_type: Any = Raw
    if in_rows:
        item_type = Interaction if (options.model, options.resource) == INTERACTIONS else dict
    paginator = client.unified(options.model, options.resource).list(
        options.account,
        item_type=item_type,
        response_format=options.format,
        cursor=options.next_cursor,
        prefetch=_prefetch(options),
        max_pages=options.max_pages,
        **_filters(options),
    )

    def with_debug(page: Page[Any], items: Sequence[Any]) -> Sequence[Any]:
        document = debug_document(page.debug)
        if in_rows:
            say(f"debug: {json.dumps(document, ensure_ascii=False)}")
            return items
        return [{"result": items, "next_cursor": page.next_cursor, "debug": document}]

    if options.format == "debug":
        say(
            "values of requestOptions and responseHeaders show as ***: they can hold the provider's credentials"
        )
    await _walk(paginator, options, output, progress, with_debug if options.format == "debug" else None)


async def _raw(client: TrutoClient, options: argparse.Namespace, output: Output, progress: Progress) -> None:
    from msgspec import Raw

    progress.noun = "document"
    progress.position = options.next_cursor
    pages = client.unified(options.model, options.resource).raw(
        options.account, cursor=options.next_cursor, max_pages=options.max_pages, **_filters(options)
    )
    async for page in pages:
        output.page([page.json(Raw)])
        progress.add(1, page.next_cursor)


async def _stream(
    client: TrutoClient, options: argparse.Namespace, output: Output, progress: Progress, *, in_rows: bool
) -> None:
    """Write items as they come in; one stream goes over all pages, or over one at a time to count them."""
    from msgspec import Raw

    from truto_ci_async.models import Interaction

    item_type: Any = Raw
    if in_rows:
        is_typed = (options.model, options.resource) == INTERACTIONS and options.path is None
        item_type = Interaction if is_typed else dict
    progress.position = options.next_cursor
    cursor: Any = options.next_cursor
    while True:
        stream = client.unified(options.model, options.resource).stream(
            options.account,
            item_type=item_type,
            path=options.path or "result",
            cursor=cursor,
            follow_cursor=options.max_pages is None,
            **_filters(options),
        )
        async with stream:
            await _pour(stream, options, output, progress)
        is_enough = options.max_items is not None and progress.items >= options.max_items
        if is_enough or progress.position is None or progress.pages == options.max_pages:
            return
        cursor = progress.position


async def _pour(
    stream: ItemStream[Any], options: argparse.Namespace, output: Output, progress: Progress
) -> None:
    """Write one stream, and keep ``progress`` true however it ends."""
    start, pages_before = progress.position, progress.pages
    progress.position = stream.position
    try:
        async for batch in stream.batches():
            if progress.pages != pages_before + stream.pages_read:
                progress.pages, progress.repeated = pages_before + stream.pages_read, 0
            items = batch if options.max_items is None else batch[: options.max_items - progress.items]
            output.page(items)
            progress.items += len(items)
            progress.repeated += len(items)
            if progress.items == options.max_items:
                progress.more = "there may be more"
                break
    finally:
        progress.position = stream.position
        if progress.pages != pages_before + stream.pages_read:
            progress.pages, progress.repeated = pages_before + stream.pages_read, 0
        is_first = not stream.pages_read
        if is_first and (not progress.repeated or progress.items == options.max_items):
            progress.position = start  # to go on from its beginning would be to start again
    if stream.envelope.get("is_partial_response"):
        say("warning: the service calls this a partial response")


async def _keyed(
    client: TrutoClient, options: argparse.Namespace, output: Output, progress: Progress
) -> None:
    from msgspec import Raw

    found = await client.unified(options.model, options.resource).keyed(
        options.account,
        key_by=options.key_by,
        item_type=Raw,
        response_format=options.format,
        max_pages=options.max_pages,
        **_filters(options),
    )
    output.page([found])
    progress.items, progress.pages = len(found), found.pages
    for issue in found.issues:
        say(f"warning: {issue.path}: {issue.message}")


async def pull(options: argparse.Namespace, progress: Progress) -> int:
    """``pull``: many accounts into a folder. Progress and summary go to stderr, rows and the report to files."""
    from . import pull_progress as command

    del progress  # what there is to say about a pull is in its report
    command.check_report_path(options.report)
    extra_query = read_query(options.query, options.query_json)
    accounts = _accounts_to_pull(options)
    watch = command.Watch()
    code = FAILED
    ended_by: BaseException | None = None
    interruptions = command.Interruptions(watch, say)
    try:
        with interruptions:
            async with _connected(options, watch.see, PULL_SANDBOX) as client:
                with command.Shown(watch, say):
                    report = await client.interactions.pull_to(
                        options.out,
                        accounts,
                        format=options.format,
                        max_accounts=options.max_accounts,
                        grow=options.grow,
                        fresh=options.fresh,
                        on_start=watch.begin,
                        integration=options.integration,
                        status=options.status,
                        start_time=options.start_time,
                        end_time=options.end_time,
                        window=options.window,
                        users=options.users or None,
                        limit=options.limit,
                        exclude_fields=options.exclude_fields or None,
                        ignore_remote_data=options.ignore_remote_data or None,
                        extra_query=extra_query,
                    )
        code = DONE if report.complete else SOME_FAILED if report.failed else INCOMPLETE
    except asyncio.CancelledError:
        if interruptions.first is None:
            raise
    except Exception as error:
        code, ended_by = exit_code(error, Progress()), error
        raise
    finally:
        if interruptions.first is not None and code != DONE:
            code = INTERRUPTED if interruptions.first == signal.SIGINT else TERMINATED
        for line in command.summary(watch, options.out, advise):
            say(line)
        if options.report:
            try:
                command.write_report(
                    options.report, watch, ended_by, out=options.out, format=options.format, exit_code=code
                )
            except OSError as failed:  # how the pull itself went is what the exit code is about
                say(f"the report cannot be written: {failed}")
        ended_by = None  # an error, its frames and this one would be a cycle
    if code != DONE:
        without = " without --fresh, which begins anew," if options.fresh else ""
        say(f"run the same line again{without} to go on")
    return code


def _accounts_to_pull(options: argparse.Namespace) -> list[str] | Path | None:
    """:raises UsageError: none are named, or in two ways."""
    given = [
        name for name in ("accounts", "accounts_file", "integration", "status") if getattr(options, name)
    ]
    if not given and options.sandbox:
        options.integration, options.status = "gong", "active"
    elif not given:
        raise UsageError("say which accounts: --accounts, --accounts-file, or --integration and --status")
    elif len(given) > 1 and given != ["integration", "status"]:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names} name accounts in different ways: take one")
    if options.accounts is not None:
        return [each for part in options.accounts.split(",") if (each := part.strip())]
    return Path(options.accounts_file) if options.accounts_file else None


async def accounts(options: argparse.Namespace, progress: Progress) -> None:
    """``accounts``: the connected accounts."""
    progress.noun = "account"
    format = options.output or "table"
    writer = make_writer(format, shapes.ACCOUNTS, to_file=_is_file(options))
    # A dot is part of a name here: `integration.name` is one parameter.
    extra_query = read_query(options.query, options.query_json, dots_nest=False)

    def without_context(page: Page[IntegratedAccount], items: Sequence[IntegratedAccount]) -> Sequence[Any]:
        documents = [account.to_dict() for account in items]
        for document in documents:
            del document["context"]  # it can hold the customer's secrets
        return documents

    async with _connected(options) as client:
        paginator = client.integrated_accounts.list(
            options.integration,
            options.status,
            options.tenant_id,
            None if options.is_sandbox is None else options.is_sandbox == "true",
            limit=options.limit,
            cursor=options.next_cursor,
            extra_query=extra_query,
            prefetch=_prefetch(options),
            max_pages=options.max_pages,
        )
        documents = None if format in ("table", "csv") else without_context
        with _written(options, writer, progress) as output:
            await _walk(paginator, options, output, progress, documents)
    progress.tell_end()


async def capabilities(options: argparse.Namespace, progress: Progress) -> None:
    """``capabilities``: what one account offers."""
    from msgspec import to_builtins

    format = options.output or "table"
    is_document = format in ("json", "yaml")
    writer = (
        DocumentWriter(format)
        if is_document
        else make_writer(format, shapes.CAPABILITIES, to_file=_is_file(options))
    )
    async with _connected(options) as client:
        if options.account is None:
            raise UsageError("capabilities takes the ID of an account: `truto-ci accounts` lists them")
        found = await client.integrated_accounts.capabilities(options.account)
    with _written(options, writer, progress) as output:
        output.page([to_builtins(found)] if is_document else found.unified)
    blocked = {True: "blocked", False: "not blocked", None: "unknown whether blocked"}[found.is_blocked]
    say(f"account {found.account_id or options.account}: {found.status or 'status unknown'}, {blocked}")


async def sandbox(options: argparse.Namespace, progress: Progress) -> None:
    """``sandbox``: serve until interrupted, or for the time given."""
    from truto_ci_async.sandbox import run

    def ready(running: Sandbox) -> None:
        values = {"TRUTO_API_BASE_URL": running.url, "TRUTO_API_TOKEN": running.token}
        values |= {f"ACCOUNT_{number}": each for number, each in enumerate(running.account_ids, 1)}
        Stdout().write("".join(f"export {name}={value}\n" for name, value in values.items()).encode())
        window = f"--start-time {SANDBOX_WINDOW[0]} --end-time {SANDBOX_WINDOW[1]}"
        say(f"paste these into another terminal, then: truto-ci interactions -a $ACCOUNT_1 {window}")
        end = f"for {options.seconds:g} s" if options.seconds else "until Ctrl-C"
        say(f"serving made-up data, to this machine only, {end}")

    with suppress(TimeoutError):
        async with asyncio.timeout(options.seconds):
            await run(
                options.port,
                ready=ready,
                accounts=options.accounts,
                interactions=options.interactions,
                seed=options.seed,
            )


COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace, Progress], Coroutine[Any, Any, int | None]]]] = {
    "interactions": interactions,
    "pull": pull,
    "accounts": accounts,
    "capabilities": capabilities,
    "sandbox": sandbox,
}


# --- what commands share ---------------------------------------------------------------------------------------


@asynccontextmanager
async def _connected(
    options: argparse.Namespace,
    see: Callable[[Event], None] | None = None,
    sandbox_options: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncGenerator[TrutoClient]:
    """Open a client. With ``--sandbox`` it is a sandbox's, which also fills in what may be left out then.

    ``see`` is shown every event. Limits among ``sandbox_options`` are kept by both sides.
    """
    from truto_ci_async import Pacing, Rate, Timeouts, TrutoClient

    timeouts, seconds = Timeouts(), options.timeout
    if seconds is not None:
        timeouts = Timeouts(connect=min(seconds, 10), read=seconds, attempt=seconds, total=seconds)
    hooks = [hook for hook in (see, _show_event if options.verbose else None) if hook is not None]

    def tell_all(event: Event) -> None:
        for hook in hooks:
            hook(event)

    on_event = tell_all if hooks else None
    if not options.sandbox:
        async with TrutoClient(
            options.token, base_url=options.api_url, timeouts=timeouts, on_event=on_event
        ) as client:
            yield client
        return
    if options.token or options.api_url:
        raise UsageError("--sandbox has a token and an address of its own: leave out --token and --api-url")
    from truto_ci_async.sandbox import Sandbox

    pacing = Pacing()
    if "token_rate" in sandbox_options:
        pacing = Pacing(
            token=Rate(*sandbox_options["token_rate"]), account=Rate(*sandbox_options["account_rate"])
        )
    async with Sandbox(seed=SANDBOX_SEED, **sandbox_options) as running:
        _fill_in(options, running)
        async with TrutoClient(
            running.token, base_url=running.url, timeouts=timeouts, pacing=pacing, on_event=on_event
        ) as client:
            yield client


def _fill_in(options: argparse.Namespace, running: Sandbox) -> None:
    """Put in the first account and a window where none is given, and say so."""
    notes: list[str] = []
    if "account" in options and options.account is None:
        options.account = running.account_ids[0]
        notes.append(f"account {options.account}")
    if options.command == "pull" or getattr(options, "model", None) == INTERACTIONS[0]:
        # That store needs no window.
        is_synced = "truto_super_query" in (getattr(options, "extra_query", None) or {})
        if options.start_time is None and options.end_time is None and not is_synced:
            options.start_time, options.end_time = SANDBOX_WINDOW
            notes.append(f"window {SANDBOX_WINDOW[0]} to {SANDBOX_WINDOW[1]}")
    say(f"sandbox, made-up data{': ' if notes else ''}{', '.join(notes)}")


def _show_event(event: Event) -> None:
    say(f"- {event}")


def _filters(options: argparse.Namespace) -> Filters:
    return {
        "start_time": options.start_time,
        "end_time": options.end_time,
        "users": options.users,
        "limit": options.limit,
        "exclude_fields": options.exclude_fields,
        "ignore_remote_data": options.ignore_remote_data,
        "extra_query": options.extra_query,
    }


def _prefetch(options: argparse.Namespace) -> int:
    """Fetch ahead, unless the walk breaks off where only its items tell: no page is fetched in vain."""
    return 1 if options.max_items is None else 0


def _is_file(options: argparse.Namespace) -> bool:
    return options.out not in (None, "-")


@contextmanager
def _written(options: argparse.Namespace, writer: Writer, progress: Progress) -> Generator[Output]:
    """Open what ``--out`` names, or stdout; afterwards, tell of fields that had no place in rows."""
    with Output(writer, open_target(options.out)) as output:
        progress.output = output
        yield output
    if isinstance(writer, (CsvWriter, TableWriter)) and writer.left_out:
        say(f"not shown: {', '.join(writer.left_out)} (-o json has everything)")


async def _walk(
    paginator: Paginator[Any],
    options: argparse.Namespace,
    output: Output,
    progress: Progress,
    documents: Callable[[Page[Any], Sequence[Any]], Sequence[Any]] | None = None,
) -> None:
    """Write page after page; each is out before the next one is waited for."""
    left: int | None = options.max_items
    progress.position = options.next_cursor
    async for page in paginator.pages():
        items: Sequence[Any] = page.items if left is None else page.items[:left]
        output.page(items if documents is None else documents(page, items))
        if page.is_partial_response:
            say("warning: the service calls this a partial response")
        if len(items) < len(page.items):  # the service cannot start inside a page, so this one comes again
            progress.add(len(items), progress.position, repeated=len(items))
            break
        progress.add(len(items), page.position)
        if left is not None:
            left -= len(items)
            if not left:
                break
