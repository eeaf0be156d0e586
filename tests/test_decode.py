"""Decoding arrays of typed items: what is repaired, what is left out, and that every change is reported."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Raw, Struct

from truto_ci_async._json import UNKNOWN, replace_surrogates
from truto_ci_async._wire import repair
from truto_ci_async._wire.item_reader import ItemReader, item_reader
from truto_ci_async._wire.lenient_times import read_datetime
from truto_ci_async._wire.surrogates import surrogate_notes
from truto_ci_async.errors import DecodeError, UsageError
from truto_ci_async.models import Interaction, Issue, Person
from truto_ci_async.models.unknown_members import MOST_NAMES

READER = ItemReader(Interaction)
STRICT = ItemReader(Interaction, on_invalid="raise")


def read(*items: bytes, start: int = 0) -> tuple[list[Interaction], list[Issue]]:
    return READER.read_array(b"[" + b",".join(items) + b"]", start=start)


def read_one(item: bytes) -> tuple[Interaction, list[Issue]]:
    items, issues = read(item)
    assert len(items) == 1
    return items[0], issues


# Good items


def test_a_good_page_has_no_issues() -> None:
    items, issues = read(b'{"id": "a", "user": {"id": "9"}, "metrics": {"patience": 1}}', b'{"id": "b"}')
    assert [item.id for item in items] == ["a", "b"]
    assert issues == []


@pytest.mark.parametrize("text", [b"[]", b" [ ] "])
def test_an_empty_array_has_no_items(text: bytes) -> None:
    assert READER.read_array(text) == ([], [])


@pytest.mark.parametrize("key", ["id", "remote_data", "created_at", "additional_metrics"])
def test_one_known_key_is_enough_even_if_it_is_null(key: str) -> None:
    """``truto_exclude_fields`` can remove every field but one."""
    item, issues = read_one(json.dumps({key: None}).encode())
    assert item == Interaction()
    assert issues == []


def test_a_deeply_nested_record_just_works() -> None:
    deep = b"[" * 200 + b"]" * 200
    item, issues = read_one(b'{"id": "a", "remote_data": ' + deep + b', "other": ' + deep + b"}")
    assert bytes(item.remote_json) == deep
    assert issues == []


def test_the_last_of_two_equal_keys_wins() -> None:
    item, issues = read_one(b'{"id": 5, "id": "a", "timezone": "x"}')
    assert (item.id, issues) == ("a", [])


# Fields of the wrong type


@pytest.mark.parametrize(
    ("item", "path", "expected"),
    [
        (b'{"id": "a", "metrics": {"patience": "x", "interactivity": 2}}', ".metrics.patience", None),
        (b'{"id": "a", "metrics": {"patience": true}}', ".metrics.patience", None),
        (b'{"id": "a", "metrics": {"patience": 1e400}}', ".metrics.patience", None),
        (b'{"id": "a", "metrics": []}', ".metrics", None),
        (b'{"id": "a", "timezone": {"name": "x"}}', ".timezone", None),
        (b'{"id": "a", "timezone": false}', ".timezone", None),
        (b'{"id": "a", "user": "Ann"}', ".user", None),
        (b'{"id": "a", "user": {"id": 98765432109876543210}}', ".user.id", "98765432109876543210"),
        (b'{"id": -1.50}', ".id", "-1.50"),
        (b'{"id": 1E2}', ".id", "1E2"),
        (b'{"id": "a", "user": {"emails": [{"email": "b"}, 7, {}]}}', ".user.emails[1]", ...),
        (b'{"id": "a", "user": {"emails": [{"is_primary": "yes"}]}}', ".user.emails[0].is_primary", ...),
        (
            b'{"id": "a", "additional_metrics": [{"name": "n", "value": "v"}]}',
            ".additional_metrics[0].value",
            ...,
        ),
        (b'{"id": "a", "additional_metrics": {"n": 1}}', ".additional_metrics", None),
        (b'{"id": "a", "created_at": "soon"}', ".created_at", None),
        (b'{"id": "a", "created_at": []}', ".created_at", None),
    ],
)
def test_one_bad_field_costs_only_itself(item: bytes, path: str, expected: Any) -> None:
    found, [issue] = read_one(item)
    assert issue.index == 0
    assert issue.path == "$.result[0]" + path
    assert issue.message
    assert issue.raw == item
    if expected is not ...:
        value: Any = found
        for name in path.strip(".").split("."):
            value = getattr(value, name)
        assert value == expected


def test_fields_beside_the_bad_one_are_untouched() -> None:
    item, issues = read_one(
        b'{"id": "a", "metrics": {"patience": "x", "interactivity": 2.5}, "remote_data": {"b" : 1.00}, '
        b'"user": {"id": "u", "emails": [{"email": "one"}, null, {"email": "two", "is_primary": true}]}}'
    )
    assert item.metrics is not None
    assert (item.metrics.patience, item.metrics.interactivity) == (None, 2.5)
    assert bytes(item.remote_json) == b'{"b" : 1.00}'
    assert item.user is not None
    assert [entry.email for entry in item.user.emails or ()] == ["one", "two"]
    assert item.user.email == "two"
    assert [issue.path for issue in issues] == ["$.result[0].metrics.patience", "$.result[0].user.emails[1]"]


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ('"x"', '"x"'),
        ('"' + "x" * 78 + '"', '"' + "x" * 78 + '"'),
        ('"' + "x" * 79 + '"', '"' + "x" * 79 + "..."),
        ('"' + "😀" * 200 + '"', '"' + "😀" * 79 + "..."),
    ],
)
def test_an_issue_says_what_was_expected_and_quotes_what_came(value: str, quoted: str) -> None:
    _, [issue] = read_one(b'{"id": "a", "metrics": {"patience": ' + value.encode() + b"}}")
    assert issue.message == f"Expected `int | float | null`, got `str`: {quoted}"


def test_an_issue_says_how_a_value_was_kept() -> None:
    _, [issue] = read_one(b'{"id": 5}')
    assert issue.message == "Expected `str | null`, got `int`: 5; kept its digits as text"


def test_indices_and_paths_go_on_from_start() -> None:
    _, issues = READER.read_array(b'[{"id": "a"}, {"id": 5}]', start=40, path="$.rows")
    assert [(issue.index, issue.path) for issue in issues] == [(41, "$.rows[41].id")]


# Items that cannot be kept


@pytest.mark.parametrize(
    "item", [b"5", b"null", b'"text"', b"[]", b"true", b"{}", b'{"foo": 1}', b'{"ID": "a"}']
)
def test_an_item_without_a_known_key_is_dropped_and_reported(item: bytes) -> None:
    """All fields are optional, so a provider's own row would become a record full of None."""
    items, [issue] = read(b'{"id": "a"}', item, b'{"id": "b"}')
    assert [kept.id for kept in items] == ["a", "b"]
    assert (issue.index, issue.path, issue.raw, issue.dropped) == (1, "$.result[1]", item, True)
    with pytest.raises(DecodeError) as caught:
        STRICT.read_array(b"[" + item + b"]")
    assert (caught.value.index, caught.value.raw) == (0, item)


