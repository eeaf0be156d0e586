"""Requests as functions of their filters: the contract's encoding row by row, and what ties a position to its query.

What is sent is read back by the sandbox's ``parse_query``, which follows the service's own parser and shares no
code with the encoder under test.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from enum import Enum, IntEnum
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.foreign_values import (
    Colour,
    Length,
    Letter,
    Level,
    Missing,
    NotATime,
    NumPyScalar,
    Real,
    Size,
    Stamp,
    Text,
    Whole,
)
from truto_ci_async._wire.filters import split_users
from truto_ci_async._wire.list_query import ListQuery, RequestTargets, list_query
from truto_ci_async._wire.query_string import MAX_DEPTH, deep_merge, encode_query, join_path
from truto_ci_async._wire.times import format_time
from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount, Person, Position
from truto_ci_async.pagination.next_page import position_after
from truto_ci_async.pull.plan.bounds import resolve_windows
from truto_ci_async.sandbox import parse_query

ACCOUNT = "62f44730-dd91-461e-bd6a-aedd9e0ad79d"
PATH = "/unified/conversational-intelligence/interactions"
START = datetime(2024, 1, 1, tzinfo=UTC)
END = datetime(2024, 2, 1, tzinfo=UTC)
WINDOW = "&start_time=2024-01-01T00%3A00%3A00Z&end_time=2024-02-01T00%3A00%3A00Z"
INDIA = timezone(timedelta(hours=5, minutes=30))


def interactions(account: Any = ACCOUNT, **filters: Any) -> ListQuery:
    return list_query("unified", "conversational-intelligence", "interactions", account=account, **filters)


def sent(**filters: Any) -> str:
    """The query of the first page, without the account that every request begins with."""
    return interactions(**filters).target().partition(ACCOUNT)[2].removeprefix("&")


# The request as a whole


def test_the_golden_request_byte_for_byte() -> None:
    """Contract section 7: a request the service accepts."""
    query = interactions(
        start_time=START,
        end_time=END,
        users=["234599484848423", "98765432109876543210"],
        ignore_remote_data=True,
    )
    assert query.target() == (
        "/unified/conversational-intelligence/interactions?integrated_account_id=62f44730-dd91-461e-bd6a-aedd9e0ad79d"
        "&start_time=2024-01-01T00%3A00%3A00Z&end_time=2024-02-01T00%3A00%3A00Z"
        "&users%5B0%5D%5Bid%5D=234599484848423&users%5B1%5D%5Bid%5D=98765432109876543210&truto_ignore_remote_data=true"
    )


# The same filters as other clients send them: the TypeScript SDK encodes with qs 6.15, the Python SDK with urlencode
# and then yarl, which undoes some escapes; curl sends what was typed.
SAMPLES = [
    pytest.param(PATH + f"?integrated_account_id={ACCOUNT}", {}, True, id="official CLI"),
    pytest.param(
        PATH + f"?integrated_account_id={ACCOUNT}{WINDOW}&next_cursor=",
        {"start_time": START, "end_time": END},
        True,
        id="TypeScript SDK",
    ),
    pytest.param(
        PATH + f"?integrated_account_id={ACCOUNT}{WINDOW}"
        "&users%5B0%5D%5Bid%5D=234599484848423&users%5B1%5D%5Bid%5D=98765432109876543210&next_cursor=",
        {"start_time": START, "end_time": END, "users": ["234599484848423", "98765432109876543210"]},
        True,
        id="TypeScript SDK with users",
    ),
    pytest.param(
        PATH
        + f"?integrated_account_id={ACCOUNT}&start_time=2024-01-01T00:00:00Z&end_time=2024-02-01T00:00:00Z",
        {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"},
        False,
        id="Python SDK",
    ),
    pytest.param(
        PATH + f"?integrated_account_id={ACCOUNT}&start_time=2024-01-01T00:00:00%2B05:30",
        {"start_time": "2024-01-01T00:00:00+05:30"},
        False,
        id="Python SDK with an offset",
    ),
    pytest.param(
        PATH
        + f"?integrated_account_id={ACCOUNT}&start_time=2024-01-01T00:00:00Z&end_time=2024-02-01T00:00:00Z",
        {"start_time": START, "end_time": END},
        False,
        id="curl and fetch",
    ),
    pytest.param(
        PATH + f"?integrated_account_id={ACCOUNT}{WINDOW}",
        {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"},
        True,
        id="requests with params",
    ),
    pytest.param(
        PATH
        + f"?integrated_account_id={ACCOUNT}{WINDOW}&truto_exclude_fields%5B%5D=id&truto_exclude_fields%5B%5D=name"
        "&truto_super_query=apac&remote_query%5Bfoo%5D=bar&created_at%5Bgt%5D=2024-01-15T00%3A00%3A00Z",
        {
            "start_time": START,
            "end_time": END,
            "exclude_fields": ["id", "name"],
            "super_query": "apac",
            "remote_query": {"foo": "bar"},
            "extra_query": {"created_at": {"gt": datetime(2024, 1, 15, tzinfo=UTC)}},
        },
        True,
        id="requests with everything",
    ),
    pytest.param(
        PATH
        + f"?integrated_account_id={ACCOUNT}{WINDOW}&truto_super_query=apac&created_at[gt]=2024-01-15T00:00:00Z"
        "&truto_exclude_fields[]=id&truto_exclude_fields[]=name&truto_key_by=id&remote_query[foo]=bar",
        {
            "start_time": START,
            "end_time": END,
            "key_by": "id",
            "exclude_fields": ["id", "name"],
            "super_query": "apac",
            "remote_query": {"foo": "bar"},
            "extra_query": {"created_at": {"gt": "2024-01-15T00:00:00Z"}},
        },
        False,
        id="curl with everything",
    ),
]


@pytest.mark.parametrize(("today", "filters", "is_fully_escaped"), SAMPLES)
def test_other_clients_requests_ask_the_same(
    today: str, filters: dict[str, Any], is_fully_escaped: bool
) -> None:
    """Switching to this package must not change the question: the service reads both targets alike."""
    ours = interactions(**filters).target()
    assert urlsplit(ours).path == urlsplit(today).path
    asked = parse_query(urlsplit(today).query)
    if asked.get("next_cursor") == "":
        del asked["next_cursor"]  # an empty cursor means the first page, for which we send none
    assert parse_query(urlsplit(ours).query) == asked
    if is_fully_escaped:
        assert ours == today.removesuffix("&next_cursor=")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ""),
        ({"limit": 50}, "limit=50"),
        ({"limit": None, "start_time": None, "users": None, "exclude_fields": None, "remote_query": None}, ""),
        ({"response_format": "unified"}, ""),
        ({"response_format": "debug"}, "truto_response_format=debug"),
        ({"response_format": "stream"}, "truto_response_format=stream"),
        ({"key_by": "id"}, "truto_key_by=id"),
        ({"ignore_limit": True}, "truto_ignore_limit=true"),
        ({"ignore_limit": False, "ignore_remote_data": False, "skip_api_call": False}, ""),
        ({"ignore_remote_data": True}, "truto_ignore_remote_data=true"),
        ({"skip_api_call": True}, "truto_skip_api_call=true"),
        ({"super_query": "wnam"}, "truto_super_query=wnam"),
        ({"exclude_fields": ["id"]}, "truto_exclude_fields[]=id"),
        ({"exclude_fields": ("id", "name")}, "truto_exclude_fields[]=id&truto_exclude_fields[]=name"),
        ({"exclude_fields": iter(["id", "name"])}, "truto_exclude_fields[]=id&truto_exclude_fields[]=name"),
        ({"exclude_fields": []}, ""),
        ({"remote_query": {"foo": "bar"}}, "remote_query[foo]=bar"),
        ({"remote_query": {"a": {"b": {"c": 1}}}}, "remote_query[a][b][c]=1"),
        ({"remote_query": {"a": [1, 2]}}, "remote_query[a][]=1&remote_query[a][]=2"),
        ({"remote_query": {}}, ""),
        ({"extra_query": {"created_at": {"gte": "2024", "lt": None}}}, "created_at[gte]=2024"),
        ({"extra_query": {"sort_by": {"created_at": "desc"}}}, "sort_by[created_at]=desc"),
    ],
)  # fmt: skip
def test_each_filter_is_sent_under_its_own_name(filters: dict[str, Any], expected: str) -> None:
    assert unquote(sent(**filters)) == expected


def test_parameters_are_in_the_contracts_order_whatever_the_callers() -> None:
    """The same question is always the same text: readable logs, and caches that hit."""
    names = ["start_time", "end_time", "users", "limit", "next_cursor", "truto_response_format", "truto_key_by",
             "truto_ignore_limit", "truto_ignore_remote_data", "truto_exclude_fields", "truto_super_query",
             "truto_skip_api_call", "remote_query", "zz"]  # fmt: skip
    target = interactions(
        extra_query={"zz": 1}, remote_query={"a": 1}, skip_api_call=True, super_query="apac", exclude_fields=["id"],
        ignore_remote_data=True, ignore_limit=True, key_by="id", response_format="debug", limit=5, users=["1"],
        end_time=END, start_time=START,
    ).target(cursor="c")  # fmt: skip
    given_names = [
        unquote(part).partition("=")[0].partition("[")[0] for part in target.partition("?")[2].split("&")
    ]
    assert given_names == ["integrated_account_id", *names]


@pytest.mark.parametrize("cursor", [None, ""])
def test_an_empty_cursor_is_never_sent(cursor: str | None) -> None:
    assert "cursor" not in interactions().target(cursor=cursor)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@example("-._~")
@example("a+b")
@example("a%20b")
@example("Zoë")
def test_every_cursor_is_sent_as_the_service_gave_it(cursor: str) -> None:
    target = interactions().target(cursor=cursor)
    assert parse_query(urlsplit(target).query)["next_cursor"] == cursor
    assert target.endswith(f"next_cursor={quote(cursor, safe='')}")


def test_a_cursor_is_sent_escaped_and_with_all_filters() -> None:
    """Contract section 2: all other parameters are sent again with each cursor."""
    query = interactions(start_time=START, limit=5)
    assert query.target(cursor="a+b/c==").replace("&next_cursor=a%2Bb%2Fc%3D%3D", "") == query.target()


def test_the_targets_of_a_query_differ_only_in_their_cursor() -> None:
    """What is encoded once and cached must equal what each page would encode for itself."""
    query = interactions(users=map(str, range(25)), limit=5, start_time=START, extra_query={"zz": 1})
    targets = RequestTargets(query)
    for batch in (0, 1, 0):
        for cursor in (None, "a/b", "", "c"):
            asked = parse_query(urlsplit(targets.at(batch, cursor)).query)
            assert asked.pop("next_cursor", None) == (cursor or None)
            assert asked == parse_query(urlsplit(query.target(batch)).query)
            assert targets.at(batch, cursor) == query.target(batch, cursor)
    assert [len(parse_query(urlsplit(targets.at(batch, "c")).query)["users"]) for batch in (0, 1)] == [20, 5]
    with pytest.raises(UsageError, match="next_cursor"):
        targets.at(0, "\ud800")


@given(
    account=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    first=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    is_used=st.booleans(),
)
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"start_time": START, "limit": 5, "users": list(map(str, range(25)))},
        {"extra_query": {"zz": 1, "a": "integrated_account_id=x"}, "object_arrays": "brackets"},
        {"remote_query": {"integrated_account_id": "a&b", "ids": [1, 2]}},
    ],
)
def test_targets_encoded_for_one_account_are_right_for_another(
    filters: dict[str, Any], account: str, first: str, is_used: bool
) -> None:
    """A pull encodes the query of a window once and swaps the account in the text."""
    query = interactions(account=account, **filters)
    targets = RequestTargets(interactions(account=first, **filters))
    if is_used:
        targets.start_position(None)
        targets.at(0, None)
    assert targets.start_position(None) == targets.query.start_position(None)
    other = targets.for_account(account)
    assert other.query == query
    assert other.start_position(None) == query.start_position(None)
    for batch in range(len(query.user_batches)):
        for cursor in (None, "c/d"):
            assert other.at(batch, cursor) == query.target(batch, cursor)


def test_without_an_account_nothing_is_sent_for_it() -> None:
    """An integrated-account token implies its account."""
    assert interactions(account=None).target() == PATH
    assert interactions(account=None, limit=1).target() == PATH + "?limit=1"


def test_an_integrated_account_stands_for_its_id() -> None:
    query = interactions(account=IntegratedAccount(id=ACCOUNT))
    assert query.account == ACCOUNT
    assert query.target() == interactions().target()


# Encoding


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"a": True, "b": False}, "a=true&b=false"),
        ({"a": None, "b": "", "c": 0}, "b=&c=0"),
        ({"a": 5, "b": -1.5, "c": 1e22}, "a=5&b=-1.5&c=1e%2B22"),
        ({"a": 10**30}, "a=1" + "0" * 30),
        ({"a": UUID(ACCOUNT)}, f"a={ACCOUNT}"),
        ({"a": START, "b": date(2024, 1, 1)}, "a=2024-01-01T00%3A00%3A00Z&b=2024-01-01T00%3A00%3A00Z"),
        ({"a": {"b": {"c": "v"}}}, "a%5Bb%5D%5Bc%5D=v"),
        ({"a": {}, "b": [], "c": {"d": {}}, "e": [None]}, ""),
        ({"a": ["x", "y"]}, "a%5B%5D=x&a%5B%5D=y"),
        ({"a": ("x", None, "y")}, "a%5B%5D=x&a%5B%5D=y"),
        ({"a": {"y", "x"}}, "a%5B%5D=x&a%5B%5D=y"),
        ({"a": [{"b": 1}, {"b": 2}]}, "a%5B0%5D%5Bb%5D=1&a%5B1%5D%5Bb%5D=2"),
        ({"a": [{"b": 1}, None, {"b": 2}]}, "a%5B0%5D%5Bb%5D=1&a%5B1%5D%5Bb%5D=2"),
        ({"a": [{"b": 1}, "x"]}, "a%5B0%5D%5Bb%5D=1&a%5B1%5D=x"),
        ({"a": [["x", "y"], ["z"]]}, "a%5B0%5D%5B%5D=x&a%5B0%5D%5B%5D=y&a%5B1%5D%5B%5D=z"),
        ({"a": [frozenset("x")]}, "a%5B0%5D%5B%5D=x"),
        ({"integration.name": "gong"}, "integration.name=gong"),
        ({"a": "2024-01-01T00:00:00+05:30"}, "a=2024-01-01T00%3A00%3A00%2B05%3A30"),
        ({"a": "&=#?/ %+[]"}, "a=%26%3D%23%3F%2F%20%25%2B%5B%5D"),
        ({"a b&c=d": "v"}, "a%20b%26c%3Dd=v"),
        ({"a": {"b&c": 1}}, "a%5Bb%26c%5D=1"),
        ({"name": "Zoë 李 🙂"}, "name=Zo%C3%AB%20%E6%9D%8E%20%F0%9F%99%82"),
        ({"a": "\x00\r\n\t\x7f\u2028"}, "a=%00%0D%0A%09%7F%E2%80%A8"),
        ({"a": "AZaz09-._~"}, "a=AZaz09-._~"),
    ],
)
def test_values_of_every_kind(params: dict[str, Any], expected: str) -> None:
    assert encode_query(params) == expected


def test_enum_members_are_sent_as_their_values() -> None:
    class Region(str, Enum):  # as callers on older Pythons write it  # noqa: UP042
        APAC = "apac"

    class Size(IntEnum):
        SMALL = 5

    assert sent(super_query=Region.APAC, limit=Size.SMALL) == "limit=5&truto_super_query=apac"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Text("a"), "a"),
        (Whole(5), "5"),
        (Real(1.5), "1.5"),
        (Letter.X, "x"),
        (Colour.RED, "red"),
        (Colour.FIVE, "5"),
        (Size.SMALL, "5"),
        (Level.LOW, "5"),
        (NumPyScalar(5, "i"), "5"),
        (NumPyScalar(5, "u"), "5"),
        (NumPyScalar(0.5, "f"), "0.5"),
        (NumPyScalar(True, "b"), "true"),
        (Stamp(2024, 1, 1, microsecond=123_456, tzinfo=UTC), "2024-01-01T00:00:00.123456Z"),
    ],
)
def test_values_of_other_libraries_are_sent_as_the_plain_values_they_hold(value: Any, text: str) -> None:
    """Their own text forms are for people: ``Size.SMALL``, or a time with nanoseconds."""
    for name in ("remote_query", "extra_query"):
        query = interactions(**{name: {"x": value, "y": [value], "z": {"a": {value}}}})
        plain = interactions(**{name: {"x": text, "y": [text], "z": {"a": {text}}}})
        assert query.target() == plain.target()
        assert query.fingerprint() == plain.fingerprint()
    assert unquote(encode_query({"a": value})) == f"a={text}"


def test_ids_names_and_filters_become_plain_values() -> None:
    """What is stored, compared or used as a key later must not depend on the type it came in."""
    query = interactions(
        account=Text("a"),
        users=[Text("1"), {"id": Letter.X}, Person(id=Text("2"))],
        limit=NumPyScalar(5, "i"),
        exclude_fields={Text("id"), "name"},
        ignore_limit=NumPyScalar(True, "b"),
        ignore_remote_data=NumPyScalar(False, "b"),
        super_query=Text("apac"),
        key_by=Text("id"),
        response_format=Text("debug"),
        object_arrays=Text("indices"),
        remote_query={Text("k"): 1, Letter.X: 2},
        extra_query={Text("n"): 1},
    )
    plain = interactions(
        account="a",
        users=["1", "x", "2"],
        limit=5,
        exclude_fields={"id", "name"},
        ignore_limit=True,
        super_query="apac",
        key_by="id",
        response_format="debug",
        remote_query={"k": 1, "x": 2},
        extra_query={"n": 1},
    )
    assert query == plain
    assert repr(query) == repr(plain)
    assert query.fingerprint() == plain.fingerprint()
    assert interactions(account=IntegratedAccount(id=Text("a"))).account == "a"
    assert type(interactions().start_position(Text("c")).cursor) is str
    text = str(plain.start_position(None))
    assert query.start_position(Text(text)) == plain.start_position(None)


@pytest.mark.parametrize(
    "value",
    [
        NotATime(), Missing(), NumPyScalar(5, "M"), NumPyScalar(5, "m"), NumPyScalar(object(), "f"),
        Real(math.nan), NumPyScalar(math.inf, "f"), 10**5000, timedelta(1),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_of_another_library_without_a_plain_value_is_refused(value: Any) -> None:
    for filters in (
        {"remote_query": {"x": value}},
        {"extra_query": {"x": [value]}},
        {"extra_query": {value if value.__hash__ else b"": 1}},
        {"limit": value},
        {"users": [value]},
        {"users": value},
        {"exclude_fields": [value]},
        {"exclude_fields": value},
        {"ignore_limit": value},
        {"super_query": value},
        {"key_by": value},
        {"object_arrays": value},
        {"response_format": value},
        {"account": value},
    ):
        with pytest.raises(UsageError):
            interactions(**filters)
    with pytest.raises(UsageError, match="cursor takes"):
        interactions().start_position(value)


def test_an_array_of_numpys_is_not_taken_for_one_of_its_values() -> None:
    array = NumPyScalar(5, "i")
    array.shape = (1,)  # type: ignore[assignment]
    with pytest.raises(UsageError, match="1 or more"):
        interactions(limit=array)


def test_object_arrays_can_be_sent_in_the_documented_form() -> None:
    """An environment may replace the query mapping and then expect ``users[][id]``."""
    assert encode_query({"users": [{"id": "1"}, {"id": "2"}]}, object_arrays="brackets") == (
        "users%5B%5D%5Bid%5D=1&users%5B%5D%5Bid%5D=2"
    )
    assert sent(users=["1", "2"], object_arrays="brackets") == "users%5B%5D%5Bid%5D=1&users%5B%5D%5Bid%5D=2"


def test_only_the_indexed_form_keeps_users_apart() -> None:
    """Why indices are the default: the service reads the documented form as one user with two ids."""
    users = [{"id": "1"}, {"id": "2"}]
    assert parse_query(encode_query({"users": users})) == {"users": users}
    assert parse_query(encode_query({"users": users}, object_arrays="brackets")) == {
        "users": [{"id": ["1", "2"]}]
    }


@pytest.mark.parametrize("value", [b"x", object(), math.nan, math.inf, -math.inf, 1j, iter("ab"), "\ud800"])
def test_a_value_without_a_text_form_is_refused_and_named(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^extra\[deep\]"):
        encode_query({"extra": {"deep": value}})


@pytest.mark.parametrize("name", [1, None, b"a", "\ud800"])
def test_a_name_that_is_not_a_string_is_refused(name: Any) -> None:
    for params in ({name: 1}, {"a": {name: 1}}, {"a": [{name: 1}]}):
        with pytest.raises(UsageError, match="parameter name"):
            encode_query(params)


def test_a_name_that_is_not_a_string_is_refused_whatever_its_value() -> None:
    with pytest.raises(UsageError, match="parameter name"):
        encode_query({1: None})  # type: ignore[dict-item]


@pytest.mark.parametrize("make", [lambda i: {"id": str(i)}, str], ids=["objects", "scalars"])
def test_an_array_the_service_would_misread_is_refused(make: Callable[[int], Any]) -> None:
    """Its parser turns an array with an index above 19 into an object."""
    values = [make(i) for i in range(21)]
    assert parse_query(encode_query({"a": values[:20]})) == {"a": values[:20]}
    with pytest.raises(UsageError, match="21 values.*20"):
        encode_query({"a": values})


NAMES = st.text(min_size=1, max_size=4).filter(
    # Brackets are syntax, and digits would be an index.
    lambda name: not set("[]") & set(name) and not (name.isascii() and name.isdigit())
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)


def nested(depth: int) -> st.SearchStrategy[Any]:
    """Values whose names have at most ``depth`` brackets."""
    if depth == 0:
        return SCALARS
    inner = nested(depth - 1)
    return SCALARS | st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3)


def as_read(value: Any) -> Any:
    """What the service reads back: strings, without None and empty values. None if nothing is left."""
    if isinstance(value, dict):
        return {key: read for key, item in value.items() if (read := as_read(item)) is not None} or None
    if isinstance(value, list):
        return [read for item in value if (read := as_read(item)) is not None] or None
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


@given(st.dictionaries(NAMES, nested(5), max_size=4))
def test_the_service_reads_back_what_was_sent(params: dict[str, Any]) -> None:
    query = encode_query(params)
    assert query.isascii()
    assert not set(query) & set(" +#?/[]\r\n")
    assert parse_query(query) == (as_read(params) or {})


@given(
    st.lists(SCALARS, max_size=20),
    st.lists(st.dictionaries(NAMES, SCALARS, min_size=1, max_size=2), max_size=20),
)
def test_arrays_are_read_back_up_to_the_parsers_limit(scalars: list[Any], objects: list[Any]) -> None:
    params = {"s": scalars, "o": objects}
    assert parse_query(encode_query(params)) == (as_read(params) or {})


# Times


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2024, 1, 1, 12, 30, tzinfo=UTC), "2024-01-01T12:30:00Z"),
        (datetime(2024, 1, 1, tzinfo=INDIA), "2023-12-31T18:30:00Z"),
        (datetime(2024, 1, 1, tzinfo=timezone(-timedelta(hours=8))), "2024-01-01T08:00:00Z"),
        (datetime(2024, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC), "2024-01-01T00:00:00.500Z"),
        (datetime(2024, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC), "2024-01-01T00:00:00.123Z"),
        (datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC), "2024-01-01T00:00:00.000001Z"),
        (datetime(2024, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC), "2024-01-01T00:00:00.123456Z"),
        (
            datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=1, microseconds=1))),
            "2023-12-31T23:59:58.999999Z",
        ),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
        (datetime.min.replace(tzinfo=timezone(-timedelta(hours=23))), "0001-01-01T23:00:00Z"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=23))), "9999-12-31T00:59:59.999999Z"),
        (date(2024, 2, 29), "2024-02-29T00:00:00Z"),
        (date.min, "0001-01-01T00:00:00Z"),
    ],
)
def test_times_are_sent_as_utc(value: Any, expected: str) -> None:
    assert format_time(value, "start_time") == expected
    assert parse_query(sent(start_time=value)) == {"start_time": expected}


class NoZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        raise LookupError("no such zone")


NOW = datetime(2024, 3, 15, 13, 45, 7, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-01-31", "2024-01-31T00:00:00Z"),
        (" 2024-01-31\n", "2024-01-31T00:00:00Z"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("2024-01-01t00:00:00z", "2024-01-01t00:00:00z"),
        ("2024-01-01T00:00:00+05:30", "2024-01-01T00:00:00+05:30"),
        ("2024-01-01 00:00-08", "2024-01-01 00:00-08"),
        ("20240101T000000+0530", "20240101T000000+0530"),
        ("2024-01-01T00:00:00.123456789Z", "2024-01-01T00:00:00.123456789Z"),
        (Text("2024-01-01T00:00:00Z"), "2024-01-01T00:00:00Z"),
        ("now", "2024-03-15T13:45:07Z"),
        ("today", "2024-03-15T00:00:00Z"),
        ("-7d", "2024-03-08T13:45:07Z"),
        (" -7d ", "2024-03-08T13:45:07Z"),
        ("+90s", "2024-03-15T13:46:37Z"),
        ("now-2w", "2024-03-01T13:45:07Z"),
        ("today-7d", "2024-03-08T00:00:00Z"),
        ("today-90m", "2024-03-14T22:30:00Z"),
        (timedelta(days=-7), "2024-03-08T13:45:07Z"),
        (Length(-7), "2024-03-08T13:45:07Z"),
        (Stamp(2024, 1, 1, 12, 30, 5, 123_456, tzinfo=INDIA), "2024-01-01T07:00:05.123456Z"),
        (Stamp(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00Z"),
    ],
)
def test_one_grammar_of_times_for_lists_and_plans(value: Any, expected: str) -> None:
    """What works in a plan works in a list, and means the same."""
    assert parse_query(sent(start_time=value, now=NOW)) == {"start_time": expected}
    assert parse_query(sent(end_time=value, now=NOW)) == {"end_time": expected}
    _, (window,) = resolve_windows(None, value, None, NOW)
    assert window.end == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("last tuesday", "is not a time; write it like"),
        ("", "is not a time"),
        ("-7", "is not a time"),
        ("7d", "is not a time"),
        ("-7y", "is not a time"),
        ("Today", "is not a time"),
        ("yesterday", "is not a time"),
        ("1704067200", "is not a time"),
        ("2024", "is not a time"),
        ("2024-01-01x00:00:00Z", "is not a time"),
        ("2024-01-01T00:00:00 Z", "is not a time"),
        ("2024-01-01T00:00:00\u221205:00", "is not a time"),
        ("\ud800", "is not a time"),
        ("-\u0667d", "is not a time"),
        ("2024-01-01T00:00:00", "has no time zone; write 2024-01-01T00:00:00Z if it is UTC"),
        ("20240101", "has no time zone; write it like"),
        ("-9999999w", "outside of the calendar"),
        ("0001-01-01T00:00:00+05:00", "outside of the calendar"),
        (datetime.min.replace(tzinfo=INDIA), "outside of the calendar"),
        (timedelta.max, "outside of the calendar"),
        (Stamp(2024, 1, 1), "start_time=2024-01-01T00:00:00 has no time zone"),
        (NotATime(), "must be a point in time, not NaT"),
        (Length(math.nan), "must be a length of time"),
        (datetime(2024, 1, 1, tzinfo=NoZone()), "must be a point in time"),
        (NumPyScalar(1704067200000000000, "M"), "must be an aware datetime"),
        (NumPyScalar(5, "i"), "must be an aware datetime"),
        (Missing(), "must be an aware datetime, .* not <NA>"),
        (b"2024-01-01", "must be an aware datetime"),
    ],
)
def test_what_is_no_time_is_refused_before_a_request(value: Any, said: str) -> None:
    """The service would answer with an error of the provider, or with another window."""
    with pytest.raises(UsageError, match=said):
        interactions(start_time=value, now=NOW)
    with pytest.raises(UsageError, match=said):
        resolve_windows(value, None, None, NOW)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2024-02-01", "2024-01-01"),
        ("2024-02-01T00:00:00Z", "2024-02-01T01:00:00+02:00"),
        (datetime(2024, 1, 2, tzinfo=INDIA), date(2024, 1, 1)),
    ],
)
def test_an_end_before_the_start_is_refused(start: Any, end: Any) -> None:
    """The service would refuse it, or the provider, in words of its own."""
    with pytest.raises(UsageError, match=r"end_time=.* is before start_time="):
        interactions(start_time=start, end_time=end)
    interactions(start_time=start, end_time=start)
    interactions(start_time=end, end_time=start)
    interactions(start_time=start, end_time="-1d", now=datetime(2000, 1, 1, tzinfo=UTC))


def test_extra_query_is_the_way_round_the_grammar_of_times() -> None:
    """An environment may map other texts."""
    assert unquote(sent(extra_query={"start_time": "last tuesday"})) == "start_time=last tuesday"


def test_both_times_are_resolved_by_one_clock() -> None:
    query = parse_query(urlsplit(interactions(start_time="-1s", end_time="now").target()).query)
    start, end = (datetime.fromisoformat(query[name]) for name in ("start_time", "end_time"))
    assert end - start == timedelta(seconds=1)


def test_a_position_keeps_the_relative_times_of_its_walk() -> None:
    """A later run resolves ``-7d`` to another time: its pages would not fit those before."""
    first = interactions(start_time="-7d", end_time="today", limit=5, now=NOW)
    after = Position.parse(str(position_after(first.start_position(None), "c", 1)))
    assert after.cursor == "c"
    for again in ("-7d", "-1w", timedelta(days=-7)):
        later = interactions(start_time=again, end_time="today", limit=5, now=NOW + timedelta(days=3))
        assert later.target() != first.target()
        for cursor in (after, str(after)):
            continued = later.continued_from(cursor)
            assert continued.start_position(cursor) == after
            assert continued.target(cursor="c") == first.target(cursor="c")
    exact = interactions(start_time="2024-03-08T13:45:07Z", end_time="2024-03-15T00:00:00Z", limit=5)
    assert exact.continued_from(after).start_position(after) == after
    for other in (
        {"start_time": "-8d"},
        {"end_time": "now"},
        {"start_time": "today-7d"},
        {"end_time": None},
        {"limit": 6},
    ):
        filters: dict[str, Any] = {"start_time": "-7d", "end_time": "today", "limit": 5, "now": NOW} | other
        with pytest.raises(UsageError, match="from a call with other filters"):
            interactions(**filters).continued_from(after).start_position(after)


def test_a_position_after_the_last_user_of_a_batch_keeps_them_too() -> None:
    query = interactions(start_time="-7d", users=map(str, range(25)), now=NOW)
    position = position_after(query.start_position(None), None, 2)
    assert position is not None
    assert (position.user_batch, position.cursor, position.times) == (1, None, query.times)


def test_positions_without_relative_times_have_the_text_they_had() -> None:
    """Stored ones stay readable."""
    query = interactions(start_time=START)
    assert query.continued_from(query.start_position("c")) is query
    assert str(Position(filters="f", user_batch=1, cursor="c")) == "truto-position-1.WzEsImMiLCJmIl0"
    assert Position.parse("truto-position-1.WzEsImMiLCJmIl0") == Position(
        filters="f", user_batch=1, cursor="c"
    )


def test_a_bare_cursor_is_refused_with_a_relative_time() -> None:
    """It does not say what the time was when its walk began."""
    with pytest.raises(UsageError, match="start_time='now-7d' was resolved; pass page.position"):
        interactions(start_time="-7d").start_position("abc")


@given(st.datetimes(timezones=st.timezones() | st.just(INDIA)))
def test_the_text_means_the_same_time(value: datetime) -> None:
    try:
        text = format_time(value, "start_time")
    except UsageError:
        assert value.year in {1, 9999}  # out of range in UTC
        return
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) - value == timedelta(0)  # `==` is False in the hour that DST skips


@pytest.mark.parametrize("name", ["start_time", "end_time"])
def test_a_naive_datetime_is_refused_with_the_fix(name: str) -> None:
    """A wrongly guessed offset would silently ask for another window."""
    with pytest.raises(UsageError) as caught:
        interactions(**{name: datetime(2024, 1, 1)})
    assert str(caught.value).startswith(f"{name}=2024-01-01T00:00:00 has no time zone")
    assert f"{name}.replace(tzinfo=timezone.utc)" in str(caught.value)
    with pytest.raises(UsageError, match="no time zone"):
        interactions(extra_query={"created_at": {"gt": datetime(2024, 1, 1)}})


@pytest.mark.parametrize(
    "value",
    [datetime.min.replace(tzinfo=INDIA), datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), 0, 1.5, True,
     b"2024", START.time(), ["2024"]],
)  # fmt: skip
def test_a_time_that_cannot_be_sent_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="start_time"):
        interactions(start_time=value)


# Merging


@pytest.mark.parametrize(
    ("params", "extra", "expected"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": 1}, {"missing": None}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": 3}}, {"a": {"c": 2, "d": 3}}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"d": 2}}}, {"a": {"b": {"c": 1, "d": 2}}}),
        ({"a": 1}, {"a": {"b": 2, "c": None}}, {"a": {"b": 2}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
    ],
)
def test_extra_parameters_are_merged_deep_and_none_removes(params: Any, extra: Any, expected: Any) -> None:
    before = copy.deepcopy((params, extra))
    assert deep_merge(params, extra) == expected
    assert (params, extra) == before


def test_extra_query_can_change_every_parameter() -> None:
    """An environment may replace the query mapping, so the caller has the last word."""
    assert (
        interactions(start_time=START, extra_query={"start_time": None}).target() == interactions().target()
    )
    assert unquote(sent(limit=5, extra_query={"limit": 7})) == "limit=7"
    assert (
        unquote(sent(ignore_limit=True, extra_query={"truto_ignore_limit": False}))
        == "truto_ignore_limit=false"
    )
    assert unquote(
        sent(remote_query={"a": 1, "b": 2}, extra_query={"remote_query": {"b": None, "c": 3}})
    ) == ("remote_query[a]=1&remote_query[c]=3")
    assert interactions(users=["1"], extra_query={"users": None}).target() == interactions().target()


def test_next_cursor_in_extra_query_is_refused() -> None:
    """It would be sent with every page, and paging would never end."""
    with pytest.raises(UsageError, match="cursor="):
        interactions(extra_query={"next_cursor": "c"})


def test_nothing_the_caller_passed_in_is_changed() -> None:
    filters: dict[str, Any] = {
        "users": [{"id": "1", "name": "n"}, "2", "1"],
        "exclude_fields": ["id", "name"],
        "remote_query": {"a": {"b": [1, None, {"c": {2}}]}, "n": None},
        "extra_query": {"remote_query": {"a": {"b": None}}, "created_at": {"gt": START}},
    }
    before = copy.deepcopy(filters)
    query = interactions(**filters)
    query.target(cursor="c")
    query.start_position(None)
    assert filters == before


def test_what_the_caller_changes_later_does_not_change_the_query() -> None:
    """Filters are sent again with every page; they must not change half-way."""
    remote: dict[str, Any] = {"a": {"b": [1]}}
    extra: dict[str, Any] = {"created_at": {"gt": "2024"}}
    query = interactions(remote_query=remote, extra_query=extra)
    before = query.target(), query.fingerprint()
    remote["a"]["b"].append(2)
    extra["created_at"]["lt"] = "2025"
    assert (query.target(), query.fingerprint()) == before


# Users


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        (None, ((),)),
        (["b", "a"], (("b", "a"),)),
        (["b", "a", "b", "a"], (("b", "a"),)),
        ([Person(id="1"), {"id": "2"}, "3", {"id": "1", "name": "n"}], (("1", "2", "3"),)),
        ((str(i) for i in range(2)), (("0", "1"),)),
        ({"b", "c", "a"}, (("a", "b", "c"),)),
        (map(str, range(20)), (tuple(map(str, range(20))),)),
        (map(str, range(21)), (tuple(map(str, range(20))), ("20",))),
        ([*map(str, range(20)), "0", "5"], (tuple(map(str, range(20))),)),
    ],
)
def test_users_are_split_at_twenty_in_their_order_without_duplicates(users: Any, expected: Any) -> None:
    assert split_users(users) == expected


@pytest.mark.parametrize("users", [[], (), set(), iter(()), (each for each in ())])
def test_no_users_are_refused(users: Any) -> None:
    """A filter that came out empty would ask for everyone."""
    with pytest.raises(UsageError, match="users is empty.*users=None"):
        interactions(users=users)


@given(st.lists(st.text(min_size=1, max_size=2), min_size=1, max_size=70))
def test_every_user_is_in_one_batch(users: list[str]) -> None:
    batches = split_users(users)
    assert [user for batch in batches for user in batch] == list(dict.fromkeys(users))
    assert all(len(batch) == 20 for batch in batches[:-1])
    assert len(batches[-1]) <= 20


@pytest.mark.parametrize(
    "user",
    [
        234599484848423,
        9.8765432109876543e19,
        True,
        None,
        "",
        b"1",
        {"id": 5},
        {"name": "n"},
        {},
        Person(),
        ["1"],
    ],
)
def test_a_user_id_that_is_not_a_string_is_refused(user: Any) -> None:
    """Ids have up to 20 digits: through a float, one becomes another user's."""
    with pytest.raises(UsageError, match="a user id must be a non-empty string"):
        interactions(users=["1", user])


