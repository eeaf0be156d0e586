"""Makes the sink for a format."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

from truto_ci_async._files import Disk, Step, no_step
from truto_ci_async.errors import UsageError

from .files import FileSink
from .lines import CsvSink, NdjsonSink
from .parquet import ParquetSink

OutputFormat: TypeAlias = Literal["ndjson", "csv", "parquet"]


def make_sink(
    format: OutputFormat, directory: str | os.PathLike[str], *, fresh: bool = False, step: Step = no_step
) -> FileSink:
    """Return the sink for a format; arguments are those of ``FileSink``.

    :raises UsageError: an unknown format.
    :raises MissingExtraError: ``parquet`` without pyarrow.
    """
    kinds: dict[str, type[FileSink]] = {kind.format: kind for kind in (NdjsonSink, CsvSink, ParquetSink)}
    if format not in kinds:
        raise UsageError(f"format is one of {', '.join(kinds)}, not {format!r}")
    return kinds[format](directory, fresh=fresh, disk=Disk(step))
