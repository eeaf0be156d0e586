"""Items as tables: the schema, Arrow and data frames show the same values with the same types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from math import inf
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

import truto_ci_async
from tests.support import examples
from truto_ci_async import Column, Schema, UsageError, schema
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
