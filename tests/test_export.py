"""Items as tables: the schema, Arrow and data frames show the same values with the same types."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from importlib import import_module
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

import truto_ci_async
from tests.rawserver import RawServer, serving, turns, with_length
from tests.support import examples, run
from truto_ci_async import (
    AccountPage,
    Column,
    DecodeError,
    ItemStream,
    MemoryCheckpoint,
    Pacing,
    Paginator,
    PlannedAccount,
    Pull,
    Sandbox,
    Schema,
    TrutoClient,
    UsageError,
    Window,
    schema,
)
from truto_ci_async._json import UNKNOWN
from truto_ci_async.export.arrow import microseconds
from truto_ci_async.models import (
    AdditionalMetric,
    Email,
    IntegratedAccount,
    Integration,
    Interaction,
    Metrics,
    Page,
    Person,
)
from truto_ci_async.models.row_views import PULL_SCHEMA

if TYPE_CHECKING:
    import duckdb
    import narwhals
    import pandas
    import polars
    import pyarrow
else:

    class Later:
        """A module that is imported when it is used: all of these together take seconds."""

        def __init__(self, name: str) -> None:
            self.name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self.name), attribute)

    duckdb, narwhals, pandas, polars, pyarrow = map(
        Later, ["duckdb", "narwhals", "pandas", "polars", "pyarrow"]
    )

METRICS = [name for name in Metrics.__struct_fields__ if name != UNKNOWN]
PACIFIC = timezone(timedelta(hours=-8))


def person(number: int, **fields: Any) -> Interaction:
    """Build a record in which every column has a value."""
    return Interaction(
        **{
            "id": f"{number}",
            "user": Person(id=str(10**19 + number), name=f"P{number} 𝔘😀", emails=(Email(email="a@x.io"),)),
            "start_time": datetime(2024, 1, 1, tzinfo=PACIFIC),
            "end_time": datetime(2024, 2, 1, tzinfo=UTC),
            "timezone": "US/Pacific",
            "aggregation_period": "month",
            "metrics": Metrics(
                longest_monologue=number,
                longest_customer_story=1.5,
                interactivity=2,
                patience=0.5,
                question_rate=10**400,
            ),
            "additional_metrics": (
                AdditionalMetric(name="Calls", value=3),
                AdditionalMetric(name="Share", value=0.5),
            ),
            "created_at": datetime(2024, 2, 1, 3, 4, 5, 6, tzinfo=UTC),
            "updated_at": None,
            "remote_json": Raw(b'{"a":1}'),
            **fields,
        }
    )


# Schema


def test_the_types_of_a_row_do_not_depend_on_its_values() -> None:
    """Whole metrics came as int, others as float: polars then cut 5.5 to 5, and dlt split the column."""
    row = person(1).row()
    assert {name: type(value) for name, value in row.items() if name in METRICS} == dict.fromkeys(
        METRICS, float
    )
    assert (row["longest_monologue"], row["question_rate"]) == (1.0, inf)
    assert row["start_time"] == datetime(2024, 1, 1, 8, tzinfo=UTC)
    assert row["start_time"].tzinfo is UTC
    assert row["additional_metrics"] == '[{"name":"Calls","value":3},{"name":"Share","value":0.5}]'
    assert row["remote_data"] == '{"a":1}'


def test_a_schema_says_name_type_and_meaning_of_each_column() -> None:
    found = schema(Interaction)
    assert found is Interaction.SCHEMA
    assert found.names == truto_ci_async.ROW_COLUMNS == tuple(person(1).row())
    assert found.types["patience"] == "float64"
    assert found.types["start_time"] == "timestamp"
    assert [column.name for column in found if not column.doc] == []
    assert len(found) == 18
    assert repr(schema(IntegratedAccount)).startswith(
        "Schema(integrated_accounts, id: text, integration: text"
    )
    assert {found} == {Schema(found.name, *found.columns)}


@pytest.mark.parametrize("item_type", [dict, Raw, Email, 5, None])
def test_a_type_without_columns_is_refused(item_type: Any) -> None:
    with pytest.raises(
        UsageError, match="declares no columns; .* Interaction, Meeting, Transcript, User and Activity"
    ):
        schema(item_type)


def test_columns_are_picked_left_out_and_added() -> None:
    item = person(7)
    assert item.row(["patience", "id"]) == {"patience": 0.5, "id": "7"}
    assert list(item.row(["-remote_data", "-id"])) == [*truto_ci_async.ROW_COLUMNS[1:-1]]
    some = ["id", "additional_metrics.Share", "additional_metrics.none"]
    assert item.row(some) == dict(zip(some, ["7", 0.5, None], strict=True))
    assert list(item.row(["-id", "additional_metrics.Calls"]))[-2:] == [
        "remote_data",
        "additional_metrics.Calls",
    ]
    assert Interaction().row(some) == dict.fromkeys(some)
    every = schema(Interaction).select(["id", "additional_metrics.*"], [Interaction(), item])
    assert every.types == {
        "id": "text",
        "additional_metrics.Calls": "float64",
        "additional_metrics.Share": "float64",
    }
    assert IntegratedAccount(integration=Integration(name="gong")).row(["integration"]) == {
        "integration": "gong"
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["patiance"], "no column 'patiance'; there are id, user_id"),
        (["-patiance"], "no column 'patiance'"),
        (["id.x"], "no column"),
        ("id", "a list of names"),
        ([], "leaves nothing"),
        (["additional_metrics.*"], "all items at hand"),
    ],
)
def test_columns_that_are_not_there_are_refused(columns: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Interaction().row(columns)


def test_a_column_cannot_be_there_twice() -> None:
    with pytest.raises(UsageError, match="twice"):
        Schema("x", Column("a", "text"), Column("a", "json"))


class Inner(Struct):
    value: Any = None


class Outer(Struct):
    SCHEMA = None
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("type", "value", "expected"),
    [
        ("int64", 2**63 - 1, 2**63 - 1),
        ("int64", -(2**63), -(2**63)),
        ("int64", 2**63, None),
        ("int64", -(2**63) - 1, None),
        ("int64", 3.0, 3),
        ("int64", 3.5, None),
        ("int64", 1e300, None),
        ("float64", 10**400, inf),
        ("float64", -(10**400), -inf),
        ("float64", 2**63, float(2**63)),
        ("timestamp", "2024-01-31", datetime(2024, 1, 31, tzinfo=UTC)),
        ("timestamp", "2024-01-31T08:00:00+01:00", datetime(2024, 1, 31, 7, tzinfo=UTC)),
        ("timestamp", "yesterday", None),
        ("timestamp", datetime(2024, 1, 31), datetime(2024, 1, 31, tzinfo=UTC)),
        ("timestamp", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "as it was"),
        ("json", {"a": [1, None]}, '{"a":[1,null]}'),
        ("json", Raw(b"null"), None),
        ("json", Raw(b'{"a": 1}'), '{"a": 1}'),
        ("bool", True, True),
    ],
)
def test_values_become_what_their_column_holds(type: Any, value: Any, expected: Any) -> None:
    found = Schema("x", Column("inner", type, "inner.value"))
    expected = value if expected == "as it was" else expected
    assert found.row(Outer(Inner(value))) == {"inner": expected}
    assert found.gather([Outer(Inner(value)), Outer(Inner()), Outer()]) == [[expected, None, None]]
    assert found.gather([Outer(Inner(value))] * 2) == [[expected] * 2]


interactions = st.builds(
    Interaction,
    id=st.none() | st.text(),
    user=st.none() | st.builds(Person, id=st.none() | st.text(), emails=st.none() | st.just((Email(),))),
    start_time=st.none() | st.datetimes(timezones=st.just(PACIFIC)),
    metrics=st.none() | st.builds(Metrics, patience=st.none() | st.integers() | st.floats(allow_nan=False)),
    additional_metrics=st.none()
    | st.lists(st.builds(AdditionalMetric, name=st.text(), value=st.integers())).map(tuple),
    remote_json=st.sampled_from([Raw(b"null"), Raw(b'"x"')]),
)


@examples(50)
@given(st.lists(interactions, max_size=5))
def test_rows_and_columns_have_the_same_values(items: list[Interaction]) -> None:
    found = schema(Interaction)
    columns = found.gather(items)
    assert len(columns) == len(found)
    assert [list(item.row().values()) for item in items] == [list(row) for row in zip(*columns, strict=True)]


class Moment(datetime):
    """A time of another library."""


SECOND = datetime(2024, 1, 31, 8, tzinfo=UTC)
OTHER_TIMES = [
    None,
    SECOND.replace(microsecond=1),
    SECOND.replace(year=1969),
    SECOND.replace(year=2107),  # more seconds than 32 bits hold
    datetime(9999, 12, 31, tzinfo=PACIFIC),
    Moment(2024, 1, 31, tzinfo=UTC),
]


@examples(50)
@given(st.sampled_from([0, 1, 15, 16, 17]), st.data())
def test_times_as_microseconds(count: int, data: st.DataObject) -> None:
    """Whole seconds are read from MessagePack, whose header depends on how many there are; others one by one."""
    times: list[datetime | None] = [SECOND + timedelta(days=day % 300) for day in range(count)]
    for other in data.draw(st.lists(st.sampled_from(OTHER_TIMES), max_size=min(count, 4))):
        times[data.draw(st.integers(0, count - 1))] = other
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    exact = [None if each is None else (each - epoch) // timedelta(microseconds=1) for each in times]
    assert microseconds(iter(times)) == exact


@pytest.mark.parametrize("count", [2**16 - 1, 2**16])
def test_very_many_times_as_microseconds(count: int) -> None:
    assert microseconds([SECOND] * count) == [1_706_688_000_000_000] * count


def test_a_count_past_64_bits_is_repaired_with_an_issue() -> None:
    """Neither a database nor a data frame can hold it."""
    from truto_ci_async._wire.item_reader import ItemReader
    from truto_ci_async.models.field_types import Count

    counted = msgspec.defstruct("Counted", [("id", str | None, None), ("count", Count | None, None)])
    items, issues = ItemReader[Any](counted).read_array(b'[{"id":"1","count":9223372036854775808}]')
    assert (items[0].id, items[0].count) == ("1", None)
    assert [issue.path for issue in issues] == ["$.result[0].count"]


# The same values and types in every library

BEYOND = 10**400
WINDOW: dict[str, Any] = {"start_time": "2024-01-01", "end_time": "2024-02-01T00:00:00+01:00"}


def wire(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": str(number), "user": {"id": str(10**19 + number), "name": None}, "metrics": {}} | fields


#: None first and last, whole and broken numbers, numbers past 64 bits, offsets that differ, an empty page, and a column
#: without values (``timezone``).
PAGES: list[list[dict[str, Any]]] = [
    [
        wire(1, metrics={"patience": None, "interactivity": 1, "question_rate": 2**63}),
        wire(2, metrics={"patience": 5, "interactivity": 5.5, "question_rate": BEYOND}),
    ],
    [],
    [
        wire(3, start_time="2024-01-01T00:00:00-08:00", user={"name": "𝔘 😀\U0010ffff\0é"}, metrics=None),
        wire(4, start_time="2024-01-01T00:00:00.123456+05:30", user=None),
        wire(
            5,
            metrics={"patience": 5.5, "question_rate": -BEYOND},
            additional_metrics=[{"name": "Calls", "value": 3}],
            remote_data={"a": [1, "é"]},
        ),
    ],
    [wire(6, start_time="not a time", metrics={"patience": None})],
]


@asynccontextmanager
async def service(
    *pages: list[dict[str, Any]], hangs: asyncio.Event | None = None
) -> AsyncIterator[TrutoClient]:
    """A client of a server that answers every list with these pages; with ``hangs``, it sets that at the last one."""

    async def answer(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = re.search(rb"next_cursor=(\d+)", await server.head(reader))
            at = int(asked[1]) if asked else 0
            if hangs is not None and at + 1 == len(pages):
                hangs.set()
                await asyncio.Event().wait()
            cursor = str(at + 1) if at + 1 < len(pages) else None
            writer.write(with_length(json.dumps({"result": pages[at], "next_cursor": cursor}).encode()))

    async with (
        serving(answer) as server,
        TrutoClient("token", base_url=server.url, pacing=Pacing.off()) as client,
    ):
        yield client


Table = list[dict[str, Any]]
Walk = Paginator[Any] | ItemStream[Any] | Pull[Any]


def of_polars(frame: polars.DataFrame) -> tuple[Table, dict[str, str]]:
    return frame.to_dicts(), {name: str(type) for name, type in frame.schema.items()}


def of_pandas(frame: Any) -> tuple[Table, dict[str, str]]:
    def plain(value: Any) -> Any:
        if value is None or value is pandas.NA or value is pandas.NaT or value != value:
            return None
        return value.to_pydatetime() if isinstance(value, pandas.Timestamp) else value

    columns = {name: [plain(value) for value in frame[name]] for name in frame.columns}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows, {name: str(type) for name, type in frame.dtypes.items()}


def of_arrow(table: Any) -> tuple[Table, dict[str, str]]:
    table.validate(full=True)
    return table.to_pylist(), {field.name: str(field.type) for field in table.schema}


def of_duckdb(con: duckdb.DuckDBPyConnection, name: str) -> tuple[Table, dict[str, str]]:
    relation = con.sql(f"from {name}")
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    return relation.to_arrow_table().to_pylist(), types


def duckdb_from(page: Any) -> tuple[Table, dict[str, str]]:
    with duckdb.connect() as con:
        relation = con.sql("from page")
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        first = relation.to_arrow_table().to_pylist()
        assert relation.to_arrow_table().to_pylist() == first  # it asks for the capsule as often as it likes
        return first, types


TYPES: dict[str, dict[str, str]] = {
    "polars": {
        "float64": "Float64",
        "timestamp": "Datetime(time_unit='us', time_zone='UTC')",
        "text": "String",
        "json": "String",
    },
    "pandas": {"float64": "float64", "timestamp": "datetime64[us, UTC]", "text": "str", "json": "str"},
    "arrow": {
        "float64": "double",
        "timestamp": "timestamp[us, tz=UTC]",
        "text": "string",
        "json": "string",
    },
    "duckdb": {
        "float64": "DOUBLE",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
        "text": "VARCHAR",
        "json": "VARCHAR",
    },
}
HERE: dict[str, tuple[str, Callable[[Any], tuple[Table, dict[str, str]]]]] = {
    "to_polars": ("polars", lambda page: of_polars(page.to_polars())),
    "polars": ("polars", lambda page: of_polars(polars.DataFrame(page))),
    "to_pandas": ("pandas", lambda page: of_pandas(page.to_pandas())),
    "pandas": ("pandas", lambda page: of_pandas(cast("Any", pandas.DataFrame).from_arrow(page))),
    "to_arrow": ("arrow", lambda page: of_arrow(page.to_arrow())),
    "pyarrow": ("arrow", lambda page: of_arrow(pyarrow.table(page))),
    "duckdb": ("duckdb", duckdb_from),
    "narwhals": ("arrow", lambda page: of_arrow(narwhals.from_arrow(page, backend="pyarrow").to_native())),
}


async def to_duckdb(walk: Any) -> tuple[Table, dict[str, str]]:
    with duckdb.connect() as con:
        await walk.to_duckdb(con, "people")
        return of_duckdb(con, "people")


async def in_batches(walk: Any) -> tuple[Table, dict[str, str]]:
    frames = [polars.DataFrame(batch) async for batch in walk.arrow_batches(rows=2)]
    return of_polars(polars.concat(frames) if frames else await walk.to_polars())


WALKED: dict[str, tuple[str, Callable[[Any], Awaitable[tuple[Table, dict[str, str]]]]]] = {}


def walked(library: str, method: str, read: Callable[[Any], tuple[Table, dict[str, str]]]) -> None:
    async def take(walk: Any) -> tuple[Table, dict[str, str]]:
        return read(await getattr(walk, method)())

    WALKED[method] = (library, take)


walked("polars", "to_polars", of_polars)
walked("pandas", "to_pandas", of_pandas)
walked("arrow", "to_arrow", of_arrow)
WALKED["to_duckdb"] = ("duckdb", to_duckdb)
WALKED["arrow_batches"] = ("polars", in_batches)

LEAD = {
    "integrated_account_id": "acc",
    "tenant_id": None,
    "window_start": datetime(2024, 1, 1, tzinfo=UTC),
    "window_end": datetime(2024, 1, 31, 23, tzinfo=UTC),
    "pulled_at": "now",
}


def with_lead(found: tuple[Table, dict[str, str]]) -> tuple[Table, dict[str, str]]:
    """Check that rows arrived just now."""
    table, types = found
    for row in table:
        assert timedelta() <= datetime.now(UTC) - row["pulled_at"] < timedelta(minutes=5)
        row["pulled_at"] = "now"
    return table, types


def expected_types(library: str, *, pulled: bool = False) -> dict[str, str]:
    columns = [*(PULL_SCHEMA if pulled else ()), *schema(Interaction)]
    return {column.name: TYPES[library][column.type] for column in columns}


async def rows_of(client: TrutoClient) -> Table:
    return [item.row() for item in await client.interactions.list("acc", **WINDOW).collect()]


@pytest.mark.parametrize("consumer", HERE)
def test_a_page_has_the_same_values_and_types_in_every_library(consumer: str) -> None:
    library, read = HERE[consumer]

    async def scenario() -> None:
        whole = [item for page in PAGES for item in page]
        async with service(whole) as client:
            page = await client.interactions.list("acc", **WINDOW)
            assert read(page) == ([item.row() for item in page], expected_types(library))
            assert page[0].row()["question_rate"] == float(2**63)
            assert page[1].row()["question_rate"] == inf
            assert [issue.path for issue in page.issues] == ["$.result[5].start_time"]
            assert b"not a time" in page.issues[0].raw  # it stays within reach
            async with client.interactions.pull(["acc"], **WINDOW) as pull:
                async for pulled in pull:
                    rows, types = with_lead(read(pulled))
            assert rows == [LEAD | item.row() for item in page]
            assert types == expected_types(library, pulled=True)
        async with service([]) as client:
            assert read(await client.interactions.list("acc", **WINDOW)) == ([], expected_types(library))

    run(scenario())


@pytest.mark.parametrize("pages", [PAGES, PAGES[:1], [[]], PAGES[1:]], ids=["n", "one", "none", "none first"])
@pytest.mark.parametrize("consumer", WALKED)
def test_a_walk_has_the_same_values_and_types_in_every_library(
    consumer: str, pages: list[list[dict[str, Any]]]
) -> None:
    library, read = WALKED[consumer]

    async def scenario() -> None:
        async with service(*pages) as client:
            rows = await rows_of(client)
            if consumer == "arrow_batches" and not rows:
                return  # no batches, no table
            assert await read(client.interactions.list("acc", **WINDOW)) == (rows, expected_types(library))
            async with client.interactions.stream("acc", **WINDOW) as stream:
                assert await read(stream) == (rows, expected_types(library))
            async with client.interactions.pull(["acc"], **WINDOW) as pull:
                found = await read(pull)
            assert with_lead(found) == ([LEAD | row for row in rows], expected_types(library, pulled=True))
            assert (pull.report.rows, pull.report.complete) == (len(rows), True)

    run(scenario())


# What has no schema


def test_dicts_have_a_column_for_each_key() -> None:
    """A provider's own row fits no schema of ours: its columns are its keys, and none of them is empty or changed."""
    items = [
        {"a": 1, "b": None, "c": {"x": [1]}, "id": "1", "big": 2**63, "mixed": 1, "flag": True},
        {"a": 2.5, "b": None, "c": None, "id": "2", "big": 1, "mixed": "x", "late": "😀", "flag": None},
    ]
    rows, types = of_polars(truto_ci_async.to_polars(items))
    assert types == {
        "a": "Float64", "b": "String", "c": "String", "id": "String", "big": "String", "mixed": "String",
        "flag": "Boolean", "late": "String",
    }  # fmt: skip
    assert rows == [
        {"a": 1.0, "b": None, "c": '{"x":[1]}', "id": "1", "big": str(2**63), "mixed": "1", "flag": True, "late": None},
        {"a": 2.5, "b": None, "c": None, "id": "2", "big": "1", "mixed": '"x"', "flag": None, "late": "😀"},
    ]  # fmt: skip
    raw = [Raw(json.dumps(item).encode()) for item in items]
    assert of_polars(truto_ci_async.to_polars(raw)) == (rows, types)
    assert truto_ci_async.to_polars(items, ["late", "a"]).columns == ["late", "a"]
    assert of_pandas(truto_ci_async.to_pandas(items))[0] == rows
    assert of_arrow(truto_ci_async.to_arrow(items))[0] == rows
    assert truto_ci_async.to_polars([{}]).rows() == [("{}",)]
    for odd in ([1, "x"], [Raw(b"[1]"), Raw(b"1e999")]):
        assert truto_ci_async.to_polars(odd).columns == ["item"]
    assert truto_ci_async.to_polars([Raw(b'{"n":1e999}')]).rows() == [('{"n":1e999}',)]