def test_the_message_for_a_foreign_row_names_both_sets_of_keys() -> None:
    """They show which type or path to ask for."""
    reader = ItemReader(Checked)
    expected = "expected Checked with some of the keys high, low; the keys are: "
    for keys, said in (
        (["userId", "personInteractionStats"], "userId, personInteractionStats"),
        ([], "none"),
        ([f"k{number}" for number in range(14)], "k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11"),
    ):
        _, [issue] = reader.read_item(json.dumps(dict.fromkeys(keys, 1)).encode(), index=0, path="$")
        assert issue.message == expected + said
    _, [issue] = ItemReader(Box[int]).read_item(b'{"x": 1}', index=0, path="$")
    assert issue.message.startswith("expected Box with some of the keys inside")


def test_white_space_before_an_item_does_not_matter() -> None:
    item, issues = READER.read_item(b' \n{"id": 5}', index=0, path="$")
    assert item == Interaction(id="5")
    assert [issue.path for issue in issues] == ["$.id"]


def test_raise_says_where() -> None:
    with pytest.raises(DecodeError, match=r"metrics\.patience.*got `str`") as caught:
        STRICT.read_array(b'[{"id": "a"}, {"id": "b", "metrics": {"patience": "x"}}]', start=7)
    assert caught.value.path == "$.result[8].metrics.patience"
    assert caught.value.index == 8
    assert caught.value.raw == b'{"id": "b", "metrics": {"patience": "x"}}'


# Malformed JSON