@pytest.mark.parametrize("users", ["234599484848423", "", Person(id="1"), {"id": "1"}])
def test_a_single_user_is_refused_with_the_fix(users: Any) -> None:
    """A string is iterable too: each digit would pass as a user."""
    with pytest.raises(UsageError) as caught:
        interactions(users=users)
    assert f"users=[{users!r}]" in str(caught.value)


def test_each_batch_of_users_has_its_own_targets() -> None:
    query = interactions(users=[f"u{i}" for i in range(45)])
    asked = [parse_query(urlsplit(query.target(batch)).query)["users"] for batch in range(3)]
    assert [len(users) for users in asked] == [20, 20, 5]
    assert asked[2] == [{"id": f"u{i}"} for i in range(40, 45)]


# Arguments that can never be right


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"limit": 0}, "1 or more"),
        ({"limit": -1}, "1 or more"),
        ({"limit": True}, "1 or more"),
        ({"limit": 1.0}, "1 or more"),
        ({"limit": "5"}, "1 or more"),
        ({"limit": 10**400}, "1 or more"),
        ({"limit": 10**5000}, "1 or more"),
        ({"limit": math.nan}, "1 or more"),
        ({"ignore_limit": "false"}, "ignore_limit must be True or False"),
        ({"skip_api_call": 1}, "skip_api_call must be True or False"),
        ({"exclude_fields": [5]}, "5 is not a name"),
        ({"exclude_fields": [""]}, "'' is not a name"),
        ({"exclude_fields": {"id": 1}}, "exclude_fields must be a list of names"),
        ({"users": 5}, "users must be a list of ids"),
        ({"exclude_fields": "id"}, "exclude_fields=\\['id'\\]"),
        ({"exclude_fields": 5}, "exclude_fields must be a list of names"),
        ({"remote_query": "a=b"}, "remote_query must be a dict"),
        ({"remote_query": [("a", "b")]}, "remote_query must be a dict"),
        ({"extra_query": "a=b"}, "extra_query must be a dict"),
        ({"extra_query": 5}, "extra_query must be a dict"),
        ({"object_arrays": "repeat"}, "'indices' or 'brackets'"),
        ({"super_query": b"apac"}, "truto_super_query"),
        ({"account": ""}, "integrated_account_id"),
        ({"account": 5}, "integrated_account_id"),
        ({"account": IntegratedAccount()}, "integrated_account_id"),
        ({"account": "\ud800"}, "integrated_account_id"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_at_the_call(filters: dict[str, Any], said: str) -> None:
    """At the call, and not at the first page, which may be fetched much later and elsewhere."""
    with pytest.raises(UsageError, match=said):
        interactions(**filters)


def test_an_unknown_filter_is_a_type_error_as_for_any_call() -> None:
    with pytest.raises(TypeError, match="start.*extra_query"):
        interactions(start=START)


def test_parameters_that_contain_themselves_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = [loop]
    for name in ("remote_query", "extra_query"):
        with pytest.raises(UsageError, match="nested"):
            interactions(**{name: loop})


@pytest.mark.parametrize("inner", ["x", ["x"], [{"b": "x"}], {"b": None}])
@pytest.mark.parametrize("name", ["remote_query", "extra_query"])
def test_what_the_service_reads_of_nested_parameters_is_sent_and_the_rest_is_refused(
    name: str, inner: Any
) -> None:
    """Its parser keeps five levels of brackets, and folds the deeper ones into one odd key, without an error."""
    own = 1 if name == "extra_query" else 0  # the keys of extra_query are names of their own
    brackets = encode_query({"a": {"b": "x"} if inner == {"b": None} else inner}).count("%5B")
    for levels in range(1, 8):
        nested = inner
        for _ in range(levels):
            nested = {"a": nested}
        depth = levels - own + brackets
        if inner == {"b": None} and depth == MAX_DEPTH + 1:
            continue  # sent or refused: it is nothing
        if depth > MAX_DEPTH:
            with pytest.raises(UsageError, match="nested more than 5 levels"):
                interactions(**{name: nested})
        else:
            query = interactions(**{name: nested})
            asked = parse_query(urlsplit(query.target()).query)
            asked.pop("integrated_account_id")
            assert asked == (as_read({name: nested} if name == "remote_query" else nested) or {})


def test_brackets_in_a_name_count_too() -> None:
    with pytest.raises(UsageError, match="nested more than 5 levels"):
        interactions(extra_query={"a[b][c][d]": {"e": {"f": {"g": 1}}}})


def test_more_parameters_than_the_service_reads_are_refused() -> None:
    """Its parser drops what comes after the thousandth, among it a part of the filter."""
    many = {f"n{number}": number for number in range(998)}
    assert len(parse_query(urlsplit(interactions(extra_query=many).target(cursor="c")).query)) == 1000
    with pytest.raises(UsageError, match="1,000 parameters"):
        interactions(extra_query=many | {"one": "more"})


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        (("a", "b"), "/a/b"),
        (("a/b", "c d"), "/a%2Fb/c%20d"),
        (("é?#%",), "/%C3%A9%3F%23%25"),
        (("...",), "/..."),
        ((Text("a"), Letter.X), "/a/x"),
    ],
)
def test_a_path_is_escaped_segment_by_segment(segments: tuple[str, ...], expected: str) -> None:
    assert join_path(*segments) == expected


