"""How fast do pages become columns: items a polars data frame, and the bytes of pages typed Arrow batches?

``to polars`` begins with items. Ours goes from their attributes to columns, and with Arrow into polars: page by page,
and gathered to 5,000 rows as walks do. Page by page, it is compared with pandas of the same rows as dicts, which is
what one writes by hand, with polars of those, and with polars of tuples and a schema, which keeps the types.

``bytes to Arrow`` begins with bytes, and ends with record batches, gathered. It is compared with decoding and pandas of
the same rows, and with two ways straight to columns, without structs: ``pyarrow.json`` with the types given and the
provider's record left out, and ``polars.read_ndjson``, both of which need lines first.

Times are of 1,000 rows.

    python -m benchmarks.bench_arrow --items 1000,50 --rounds 5
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from benchmarks import _turns, data
from benchmarks._turns import OURS, Goal, Record
from truto_ci_async import Interaction, Page, schema, to_arrow, to_polars
from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async._wire.page_reader import PageReader

GATHERED = "ours, gathered"
PANDAS, POLARS, TUPLES = "pandas.DataFrame of row()", "polars.DataFrame of row()", "polars of typed tuples"
PYARROW, READ_NDJSON = "pyarrow.json, no remote_data", "polars.read_ndjson"
FROM_BYTES = {OURS: "pyarrow", PANDAS: "pandas", PYARROW: "pyarrow", READ_NDJSON: "polars"}
CONTENDERS = {OURS: "polars", GATHERED: "polars", PANDAS: "pandas", POLARS: "polars", TUPLES: "polars"}
GOALS = [
    Goal("pages of 1000 to polars", PANDAS, "cpu", most=0.50),
    Goal("pages of 50 to polars", PANDAS, "cpu", most=0.70),
    *(Goal(f"bytes of pages of {items} to Arrow", PANDAS, "speed", least=3) for items in (1000, 100)),
]
# Rows made in one turn.
ROWS = 20_000


def contender(name: str, pages: list[Page[Interaction]]) -> Callable[[], object]:
    """Return the work of one turn: a frame for each page, or for each 5,000 rows."""
    if name == OURS:
        return lambda: [page.to_polars() for page in pages]
    if name == GATHERED:
        together = max(5_000 // len(pages[0]), 1)
        batches = [pages[at : at + together] for at in range(0, len(pages), together)]
        return lambda: [to_polars(batch) for batch in batches]
    if name == PANDAS:
        import pandas

        return lambda: [pandas.DataFrame([item.row() for item in page]) for page in pages]
    import polars

    if name == POLARS:
        return lambda: [
            polars.DataFrame([item.row() for item in page], infer_schema_length=None) for page in pages
        ]
    columns = schema(Interaction)
    types: dict[str, Any] = {
        "float64": polars.Float64,
        "timestamp": polars.Datetime("us", "UTC"),
    }
    typed = {column.name: types.get(column.type, polars.String) for column in columns}
    return lambda: [
        polars.DataFrame([columns.values(item) for item in page], schema=typed, orient="row")
        for page in pages
    ]


def from_bytes(name: str, body: bytes, count: int) -> Callable[[], object]:
    """Return the work of one turn: decode as many pages as hold the rows, and make columns of 5,000 rows or of each."""
    read = PageReader(item_reader(Interaction)).read
    pages = range(max(ROWS // count, 1))
    if name == OURS:
        together = max(5_000 // count, 1)

        def ours() -> None:
            for first in range(0, len(pages), together):
                to_arrow(
                    [Page(read(body).items, item_type=Interaction) for _ in pages[first : first + together]]
                )

        return ours
    if name == PANDAS:
        import pandas

        return lambda: [pandas.DataFrame([item.row() for item in read(body).items]) for _ in pages]
    split = msgspec.json.Decoder(msgspec.defstruct("Page", [("result", list[msgspec.Raw])])).decode

    def lines() -> io.BytesIO:
        return io.BytesIO(b"\n".join([bytes(item) for item in split(body).result]))

    if name == READ_NDJSON:
        import polars

        return lambda: [polars.read_ndjson(lines(), infer_schema_length=None) for _ in pages]
    import pyarrow.json

    first = pyarrow.json.read_json(lines()).schema
    asked = pyarrow.schema([field for field in first if field.name != "remote_data"])
    parse = pyarrow.json.ParseOptions(explicit_schema=asked, unexpected_field_behavior="ignore")
    return lambda: [pyarrow.json.read_json(lines(), parse_options=parse) for _ in pages]


def here(options: argparse.Namespace) -> None:
    """Run one contender in this process."""
    count = int(options.items)
    read = PageReader(item_reader(Interaction)).read
    body = data.page(count, next_cursor="2")
    if options.bytes:
        _turns.serve_turns(from_bytes(options.here, body, count), collect=options.gc != "off")
        return
    pages = [Page(read(body).items, item_type=Interaction) for _ in range(max(ROWS // count, 1))]
    _turns.serve_turns(contender(options.here, pages), collect=options.gc != "off")


def run(options: argparse.Namespace) -> list[Record]:
    found: list[Record] = []
    cases = [(f"pages of {items} to polars", items, CONTENDERS) for items in options.items.split(",")]
    cases += [(f"bytes of pages of {items} to Arrow", items, FROM_BYTES) for items in ("1000", "100")]
    for question, items, wanted in cases:
        contenders = _turns.installed(wanted, options.contenders)
        for collect in _turns.collecting(options):
            _turns.say(f"{question}, garbage collector {'on' if collect else 'off'}")
            given = ["--items", items, "--gc", "on" if collect else "off"]
            given += ["--bytes"] if wanted is FROM_BYTES else []
            take = partial(_turns.take_turns, "benchmarks.bench_arrow", contenders, given)
            found += _turns.records(question, collect, take(rounds=options.rounds), per=ROWS // 1000)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", default="1000,50", help="on a page, comma-separated (default 1000,50)")
    parser.add_argument("--rounds", type=int, default=5, help="of 20,000 rows each (default 5)")
    parser.add_argument("--bytes", action="store_true", help=argparse.SUPPRESS)


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)