@pytest.mark.parametrize(
    "text", [b"", b"[", b'[{"id": "a"}', b"[1 2]", b'[{"id": "a"},]', b"[] []", b"[nul]", b'{"id": 1}']
)
def test_malformed_arrays_are_msgspecs_error(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        READER.read_array(text)


def test_a_type_error_before_a_syntax_error_is_a_syntax_error() -> None:
    """msgspec stops at the first error, so a bad field does not mean that the rest is valid."""
    with pytest.raises(msgspec.DecodeError) as caught:
        READER.read_array(b'[{"id": 5}, {"id": "a"')
    assert not isinstance(caught.value, msgspec.ValidationError)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"id": "\xff"}', "not UTF-8: invalid start byte"),
        (b'{"id": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deep to decode"),
        (b'{"id": tru}', "not JSON: JSON is malformed"),
    ],
    ids=["bytes", "depth", "syntax"],
)
def test_an_item_that_cannot_be_read_is_an_error_that_says_which(raw: bytes, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        READER.read_item(raw, index=3, path="$.result[3]")
    error = caught.value
    assert message in str(error)
    assert (error.path, error.index, error.raw) == ("$.result[3]", 3, raw)


def test_bad_utf8_and_deep_nesting_are_our_own_error() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    for text, said in (
        (b'[{"id": "\xff"}]', "not UTF-8: invalid start byte"),
        (b'[{"id": "a", "remote_data": %s}]' % deep, "nested too deep to decode"),
        (b'[{"id": 5}, {"remote_data": %s}]' % deep, "nested too deep to decode"),
    ):
        with pytest.raises(DecodeError) as caught:
            READER.read_array(text, start=3, path="$.rows")
        error = caught.value
        assert (str(error), error.path, error.index) == (said, "$.rows", 3)
    with pytest.raises(DecodeError, match="deep"):
        ItemReader(Any).read_item(b"[" * 100_000 + b"]" * 100_000, index=0, path="$")


def test_one_malformed_item_is_our_own_error() -> None:
    with pytest.raises(DecodeError, match="not JSON") as caught:
        READER.read_item(b'{"id": "\\ud80"}', index=3, path="$.result[3]")
    assert caught.value.index == 3


# Lone surrogates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rb'"\ud83d"', rb'"\ufffd"'),
        (rb'"\uDFFF\uD800"', rb'"\ufffd\ufffd"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'"\ud83d\ude00\ude00"', rb'"\ud83d\ude00\ufffd"'),
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
        (rb'"\ud83d\\ude00"', rb'"\ufffd\\ude00"'),
        (rb'"\ud83d\u0041\n\"\ud83d"', rb'"\ufffd\u0041\n\"\ufffd"'),
        (rb'{"\ud83d":["\udc00"]}', rb'{"\ufffd":["\ufffd"]}'),
    ],
)
def test_lone_surrogates_are_replaced_by_the_same_number_of_bytes(text: bytes, expected: bytes) -> None:
    assert replace_surrogates(text) == expected
    msgspec.json.decode(expected)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        rb'"\ud83d\ude00"',
        rb'"\\ud83d"',
        rb'"\\\\ud83d"',
        rb'"\UD83D"',
        rb'"\ud83"',
        rb'"\ud8zz"',
        rb'"\ud7ff\ue000"',
    ],
)
def test_other_text_is_the_same_object(text: bytes) -> None:
    assert replace_surrogates(text) is text


@given(
    st.lists(
        st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "\\n", "u", "d83d", "a", "é", "\\ufffd", '\\"']),
        max_size=12,
    )
)
def test_what_the_standard_library_reads_is_read(parts: list[str]) -> None:
    """It reads lone surrogates as they are, and everything else as msgspec does."""
    text = '"' + "".join(parts) + '"'
    expected = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in json.loads(text))
    assert msgspec.json.decode(replace_surrogates(text.encode())) == expected


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (rb'"\ud83d"', ["$"]),
        (rb'{"a":["x",{"b":"\ud83d","c":"\\ud83d"}],"d":"\ufffd"}', ["$.a[1].b"]),
        (rb'{"\ud83d":1,"a":{"\udc00":"\ud83d"}}', ["$", "$.a", "$.a.\ufffd"]),
        (rb'["\ud83d","\ud83d"]', ["$[0]", "$[1]"]),
        (rb'{"a":"\ud83d"', ["$"]),
        (b"[" + rb'"\ud83d",' * 200 + b"1]", [f"$[{index}]" for index in range(100)]),
        (b'{"a":"' + b"x" * 2**20 + rb'\ud83d"}', ["$"]),
    ],
)  # fmt: skip
def test_the_places_of_lone_surrogates_are_named(value: bytes, paths: list[str]) -> None:
    notes = surrogate_notes(value, "$")
    assert [path for path, _ in notes] == paths
    assert all("half of a surrogate pair" in message and len(message) < 200 for _, message in notes)
    assert not any("\\ud83d" in message for _, message in notes) or b"\\\\" in value


class Pair(TypedDict):
    a: int


@pytest.mark.parametrize(
    ("item_type", "text", "keep", "kept", "dropped", "issues"),
    [
        (Interaction, b"[7,8]", 1, 0, [5, 6], [5]),
        (Interaction, b"[7,8]", 0, 0, [5, 6], []),
        (Interaction, b'[7,{"id":"a"},8]', 1, 1, [5, 7], [5]),
        (Interaction, b'[7,{"x":1},{"id":"a"},{"y":1}]', 0, 1, [5, 6, 8], []),
        (int, b'[1,"a"]', 0, 1, [6], []),
        (int, b'["a",1,"b",2]', 1, 2, [5, 7], [5]),
        (int, b'["a",1]', 0, 1, [5], []),
        (dict, b'[1,{"a":1}]', 0, 1, [5], []),
        (dict, b"[1,2]", 0, 0, [5, 6], []),
        (Pair, b'[{"a":"x"},{"a":1}]', 0, 1, [5], []),
        (int | None, b'[null,"a",null]', 9, 2, [6], [6]),
        (int | None, b'["a",null,1,"b",null]', 9, 3, [5, 8], [5, 8]),
    ],
)
def test_items_that_cannot_be_kept_are_counted_and_some_are_told(
    item_type: Any, text: bytes, keep: int, kept: int, dropped: list[int], issues: list[int]
) -> None:
    items, found = ItemReader(item_type).read_array(text, start=5, keep=keep)
    assert len(items) == kept
    assert found.dropped == dropped
    assert found.total == len(dropped)
    assert [issue.index for issue in found] == issues