@pytest.mark.parametrize(
    "values", [[2**53, 0.5], [2**53 + 1, 0.5], [2**63 - 1], [2**63], [True, 1], ["x", None]]
)
def test_a_column_of_a_dict_holds_its_values_exactly(values: list[Any]) -> None:
    frame = truto_ci_async.to_polars([{"a": value} for value in values])
    found = frame["a"].to_list()
    assert found == values or [json.loads(text) for text in found] == values


class Contact(Struct, rename={"seen_at": "seenAt"}):
    id: str
    calls: int | None = None
    score: int | float | None = None
    seen_at: datetime | None = None
    tags: tuple[str, ...] = ()


def test_structs_of_your_own_have_a_column_for_each_field() -> None:
    frame = truto_ci_async.to_polars(
        [Contact("1", 2**63, 1), Contact("2", 2, None, datetime(2024, 1, 1), ("x",))]
    )
    assert list(frame.schema) == ["id", "calls", "score", "seenAt", "tags"]
    assert [str(type).split("(")[0] for type in frame.dtypes] == [
        "String",
        "Int64",
        "Float64",
        "Datetime",
        "String",
    ]
    assert frame.rows() == [
        ("1", None, 1.0, None, "[]"),
        ("2", 2, None, datetime(2024, 1, 1, tzinfo=UTC), '["x"]'),
    ]


