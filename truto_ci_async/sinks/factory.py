"""Maps the name of an output format to its sink."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

from truto_ci_async._files import Disk, Step, no_step
from truto_ci_async.errors import UsageError

from .files import FileSink
from .lines import CsvSink, NdjsonSink
from .parquet import ParquetSink

OutputFormat: TypeAlias = Literal["ndjson", "csv", "parquet"]
SINKS: dict[str, type[FileSink]] = {sink.format: sink for sink in (NdjsonSink, CsvSink, ParquetSink)}


def make_sink(
    format: OutputFormat, directory: str | os.PathLike[str], *, fresh: bool = False, step: Step = no_step
) -> FileSink:
    """Create the sink for a format. The other arguments are those of ``FileSink``.

    :raises UsageError: the format is unknown.
    :raises MissingExtraError: the format is ``parquet`` and pyarrow is not installed.
    """
    if format not in SINKS:
        raise UsageError(f"format must be one of {', '.join(SINKS)}, not {format!r}")
    return SINKS[format](directory, fresh=fresh, disk=Disk(step))