def test_notes_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = repair.Notes()
    for number in range(repair.NOTES_KEPT + 5):
        notes.add(f"$.{number}", "odd")
    assert (len(notes), notes.total) == (repair.NOTES_KEPT, repair.NOTES_KEPT + 5)
    notes, others = repair.Notes(), repair.Notes()
    for number in range(60):
        others.add(f"$.{number}", "odd")
    for kept in (60, repair.NOTES_KEPT, repair.NOTES_KEPT):
        notes.add_all(others)
        assert len(notes) == kept
    assert notes.total == 180
    monkeypatch.setattr(repair, "MOST_REPAIRS", 180)
    notes.check_number()
    notes.add("$", "odd")
    with pytest.raises(repair.TooManyRepairs):
        notes.check_number()


class Counts(Struct):
    id: str | None = None
    whole: int = 7
    maybe: int | None = 7
    listed: list[int] = []
    perhaps: list[int] | None = []


@pytest.mark.parametrize(
    ("item", "expected", "notes"),
    [
        (
            b'{"id":5,"x":1,"whole":1800.0}', Counts("5", 1800),
            ["id: kept its digits as text", "whole: read as a whole number"],
        ),
        (b'{"maybe":-5.000}', Counts(maybe=-5), ["maybe: read as a whole number"]),
        (b'{"id":1.0}', Counts("1.0"), ["id: kept its digits as text"]),
        (b'{"whole":1.5}', Counts(), ["whole"]),
        (b'{"listed":["a","b",1],"id":"y"}', Counts("y", listed=[1]), ["listed[0]", "listed[1]"]),
        (b'{"listed":["a","b","c"]}', Counts(), ["listed: more"]),
        (b'{"perhaps":["a","b","c"]}', Counts(perhaps=None), ["perhaps: more"]),
    ],
)  # fmt: skip
def test_what_a_value_becomes(
    item: bytes, expected: Counts, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "MOST_REPAIRS", 2)
    items, issues = ItemReader(Counts).read_array(b"[%b]" % item, path="$")
    assert items == [expected]
    for issue, note in zip(issues, notes, strict=True):
        place, _, how = note.partition(": ")
        assert issue.path == f"$[0].{place}"
        if how == "more":
            assert issue.message == "left out, because it holds more than 2 wrong values"
        else:
            assert issue.message.startswith("Expected `")
            assert issue.message.endswith(f"; {how}" if how else issue.message[-1])


def test_an_item_of_another_kind_is_told_as_such() -> None:
    _, issues = read(b"7")
    assert [issue.message for issue in issues] == ["Expected `object`, got `int`: 7"]


def test_unknown_names_are_told_once_and_not_too_many() -> None:
    class Plain(Struct):
        id: str = ""

    for item_type, kept in ((Interaction, True), (Plain, False), (dict, False)):
        told: list[list[str]] = []
        kinds: set[bool] = set()

        def tell(names: list[str], *, kept: bool) -> None:
            told.append(names)  # noqa: B023
            kinds.add(kept)  # noqa: B023

        reader = ItemReader(item_type).for_walk(tell)
        reader.note_unknown(["a", "b", "a"])
        reader.note_unknown(["b", "c"])
        reader.note_unknown(["c"])
        assert told == [["a", "b"], ["c"]]
        assert reader.unknown_fields == ("a", "b", "c")
        assert kinds == {kept}
        reader.note_unknown(f"n{number}" for number in range(MOST_NAMES))
        reader.note_unknown(["z"])
        assert len(reader.unknown_fields) == sum(map(len, told)) == MOST_NAMES


def test_the_issues_of_an_array_are_capped_and_counted() -> None:
    items, issues = READER.read_array(b"[" + b'1,{"id":5},' * 500 + b'{"id":"a"}]', keep=7)
    assert (len(items), len(issues), issues.total, len(issues.dropped)) == (501, 7, 1_000, 500)
    assert issues.dropped == list(range(0, 1_000, 2))
    _, issues = READER.read_array(b'[1,{"id":5}]', keep=0)
    assert (len(issues), issues.total, issues.dropped) == (0, 2, [0])