@pytest.mark.parametrize("item_type", [dict, Raw])
def test_walks_without_a_schema(item_type: Any) -> None:
    """All rows at once have a column for each key. In batches, a later row might not fit: one column of JSON does."""

    async def scenario() -> None:
        pages: list[list[dict[str, Any]]] = [
            [{"id": "1", "n": 1}],
            [{"id": "2", "n": 1.5, "more": {"x": 1}}, {"integrated_account_id": 5}],
        ]
        async with service(*pages) as client:
            walk = client.interactions.list("acc", item_type=item_type, **WINDOW)
            frame = await walk.to_polars()
            assert frame.rows() == [
                ("1", 1.0, None, None),
                ("2", 1.5, '{"x":1}', None),
                (None, None, None, 5),
            ]
            assert frame.columns == ["id", "n", "more", "integrated_account_id"]
            batches = [polars.DataFrame(batch) async for batch in walk.arrow_batches(rows=1)]
            assert [batch.columns for batch in batches] == [["item"]] * 2
            lines = [json.loads(text) for batch in batches for text in batch["item"]]
            assert lines == [item for page in pages for item in page]
            async with client.interactions.pull(["acc"], item_type=item_type, **WINDOW) as pull:
                pulled = await pull.to_pandas()
            assert list(pulled.columns) == [*LEAD, "id", "n", "more"]  # ours take the place of theirs
            assert list(pulled["integrated_account_id"]) == ["acc"] * 3

    run(scenario())


