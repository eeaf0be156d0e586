"""Maps the name of an output format to its sink."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

from truto_ci_async._files import Disk, Step, no_step
from truto_ci_async.errors import UsageError

from .files import FileSink, SinkOptions
from .lines import CsvSink, NdjsonSink
from .parquet import PART_SECONDS, ParquetSink
from .rows import CsvFormulas

OutputFormat: TypeAlias = Literal["ndjson", "csv", "parquet"]
SINKS: dict[str, type[FileSink]] = {sink.format: sink for sink in (NdjsonSink, CsvSink, ParquetSink)}


def make_sink(
    format: OutputFormat,
    directory: str | os.PathLike[str],
    *,
    resource: str = "interactions",
    fresh: bool = False,
    csv_formulas: CsvFormulas = "keep",
    part_seconds: float | None = None,
    step: Step = no_step,
) -> FileSink:
    """Create the sink for a format. The other arguments are those of ``FileSink``, ``CsvSink`` and ``ParquetSink``.

    :raises UsageError: the format or the resource is unknown, or an option is given for another format.
    :raises MissingExtraError: the format is ``parquet`` and pyarrow is not installed.
    """
    if format not in SINKS:
        raise UsageError(f"format must be one of {', '.join(SINKS)}, not {format!r}")
    options: SinkOptions = {"resource": resource, "fresh": fresh, "disk": Disk(step)}
    if format != "parquet" and part_seconds is not None:
        raise UsageError(
            f"part_seconds is for parquet, not for {format}, whose rows are committed page by page"
        )
    if format == "csv":
        return CsvSink(directory, csv_formulas=csv_formulas, **options)
    if csv_formulas != "keep":
        raise UsageError(f"csv_formulas is for csv, not for {format}")
    if format == "parquet":
        seconds = PART_SECONDS if part_seconds is None else part_seconds
        return ParquetSink(directory, part_seconds=seconds, **options)
    return SINKS[format](directory, **options)