# Date-times


UTC_TEN = datetime(2024, 9, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"2024-09-01 10:00:00"', UTC_TEN),
        ('"2024-09-01T10:00:00"', UTC_TEN),
        ('"2024-09-01T10:00"', UTC_TEN),
        ('"2024-09-01"', UTC_TEN.replace(hour=0)),
        ('"2024-09-01t10:00:00z"', UTC_TEN),
        ('"2024-09-01T10:00:00 Z"', UTC_TEN),
        ('"2024-09-01 10:00:00 UTC"', UTC_TEN),
        ('"  2024-09-01T10:00:00Z\\n"', UTC_TEN),
        ('"2024-09-01T10:00:00+0000"', UTC_TEN),
        ('"2024-09-01T15:30:00+05:30"', UTC_TEN),
        ('"2024-09-01T15:30:00 +0530"', UTC_TEN),
        ('"2024-09-01T08:00:00-02"', UTC_TEN),
        ('"2024-09-01T10:00:00,5Z"', UTC_TEN.replace(microsecond=500_000)),
        ('"2024-09-01T10:00:00.1234567890Z"', UTC_TEN.replace(microsecond=123_456)),
        ("1725184800", UTC_TEN),
        ("1725184800.25", UTC_TEN.replace(microsecond=250_000)),
        ("1725184800000", UTC_TEN),
        ('"1725184800"', UTC_TEN),
        ('"1725184800000"', UTC_TEN),
        ("1725184800000000", UTC_TEN),
        ("-86400", datetime(1969, 12, 31, tzinfo=UTC)),
    ],
)
def test_date_times_in_other_formats_are_read(text: str, expected: datetime) -> None:
    """A date-time that cannot be parsed must not cost the record; most can be parsed."""
    found = read_datetime(text.encode())
    assert found is not None
    assert found[0] == expected
    item, issues = read_one(b'{"id": "a", "start_time": ' + text.encode() + b"}")
    assert item.start_time is not None
    assert abs(item.start_time - expected) <= timedelta(microseconds=1)  # msgspec rounds a long fraction
    assert all(text.strip('"')[:10] in issue.message for issue in issues)


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ('"2024-09-01T10:00"', "without an offset, read as UTC"),
        ('"2024-09-01T10:00 UTC"', "read as it stands"),
        ('"2024-09-01T10:00+02"', "read as it stands"),
        ('"2024-09-01"', "read as the start of that day in UTC"),
        ('"2024-09-01 GMT"', "read as the start of that day"),
        ('"2024-09-01+02:00"', "read as the start of that day"),
    ],
)
def test_an_issue_says_how_a_date_time_was_read(text: str, how: str) -> None:
    found = read_datetime(text.encode())
    assert found is not None
    assert found[1] == how
    _, [issue] = read_one(b'{"id": "a", "start_time": ' + text.encode() + b"}")
    assert issue.message.endswith(f": {text}; {how}")


@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (0, "seconds"),
        (5.5, "seconds"),
        (-1, "seconds"),
        (10**11 - 1, "seconds"),
        (10**11, "milliseconds"),
        (-(10**11), "milliseconds"),
        (10**14 - 1, "milliseconds"),
        (10**14, "microseconds"),
    ],
)
def test_the_size_of_a_number_tells_its_unit(number: float, unit: str) -> None:
    """Seconds, milliseconds and microseconds of any likely date differ by orders of magnitude."""
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(**{unit: number})
    assert read_datetime(str(number).encode()) == (expected, f"read as {unit} since 1970")


@pytest.mark.parametrize(
    "text",
    ['""', '"now"', '"2024-13-01"', '"2024-09-31T00:00:00Z"', '"2024-09-01T25:00:00Z"', '"2024-09-01T10:00:00+99:00"',
     "1e30", "1e999999999", "9" * 400, "true", "null", "{}", "[1]", '"2024-09-01T10:00:00Z etc"', '"\\u0662024-09-01"'],
)  # fmt: skip
def test_a_value_that_is_no_date_time_becomes_none_and_is_quoted(text: str) -> None:
    assert read_datetime(text.encode()) is None
    item, issues = read_one(b'{"id": "a", "start_time": ' + text.encode() + b"}")
    assert item.start_time is None
    assert len(issues) == (0 if text == "null" else 1)
    assert all(text[:40] in issue.message and issue.raw for issue in issues)


# Other item types


class Call(Struct):
    id: str
    size: int = 3
    tags: dict[str, list[int]] = {}
    parent: Call | None = None


class Checked(Struct):
    low: int | None = None
    high: int | None = None

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")


@dataclasses.dataclass
class Plain:
    id: str


class Row(TypedDict):
    id: str


T = TypeVar("T")


class Box(Struct, Generic[T]):
    inside: T | None = None


class Record(Struct):
    id: str | None = None
    raw: Raw = Raw(b"null")
    remote_data: Raw = Raw(b"{}")