def test_what_was_received_without_a_field_is_a_column_on_request() -> None:
    async def scenario() -> None:
        async with service([wire(1, novelty={"x": 1}), wire(2)]) as client:
            page = await client.interactions.list("acc", **WINDOW)
            received = '{"novelty":{"x": 1}}'
            assert page.to_polars(["id", "unknown"]).rows() == [("1", received), ("2", None)]
            assert page[0].row(["unknown"]) == {"unknown": received}

    run(scenario())
    with pytest.raises(UsageError, match="no column 'unknown'"):
        truto_ci_async.to_polars([{"a": 1}], ["unknown"])


# Lists, pages and misuse


def test_lists_and_pages_at_hand() -> None:
    page, other = Page([person(1)], item_type=Interaction), Page([person(2), person(3)])
    assert truto_ci_async.to_polars([page, other])["id"].to_list() == ["1", "2", "3"]
    assert truto_ci_async.to_polars(iter([person(1)])).equals(page.to_polars())
    assert truto_ci_async.to_pandas(page).shape == (1, 18)
    assert truto_ci_async.to_polars([]).shape == (0, 0)
    assert Page([], item_type=Interaction).to_arrow().num_columns == 18
    metrics = page.to_polars(["id", "additional_metrics.*"])
    assert metrics.columns == ["id", "additional_metrics.Calls", "additional_metrics.Share"]
    account = AccountPage(PlannedAccount("acc", "t"), Window("2024-01-01", None), page)
    frame = account.to_polars(["tenant_id", "window_start", "window_end", "id"])
    assert frame.rows() == [("t", datetime(2024, 1, 1, tzinfo=UTC), None, "1")]
    assert truto_ci_async.to_polars([account, account]).height == 2


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("text", "not a str"),
        ({"id": "1"}, "not a dict"),
        (5, "not a int"),
        ([Page([]), 5], "not of both"),
        ([Page([]), AccountPage(PlannedAccount("acc"), Window(), Page([]))], "not both"),
    ],
)
def test_what_cannot_become_a_frame_is_refused(items: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        truto_ci_async.to_polars(items)


def test_pandas_is_told_how_to_take_a_page() -> None:
    """``pandas.DataFrame(page)`` looks for no columns: it would be one column of objects."""
    with pytest.raises(UsageError, match="to_pandas"):
        pandas.DataFrame(cast("Any", Page([person(1)])))


@pytest.mark.parametrize("rows", [0, -1, True, 1.5, None])
def test_a_batch_has_a_row_at_least(rows: Any) -> None:
    async def scenario() -> None:
        async with service([]) as client:
            walk = client.interactions.list("acc", **WINDOW)
            with pytest.raises(UsageError, match="1 or more"):
                walk.arrow_batches(rows=rows)
            with pytest.raises(UsageError, match="no column 'x'"):
                walk.arrow_batches(columns=["x"])

    run(scenario())


# Batches


def test_batches_gather_small_pages_and_keep_whole_ones() -> None:
    async def scenario() -> None:
        async with service(*[[wire(at)] for at in range(5)], [wire(at) for at in range(5, 9)]) as client:
            walk = client.interactions.list("acc", **WINDOW)
            batches = [batch async for batch in walk.arrow_batches(rows=2)]
            assert [batch.num_rows for batch in batches] == [2, 2, 5]
            assert [len(batch.pages) for batch in batches] == [2, 2, 2]
            table = pyarrow.Table.from_batches(map(pyarrow.record_batch, batches))
            assert table["id"].to_pylist() == [str(at) for at in range(9)]
            assert repr(batches[0]) == "Batch(2 rows, 18 columns)"
            assert batches[0].to_pandas().shape == (2, 18)
            with pytest.raises(UsageError, match="open pull"):
                await batches[0].commit()

    run(scenario())


def test_an_error_comes_after_the_rows_before_it() -> None:
    async def scenario() -> None:
        async with service([wire(1)], [{"foreign": 1}]) as client:
            walk = client.interactions.list("acc", on_invalid="raise", **WINDOW)
            batches = walk.arrow_batches()
            assert (await anext(batches)).num_rows == 1
            for _ in range(2):
                with pytest.raises(DecodeError):
                    await anext(batches)
            with pytest.raises(DecodeError):
                await walk.to_pandas()

    run(scenario())


PULLED = [[wire(1)], [], [wire(2)], [wire(3)], [wire(4)]]


async def again(client: TrutoClient, checkpoint: MemoryCheckpoint) -> list[str]:
    """Return what the next run of a pull gets."""
    async with client.interactions.pull(["acc"], checkpoint=checkpoint, **WINDOW) as pull:
        return [item.id async for page in pull for item in page.page]


def test_asking_for_the_next_batch_marks_the_one_before() -> None:
    """What the caller has not come back from is pulled again: a batch gathers pages ahead, and marks none of them."""

    async def scenario() -> None:
        async with service(*PULLED) as client:
            for taken, left in ((1, ["1", "2", "3", "4"]), (2, ["3", "4"]), (3, [])):
                checkpoint = MemoryCheckpoint()
                async with client.interactions.pull(["acc"], checkpoint=checkpoint, **WINDOW) as pull:
                    batches = pull.arrow_batches(rows=2)
                    for _ in range(taken):
                        await anext(batches, None)
                assert await again(client, checkpoint) == left

    run(scenario())


def test_batches_of_a_manual_pull_are_committed_by_hand() -> None:
    async def scenario() -> None:
        async with service(*PULLED) as client:
            checkpoint = MemoryCheckpoint()
            options: dict[str, Any] = {"checkpoint": checkpoint, "commit": "manual", **WINDOW}
            async with client.interactions.pull(["acc"], **options) as pull:
                batches = [batch async for batch in pull.arrow_batches(rows=2)]
                await batches[0].commit()
                with pytest.raises(UsageError, match="commit='auto'"):
                    await pull.to_polars()
            assert await again(client, checkpoint) == ["3", "4"]

    run(scenario())


def test_a_frame_of_a_pull_is_done_when_it_is_complete() -> None:
    """Marked on the way, the rows of a run that was cancelled would be in no frame and in no later run."""

    async def scenario() -> None:
        async with service(*PULLED) as client:
            checkpoint = MemoryCheckpoint()
            async with client.interactions.pull(["acc"], checkpoint=checkpoint, **WINDOW) as pull:
                frame = await pull.to_polars()
            assert frame["id"].to_list() == ["1", "2", "3", "4"]
            assert await again(client, checkpoint) == []

            checkpoint = MemoryCheckpoint()
            hangs = asyncio.Event()
            async with (
                service(*PULLED, hangs=hangs) as other,
                other.interactions.pull(["acc"], checkpoint=checkpoint, **WINDOW) as pull,
            ):
                task = asyncio.create_task(pull.to_polars())
                await hangs.wait()
                await turns()
                task.cancel()
                await asyncio.wait([task])
            assert await again(client, checkpoint) == ["1", "2", "3", "4"]

    run(scenario())


def test_a_cancelled_wait_for_a_batch_loses_no_rows() -> None:
    async def scenario() -> None:
        async with service(*PULLED) as client, client.interactions.pull(["acc"], **WINDOW) as pull:
            batches = pull.arrow_batches(rows=3)
            first: Any = None
            for turns in range(200):
                task = asyncio.ensure_future(anext(batches))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    first = task.result()
                    break
            assert (first or await anext(batches)).num_rows == 3
            batches = client.interactions.list("acc", **WINDOW).arrow_batches()
            _, second = await asyncio.gather(anext(batches), anext(batches), return_exceptions=True)
            assert isinstance(second, UsageError)

    run(scenario())


def test_batches_of_many_accounts() -> None:
    """A batch may be larger than what a pull reads ahead, and its pages are not marked before it is full."""

    async def scenario() -> None:
        async with (
            Sandbox(accounts=9, interactions=30, page_size=7, token_rate=None, account_rate=None) as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url, pacing=Pacing.off()) as client,
        ):
            async with client.interactions.pull(sandbox.account_ids, **WINDOW) as pull:
                batches = [batch async for batch in pull.arrow_batches(rows=10**6)]
            assert [batch.num_rows for batch in batches] == [270]
            assert pull.report.complete
            counts = batches[0].to_polars().group_by("integrated_account_id").len()
            assert counts["len"].to_list() == [30] * 9

    run(scenario())