@pytest.mark.parametrize("segment", ["", ".", "..", "\ud800", Text(".."), None, 5, b"a", Missing()])
def test_a_segment_that_would_change_the_path_is_refused(segment: Any) -> None:
    """A server resolves the dots: another resource would answer."""
    with pytest.raises(UsageError, match="path segment"):
        join_path("unified", segment)


# Where to start reading


def test_without_a_cursor_reading_starts_at_the_first_page() -> None:
    query = interactions()
    assert query.start_position(None) == query.start_position("") == Position(filters=query.fingerprint())


def test_a_bare_cursor_is_enough_with_one_batch_of_users() -> None:
    query = interactions(users=["1"] * 50)
    assert query.start_position("abc") == Position(filters=query.fingerprint(), cursor="abc")


def test_a_bare_cursor_is_refused_with_several_batches() -> None:
    """It does not say which batch it belongs to."""
    query = interactions(users=map(str, range(21)))
    with pytest.raises(UsageError, match="2 batches.*page.position"):
        query.start_position("abc")
    assert query.start_position(None).user_batch == 0


def test_the_text_none_is_refused_as_a_cursor() -> None:
    """``str(page.position)`` after the last page: taken for a cursor, it would be sent to the service."""
    for users in (None, map(str, range(21))):
        with pytest.raises(UsageError, match="after the last page"):
            interactions(users=users).start_position(str(None))