@pytest.mark.parametrize(
    "texts",
    [
        [b'{"id": "a", "remote_data": {"x": 1}, "raw": [1]}', b'{"remote_data": 7}', b'{"id": "b"}'],
        [b'{"id": 5, "remote_data": {"x": 1}, "raw": [1]}', b'{"id": {}, "remote_data": 7}'],
    ],
    ids=["good", "repaired"],
)
@pytest.mark.parametrize("item_type", [Raw, Interaction, Record])
def test_no_item_keeps_the_text_alive_it_was_read_from(item_type: Any, texts: list[bytes]) -> None:
    """A Raw is a view of its page, which can be a thousand times larger than the record."""
    whole = b"[" + b", ".join(texts) + b"]"
    held = [sys.getrefcount(whole), *(sys.getrefcount(text) for text in texts)]
    reader = ItemReader[Any](item_type)
    items, _ = reader.read_array(whole)
    items += [reader.read_item(text, index=0, path="$")[0] for text in texts]
    assert len(items) == 2 * len(texts)
    assert [sys.getrefcount(whole), *(sys.getrefcount(text) for text in texts)] == held
    if item_type is not Raw:
        key = "remote_json" if item_type is Interaction else "remote_data"
        records = [bytes(getattr(item, key)) for item in items]
        assert records[:2] == [b'{"x": 1}', b"7"]
        assert records == records[: len(texts)] * 2


def test_raw_inside_of_lists_inside_of_tuples_is_detached() -> None:
    text = b'[[[1], {"a": 2}]]' + b" " * 10_000
    references = sys.getrefcount(text)
    [item], _ = ItemReader(tuple[list[Raw], dict[str, Raw]]).read_array(text)
    assert item == ([Raw(b"1")], {"a": Raw(b"2")})
    assert sys.getrefcount(text) == references


@pytest.mark.parametrize(
    ("item_type", "item", "expected", "paths"),
    [
        (Call, b'{"id": "a"}', Call("a"), []),
        (Call, b'{"id": 5}', Call("5"), [".id"]),
        (Call, b'{"id": "a", "size": "big"}', Call("a"), [".size"]),
        (Call, b'{"id": "a", "tags": {"x": [1, "b"], "y": 3}}', Call("a", tags={"x": [1]}), [".tags.x[1]", ".tags.y"]),
        (Call, b'{"id": "a", "parent": {"id": "b", "size": []}}', Call("a", parent=Call("b")), [".parent.size"]),
        (Call, b'{"id": "a", "parent": {"size": 1}}', Call("a"), [".parent"]),
        (Call, b'{"size": 1}', None, [".id"]),
        (Call, b'{"id": []}', None, [".id"]),
        (Call, b'{"x": 1}', None, [""]),
        (Checked, b'{"low": 1, "high": 2}', Checked(1, 2), []),
        (Checked, b'{"low": 2, "high": 1}', None, [""]),
        (Checked, b'{"low": "x", "high": 1}', Checked(None, 1), [".low"]),
        (Plain, b'{"id": "a"}', Plain("a"), []),
        (Plain, b'{"id": 5}', None, [""]),
        (Row, b'{"id": "a"}', {"id": "a"}, []),
        (Row, b'{"ID": "a"}', None, [""]),
        (dict, b'{"any": [1]}', {"any": [1]}, []),
        (dict, b"5", None, [""]),
        (Any, b"5", 5, []),
        (Any, b"null", None, []),
        (Any, b"1e400", None, [""]),
        (int, b"5", 5, []),
        (int, b'"5"', None, [""]),
    ],
)  # fmt: skip
def test_items_of_other_types(item_type: Any, item: bytes, expected: Any, paths: list[str]) -> None:
    reader: ItemReader[Any] = ItemReader(item_type)
    found, issues = reader.read_item(item, index=0, path="$.x")
    assert found == expected
    assert [issue.path for issue in issues] == ["$.x" + path for path in paths]
    items, _ = reader.read_array(b"[" + item + b"]")
    assert items == ([] if expected is None and item != b"null" else [expected])


def fresh_reader(*fields: Any, **options: Any) -> ItemReader[Any]:
    """Build a reader for a type that is in no cache yet."""
    return ItemReader(
        msgspec.defstruct("Fresh", [("id", str | None, None), *fields], kw_only=True, **options)
    )