# What is installed

PROGRAM = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from datetime import UTC, datetime
import truto_ci_async
from truto_ci_async import Interaction, Metrics, MissingExtraError, Page, Person

time = datetime(2024, 1, 1, tzinfo=UTC)
last = Interaction(id="é", start_time=time, metrics=Metrics(patience=5.5))
page = Page([Interaction(id="1", metrics=Metrics(patience=5)), last])
shown = {}

def show(name, make):
    try:
        shown[name] = make()
    except MissingExtraError as error:
        shown[name] = f"missing {error.extra}"
    except ImportError:
        shown[name] = "not installed"

def rows(frame):
    return [[str(value) for value in frame[name].tolist()] for name in ("id", "patience", "start_time")]

def from_polars():
    import polars
    return polars.DataFrame(page)["patience"].to_list()

def from_duckdb():
    import duckdb
    return duckdb.sql("select patience from page").fetchall()

columns = ["id", "patience", "start_time"]
show("polars", from_polars)
show("to_polars", lambda: page.to_polars(columns)["patience"].to_list())
show("to_pandas", lambda: rows(page.to_pandas(columns)))
show("types", lambda: [str(type) for type in page.to_pandas(columns).dtypes])
show("to_arrow", lambda: page.to_arrow().num_rows)
show("duckdb", from_duckdb)
print(json.dumps(shown))
"""
PATIENCE = [5.0, 5.5]
IN_PANDAS = [["1", "é"], ["5.0", "5.5"], ["NaT", "2024-01-01 00:00:00+00:00"]]


def shown_without(*names: str, python: str = sys.executable) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-W", "error", "-c", PROGRAM, ",".join(names)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(truto_ci_async.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_without_pyarrow() -> None:
    """It has 170 MB, and only ``to_arrow`` needs it."""
    assert shown_without("pyarrow") == {
        "polars": PATIENCE,
        "to_polars": PATIENCE,
        "to_pandas": IN_PANDAS,
        "types": ["str", "float64", "datetime64[us, UTC]"],
        "to_arrow": "missing parquet",
        "duckdb": [[5.0], [5.5]],
    }


def test_with_pyarrow_and_without_arro3() -> None:
    found = shown_without("arro3", "polars", "pandas")
    assert (found["to_arrow"], found["duckdb"]) == (2, [[5.0], [5.5]])
    assert [found[name] for name in ("to_polars", "to_pandas")] == ["missing polars", "missing pandas"]


def test_what_is_missing_is_told() -> None:
    found = shown_without("pyarrow", "arro3", "pandas", "duckdb")
    shown = [found[name] for name in ("polars", "to_polars", "to_pandas", "to_arrow")]
    assert shown == ["missing arrow", "missing polars", "missing pandas", "missing parquet"]


@pytest.mark.long
def test_pandas_2(tmp_path: Path) -> None:
    """In an environment of its own: the tests have pandas 3, where text is another type."""
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path)],
        [str(tmp_path / "bin" / "python"), "-m", "pip", "install", "-q", "pandas<3", *CORE],
    ):
        subprocess.run(command, check=True, timeout=300)
    found = shown_without("pyarrow", "polars", "duckdb", "arro3", python=str(tmp_path / "bin" / "python"))
    assert found["to_pandas"] == IN_PANDAS
    assert found["types"] == ["object", "float64", "datetime64[us, UTC]"]


CORE = ["aiohttp", "anyio", "ijson", "msgspec"]


def test_duckdb_tables_are_appended_to() -> None:
    async def scenario() -> None:
        async with service([wire(1)], [wire(2)]) as client:
            walk = client.interactions.list("acc", **WINDOW)
            with duckdb.connect() as con:
                con.execute('CREATE SCHEMA s; CREATE TABLE s."odd ""name" (more INTEGER, id VARCHAR)')
                assert await walk.to_duckdb(con, 's.odd "name', ["id"]) == 2
                con.begin()
                assert await walk.to_duckdb(con, 's.odd "name', ["id"]) == 2
                con.rollback()
                assert con.sql('from s."odd ""name"').fetchall() == [(None, "1"), (None, "2")]
                assert await walk.to_duckdb(con, "s.{x}", ["id"]) == 2

    run(scenario())