@given(st.integers(0, 2), st.none() | st.text(min_size=1))
def test_a_position_survives_as_text(user_batch: int, cursor: str | None) -> None:
    query = interactions(users=map(str, range(60)))
    position = Position(filters=query.fingerprint(), user_batch=user_batch, cursor=cursor)
    text = str(position)
    assert text.isascii()
    assert (
        text.replace("-", "").replace("_", "").replace(".", "").isalnum()
    )  # no quoting in shells, URLs or YAML
    assert (
        query.start_position(text)
        == query.start_position(position)
        == query.start_position(f" {text}\n")
        == position
    )


def test_a_truncated_position_is_refused() -> None:
    text = str(Position(filters="0123456789ab", user_batch=3, cursor="cursor/é?"))
    for end in range(len(Position.PREFIX), len(text)):
        with pytest.raises(UsageError, match="not the text of a Position"):
            Position.parse(text[:end])
        with pytest.raises(UsageError):
            interactions().start_position(text[:end])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "truto-position-2.WzAsbnVsbCwieCJd",
        *map("truto-position-1.".__add__, ["W10", "é", "W" * 4000]),
    ],
)
def test_text_that_is_not_a_position_is_refused_and_quoted_briefly(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Position.parse(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "change",
    [{"account": "other"}, {"account": None}, {"start_time": END}, {"end_time": None}, {"users": ["1"]},
     {"users": ["2", "1"]}, {"limit": 6}, {"response_format": "debug"}, {"exclude_fields": ["id"]},
     {"ignore_remote_data": True}, {"super_query": "apac"}, {"remote_query": {"a": 2}},
     {"extra_query": {"created_at": {"gt": "2024"}}}, {"object_arrays": "brackets"}],
)  # fmt: skip
def test_a_position_of_other_filters_is_refused(change: dict[str, Any]) -> None:
    """Pages of two different queries would be mixed."""
    filters: dict[str, Any] = {
        "start_time": START, "end_time": END, "users": ["1", "2"], "limit": 5, "remote_query": {"a": 1}
    }  # fmt: skip
    position = interactions(**filters).start_position("cursor")
    assert interactions(**filters).start_position(position) == position
    for form in (position, str(position)):
        with pytest.raises(UsageError, match="from a call with other filters"):
            interactions(**filters | change).start_position(form)


@pytest.mark.parametrize("user_batch", [-1, 3, 10**9])
def test_a_position_in_a_batch_that_does_not_exist_is_refused(user_batch: int) -> None:
    query = interactions(users=map(str, range(60)))
    with pytest.raises(UsageError, match="other filters"):
        query.start_position(Position(filters=query.fingerprint(), user_batch=user_batch))


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "account": st.sampled_from([ACCOUNT, "b"]),
        "start_time": st.sampled_from([None, START, END]),
        "users": st.none() | st.lists(st.sampled_from("ab"), min_size=1, max_size=2),
        "limit": st.none() | st.integers(1, 3),
        "response_format": st.sampled_from(["unified", "raw"]),
        "ignore_limit": st.booleans(),
        "exclude_fields": st.lists(st.sampled_from(["id", "user"]), max_size=2),
        "remote_query": st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2),
        "extra_query": st.dictionaries(st.sampled_from(["a", "limit"]), st.integers(1, 2), max_size=2),
    },
)