@pytest.mark.parametrize(
    ("field_type", "value", "expected"),
    [
        (int | None, b'"x"', None),
        (int, b'"x"', "default"),
        (str | int, b"1.5", "1.5"),
        (str, b"-7", "-7"),
        (str, b"true", "default"),
        (datetime, b'"2024-09-01"', datetime(2024, 9, 1, tzinfo=UTC)),
        (datetime | None, b'"soon"', None),
        (Annotated[str, Meta(max_length=9)] | None, b"12345", "12345"),
        (Annotated[str | None, Meta(description="text")], b"12345", "12345"),
        (Annotated[str | None, []], b"12345", "12345"),
        (list[str] | None, b'["a", 5, {}]', ["a", "5"]),
        (list[int | None], b'[1, "a"]', [1, None]),
        (list[int] | None, b"{}", None),
        (list | None, b"5", None),
        (set[int], b'[1, "a"]', {1}),
        (frozenset[int], b'[1, "a"]', frozenset({1})),
        (Sequence[int], b'[1, "a"]', [1]),
        (AbstractSet[int], b'[1, "a"]', {1}),
        (tuple[int, ...], b'[1, "a"]', (1,)),
        (tuple[int, str], b'["a", 1]', "default"),
        (tuple[int], b'["a", 1]', "default"),
        (tuple[int, int, int], b'["a", 1, 2]', "default"),
        (dict[str, int], b'{"a": 1, "b": "x", "c": 3}', {"a": 1, "c": 3}),
        (Mapping[str, str], b'{"a": 1, "b": {}}', {"a": "1"}),
        (dict[str, int] | list[str], b"[5]", ["5"]),
        (dict | None, b"5", None),
        (Checked, b'{"low": 1, "high": "x"}', Checked(1)),
        (Checked | None, b'{"low": 2, "high": 1}', None),
        (Checked | None, b"7", None),
        (dict[str, Checked], b'{"a": {"low": "x"}, "b": 5}', {"a": Checked()}),
    ],
)  # fmt: skip
def test_a_field_is_repaired_by_its_type(
    field_type: Any, value: bytes, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "_repairers", {})
    reader = fresh_reader(("other", int | None, None), ("field", field_type, "default"))
    item, issues = reader.read_item(b'{"id": "a", "other": 1, "field": ' + value + b"}", index=0, path="$")
    assert (item.id, item.other, item.field) == ("a", 1, expected)
    assert all(issue.path.startswith("$.field") for issue in issues)
    assert issues


def test_what_a_type_itself_refuses_is_quoted() -> None:
    _, [issue] = ItemReader(Checked).read_item(b'{"low": 2, "high": 1}', index=0, path="$")
    assert issue.message == "low is above high"


def test_a_message_has_no_second_path() -> None:
    """msgspec names the place inside the value; the issue has the path from the top."""
    reader = fresh_reader(("pair", tuple[int, str], None))
    _, [issue] = reader.read_item(b'{"pair": ["a", 1]}', index=0, path="$")
    assert (issue.path, issue.message) == ("$.pair", 'Expected `int`, got `str`: ["a", 1]')


def test_a_missing_field_is_named() -> None:
    item, issues = fresh_reader(("must", int)).read_item(b'{"id": 5}', index=0, path="$")
    assert item is None
    assert [(issue.path, issue.message.rpartition("; ")[2]) for issue in issues] == [
        ("$.id", "kept its digits as text"),
        ("$.must", "missing, and required"),
    ]


@pytest.mark.parametrize(("options", "key"), [({"tag": True}, "type"), ({"tag_field": "kind"}, "kind")])
def test_the_key_of_a_tag_is_a_known_key(options: dict[str, Any], key: str) -> None:
    reader = fresh_reader(**options)
    item, issues = reader.read_item(b'{"%s": "Fresh"}' % key.encode(), index=0, path="$")
    assert (item.id, issues) == (None, [])
    item, [issue] = reader.read_item(b'{"%s": "Fresh", "id": 5}' % key.encode(), index=0, path="$")
    assert (item.id, issue.path) == ("5", "$.id")
    item, [issue] = reader.read_item(b'{"%s": "Other"}' % key.encode(), index=0, path="$")
    assert (item, issue.path) == (None, "$")
    item, [issue] = reader.read_item(b'{"x": 1}', index=0, path="$")
    assert f"keys id, {key};" in issue.message
    assert item is None


def test_a_union_of_structs_is_kept_or_dropped_as_a_whole() -> None:
    """We cannot tell which of them was meant."""
    one = msgspec.defstruct("One", [("id", str)], tag=True)
    two = msgspec.defstruct("Two", [("id", str)], tag=True)
    reader = fresh_reader(("part", one | two | None, "default"))
    item, [issue] = reader.read_item(b'{"id": "a", "part": {"type": "One", "id": 5}}', index=0, path="$")
    assert (item.id, item.part, issue.path) == ("a", None, "$.part")


def test_items_written_as_arrays_are_kept_or_dropped_as_a_whole() -> None:
    reader = fresh_reader(array_like=True)
    items, [issue] = reader.read_array(b'[["a"], [5], []]')
    assert [item.id for item in items] == ["a", None]
    assert (issue.index, issue.dropped) == (1, True)


