"""Where a list goes, and in which form: the format, the writer, the destination, and page after page into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from truto_ci_async.cli.output import writers
from truto_ci_async.cli.output.destinations import (
    Destination,
    Output,
    check_destination,
    earlier_output,
    is_plain_file,
    is_stdout,
    open_destination,
)
from truto_ci_async.cli.output.parquet import ParquetWriter, StagedParquet
from truto_ci_async.cli.output.resumable import ResumableFile, earlier_state, question_of
from truto_ci_async.cli.output.status_line import is_terminal
from truto_ci_async.cli.output.streams import open_pager
from truto_ci_async.cli.output.tables import RowLayout, TableWriter, terminal_table
from truto_ci_async.cli.output.writers import CsvWriter, KeyedWriter, Writer
from truto_ci_async.errors import UsageError

from .messages import Progress, note, plural, say
from .options import Options
from .resources import resource_command

if TYPE_CHECKING:
    from truto_ci_async.models import Page
    from truto_ci_async.pagination.paginator import Paginator

# The items of a page, and what to write for them.
Render = Callable[["Page[Any]", Sequence[Any]], Sequence[Any]]

_SUFFIXES: Final = {f".{each}": each for each in ("json", "ndjson", "csv", "yaml", "vtt", "parquet")} | {
    ".jsonl": "ndjson", ".yml": "yaml", ".txt": "text",
}  # fmt: skip


def format_of(options: Options, default: str, texts: Sequence[str] = ()) -> str:
    """Return what ``-o`` says, else the suffix of ``--out``, else ``default``. ``texts``: which formats of text fit.

    :raises UsageError: the suffix is of no format.
    """
    suffix = "" if is_stdout(options.out) else os.path.splitext(options.out)[1].lower()
    if suffix and suffix not in _SUFFIXES and not options.output and is_plain_file(options.out):
        raise UsageError(
            f"--out {options.out}: no format has the suffix {suffix}; use .csv, .json, .ndjson, .parquet or .yaml, "
            "for transcripts .txt or .vtt, or name the format with -o"
        )
    named = _SUFFIXES.get(suffix, default)
    format: str = options.output or (default if named in ("text", "vtt") and named not in texts else named)
    return format


def writer_for(options: Options, format: str, layout: RowLayout, *, is_document: bool = False) -> Writer:
    """Return the writer for ``-o``. ``is_document``: JSON and YAML of one item, instead of a list.

    :raises MissingExtraError: YAML without PyYAML.
    :raises UsageError: the format lacks an option, or is for other items or places.
    """
    if options.csv_formulas != "keep" and format != "csv":
        raise UsageError(f"--csv-formulas is for csv, not for {format}")
    match format:
        case "json" | "yaml" if is_document:
            return writers.DocumentWriter(format)
        case "json":
            return writers.JsonWriter()
        case "ndjson":
            return writers.NdjsonWriter()
        case "csv":
            return CsvWriter(layout, options.csv_formulas)
        case "yaml":
            return writers.YamlWriter()
        case "parquet":
            if layout.schema is None:
                raise UsageError("-o parquet needs typed columns, which these items lack: use csv or ndjson")
            if is_stdout(options.out) and is_terminal(sys.stdout):
                raise UsageError("-o parquet is binary: give --out FILE, or pipe it somewhere")
            return ParquetWriter(layout.schema)
        case "text" | "vtt":
            return writers.TranscriptWriter(format, is_titled=len(getattr(options, "meeting", ())) > 1)
        case _ if is_stdout(options.out):
            return terminal_table(layout, color=not options.no_color)
        case _:
            return TableWriter(layout)


@contextmanager
def open_output(
    options: Options, writer: Writer, progress: Progress, *, resumes: bool = False
) -> Generator[Output]:
    """Open the destination of ``--out``; afterwards, name the fields that had no column.

    With ``resumes``, a file goes on with what an earlier run of the same command left.

    :raises UsageError: nothing can be written there, or the beginning of what this run continues would be lost.
    """
    destination: Destination | None = None
    if is_stdout(options.out):
        destination = None if options.no_pager else open_pager()
    else:
        check_destination("--out", options.out)
        resumes = resumes and is_plain_file(options.out)
        question = _question(options) if resumes else ""
        earlier = earlier_output(options.out) if options.next_cursor else None
        if earlier and not (resumes and earlier_state(Path(os.path.realpath(options.out)), question)):
            raise UsageError(
                f"with --next-cursor the pages before it are left out, and {earlier} may hold them: write the rest to "
                "a file of another name, or move that one away"
            )
        if resumes and isinstance(writer, ParquetWriter):
            writer = StagedParquet(writer)
        elif isinstance(writer, KeyedWriter):
            writer.is_staged = resumes
        try:
            destination = (
                ResumableFile(Path(options.out), question, getattr(writer, "convert", None))
                if resumes
                else open_destination(options.out)
            )
        except (PermissionError, FileNotFoundError) as error:
            raise UsageError(f"--out {options.out} cannot be written there: {error.strerror}") from error
    output = Output(writer, destination or open_destination(options.out))
    if isinstance(destination, ResumableFile):
        _go_on(options, destination, output, writer, progress)
    try:
        with output:
            yield output
    finally:
        progress.file = output.file
    if isinstance(writer, (CsvWriter, TableWriter)) and writer.left_out:
        note(f"not shown: {', '.join(writer.left_out)} (-o json has everything)")
    if isinstance(writer, TableWriter) and writer.hidden:
        is_known = "columns" in options.option_names and resource_command(options.model, options.resource)
        picks = ", --columns picks some" if is_known else ""
        note(f"no room for {', '.join(writer.hidden)}: -o csv shows all{picks}")


def _question(options: Options) -> str:
    others = ("out", "no_pager", "option_names", "usual", "token", "timeout", "verbose", "quiet", "no_color")
    return question_of({name: value for name, value in vars(options).items() if name not in others})


def _go_on(options: Options, file: ResumableFile, output: Output, writer: Writer, progress: Progress) -> None:
    """Go on behind the pages that are in the file."""
    progress.is_resumable = True
    state = file.state
    if not state.pages:
        return
    note(f"going on behind {plural(state.items, progress.noun)} in {file.partial}")
    if isinstance(writer, KeyedWriter):
        writer.load(file.partial)
    else:
        writer.state = state.writer
    options.next_cursor, output.lists_done = state.position, state.lists
    progress.items, progress.pages, progress.position = state.items, state.pages, state.position
    progress.items_before = state.items
    if options.max_pages is not None and not state.lists:
        options.max_pages -= state.pages


async def write_pages(
    paginator: Paginator[Any],
    options: Options,
    output: Output,
    progress: Progress,
    render: Render | None = None,
) -> None:
    """Write page after page, each before waiting for the next one; ``render`` turns its items into what is written."""
    most = options.max_items
    progress.begin(options.next_cursor)
    async for page in paginator.pages():
        items: Sequence[Any] = page.items if most is None else page.items[: most - progress.items]
        output.page(items if render is None else render(page, items))
        if page.is_partial_response:
            say("warning: the service calls this a partial response")
        if len(items) < len(page.items):  # the service cannot start inside a page, so this one comes again
            progress.add_page(len(items), progress.position, repeated=len(items))
        else:
            progress.add_page(len(items), page.position)
        output.commit(progress, is_complete=progress.is_over(options.max_items, options.max_pages))
        if progress.items == most:
            break


def prefetch(options: Options) -> int:
    """Fetch one page ahead, but none with ``--max-items``: it might not be needed."""
    return 1 if options.max_items is None else 0