@given(FILTERS, FILTERS)
def test_fingerprints_are_equal_exactly_when_the_queries_are(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = interactions(**one), interactions(**other)
    asked = [parse_query(urlsplit(query.target()).query) for query in (first, second)]
    assert (first.fingerprint() == second.fingerprint()) == (asked[0] == asked[1])


def test_the_order_of_keys_does_not_change_the_fingerprint() -> None:
    """Equal dicts are equal filters, whatever order another program builds them in."""
    one = interactions(remote_query={"a": 1, "b": {"c": 2, "d": 3}}, extra_query={"x": 1, "y": 2})
    other = interactions(extra_query={"y": 2, "x": 1}, remote_query={"b": {"d": 3, "c": 2}, "a": 1})
    assert one.fingerprint() == other.fingerprint()
    assert (
        interactions(remote_query={"a": [1, 2]}).fingerprint()
        != interactions(remote_query={"a": [2, 1]}).fingerprint()
    )


def test_filters_given_as_sets_have_the_same_fingerprint_in_every_process() -> None:
    """The order of a set differs between processes; a stored position must still fit."""
    program = (
        "from truto_ci_async._wire.list_query import list_query\n"
        "names = {f'name-{i}' for i in range(18)}\n"
        "query = list_query('u', account='a', users=names, exclude_fields=names, remote_query={'in': names})\n"
        "print(query.fingerprint(), query.target())\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