def test_constraints_hold_after_repair() -> None:
    class Short(Struct):
        id: Annotated[str, Meta(max_length=3)] | None = None
        name: str | None = None

    items, [issue] = ItemReader(Short).read_array(b'[{"id": 12345, "name": "n"}]')
    assert items == [Short(None, "n")]
    assert issue.path == "$.result[0].id"


def test_raw_items_are_exact_and_do_not_hold_the_page() -> None:
    page = b'[{"a" : 1.00} , [ ]]' + b" " * 10_000
    references = sys.getrefcount(page)
    items, issues = ItemReader(Raw).read_array(page)
    assert [bytes(item) for item in items] == [b'{"a" : 1.00}', b"[ ]"]
    assert issues == []
    items.append(ItemReader(Raw).read_item(page, index=0, path="$")[0] or Raw())
    assert sys.getrefcount(page) == references


def test_a_type_msgspec_cannot_decode_is_refused_when_the_reader_is_made() -> None:
    with pytest.raises(UsageError, match="item_type"):
        ItemReader(dict[str, int] | Person)


def test_a_wrong_on_invalid_is_refused() -> None:
    wrong: Any = "ignore"
    with pytest.raises(UsageError, match="ignore"):
        ItemReader(Person, on_invalid=wrong)


def test_blank_is_true_only_if_an_item_has_no_values() -> None:
    assert not READER.blank([Interaction(id="a"), Interaction(timezone="x")])
    assert not READER.blank([Interaction(id="a")])
    assert READER.blank([Interaction(id="a"), Interaction()])
    assert not ItemReader(dict).blank([{}])


@pytest.mark.parametrize("default", ["call", "", None])
def test_a_foreign_row_is_found_whatever_the_first_field_holds_by_default(default: str | None) -> None:
    """Only the first field is checked at first, for speed; no foreign row may pass because of that."""
    for fields in ([("kind", str | None, default)], [("kind", str | None, default), ("size", int, 0)]):
        reader = ItemReader(msgspec.defstruct("Fresh", fields))
        items, [issue] = reader.read_array(b'[{"kind": "call"}, {"userId": 1}, {"kind": ""}]')
        assert [item.kind for item in items] == ["call", ""]
        assert (issue.index, issue.dropped) == (1, True)


def test_a_reader_is_built_once_for_each_type() -> None:
    """Building one takes milliseconds, and each call of a resource needs one."""
    assert item_reader(Interaction) is item_reader(Interaction) is item_reader(Interaction, "repair")
    assert item_reader(Interaction, "raise").on_invalid == "raise"
    assert item_reader(Person).item_type is Person
    unhashable: Any = Annotated[int, []]
    for on_invalid in ("repair", "raise"):
        reader = item_reader(unhashable, on_invalid)
        assert (reader.item_type, reader.on_invalid) == (unhashable, on_invalid)


# Properties: any values in the known fields

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.isoformat()),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "name", "email", "value", "patience", "?"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
nested = {
    "user": st.fixed_dictionaries({}, optional={"id": values, "name": values, "emails": values}),
    "metrics": st.fixed_dictionaries({}, optional={"patience": values, "question_rate": scalars}),
    "additional_metrics": st.lists(
        st.fixed_dictionaries({"name": scalars, "value": scalars}) | values, max_size=3
    ),
}
KEYS = [field.encode_name for field in msgspec.structs.fields(Interaction) if field.name != UNKNOWN]
records = st.fixed_dictionaries(
    {}, optional={key: nested.get(key, values) | values for key in KEYS} | {"other": values}
)


@given(records)
def test_repair_keeps_every_record_with_a_known_key(record: dict[str, Any]) -> None:
    raw = json.dumps(record).encode()
    item, issues = READER.read_item(raw, index=0, path="$")
    assert (item is not None) == bool(record.keys() & set(KEYS))
    assert item is not None or issues
    assert all(issue.dropped == (item is None) for issue in issues)
    for key, value in record.items():
        if item is not None and key in KEYS:
            try:
                alone = msgspec.json.decode(json.dumps({key: value}), type=Interaction)
            except msgspec.ValidationError as error:
                if "unknown field" in str(error):  # which is kept, and no issue
                    continue
                assert any(issue.path.startswith(f"$.{key}") for issue in issues)
            else:
                name = "remote_json" if key == "remote_data" else key
                assert getattr(item, name) == getattr(alone, name)
                assert not any(issue.path.startswith(f"$.{key}") for issue in issues)


@given(st.lists(records, max_size=4))
def test_raise_raises_exactly_where_repair_reports_an_issue(page: list[dict[str, Any]]) -> None:
    text = json.dumps(page).encode()
    items, issues = READER.read_array(text)
    if issues:
        with pytest.raises(DecodeError) as caught:
            STRICT.read_array(text)
        assert caught.value.path == issues[0].path
    else:
        assert STRICT.read_array(text) == (items, [])
