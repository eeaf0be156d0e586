"""Items as tables: the schema, Arrow and data frames show the same values with the same types."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from math import inf
from typing import Any, cast

import duckdb
import msgspec
import narwhals
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

import truto_ci_async
from tests.rawserver import RawServer, serving, with_length
from tests.support import examples, run
from truto_ci_async import (
    Column,
    ItemStream,
    Pacing,
    Paginator,
    Pull,
    Schema,
    TrutoClient,
    UsageError,
    schema,
)
from truto_ci_async._json import UNKNOWN
from truto_ci_async.models import (
    AdditionalMetric,
    Email,
    IntegratedAccount,
    Integration,
    Interaction,
    Metrics,
    Person,
)
from truto_ci_async.models.row_views import PULL_SCHEMA

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
    with pytest.raises(UsageError, match="declares no columns"):
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
async def service(*pages: list[dict[str, Any]]) -> AsyncIterator[TrutoClient]:
    """A client of a server that answers every list with these pages."""

    async def answer(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = re.search(rb"next_cursor=(\d+)", await server.head(reader))
            at = int(asked[1]) if asked else 0
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
}


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
                    rows, types = read(pulled)
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
            assert found == ([LEAD | row for row in rows], expected_types(library, pulled=True))
            assert (pull.report.rows, pull.report.complete) == (len(rows), True)

    run(scenario())
