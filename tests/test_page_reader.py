"""Bodies of pages: each is either read correctly or raises one of our errors, whatever its bytes are."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tests.json_bodies import JSON_LIKE, PAGE_LIKE, body
from truto_ci_async._wire import body_walker, detach, page_reader, repair
from truto_ci_async._wire.item_reader import ItemReader, item_reader
from truto_ci_async._wire.page_reader import PageReader, cursor_text, raw_cursors
from truto_ci_async.errors import DecodeError, TruncatedBodyError, TrutoError
from truto_ci_async.models import Interaction, Person
from truto_ci_async.models.unknown_members import member_mover
from truto_ci_async.pagination.page_fetch import SLICED_ABOVE

READER = PageReader(ItemReader(Interaction))
STRICT = PageReader(ItemReader(Interaction, on_invalid="raise"))
ANY = PageReader(ItemReader(dict))
EXACT = PageReader(ItemReader(Raw))
KEYED = PageReader(ItemReader(Interaction), keyed=True)
READERS = [READER, STRICT, ANY, EXACT, KEYED]

# A page as Gong's data makes it: 20-digit ids; ints, floats and nulls; text beyond ASCII.
PAGE = {
    "result": [
        {
            "id": "98765432109876543210_2024-01-01",
            "user": {
                "id": "98765432109876543210",
                "emails": [{"email": "zoë@example.com", "is_primary": True}],
            },
            "start_time": "2024-01-01T00:00:00-08:00",
            "end_time": "2024-02-01T00:00:00-08:00",
            "timezone": "US/Pacific",
            "aggregation_period": "total",
            "metrics": {"longest_monologue": 125, "interactivity": 9.23, "patience": None},
            "additional_metrics": [{"name": "Calls “answered” 🙂", "value": 1.5}],
            "remote_data": {"userId": "98765432109876543210", "personInteractionStats": []},
        },
        {"id": "b"},
    ],
    "next_cursor": "eyJhbGciOi/+=",
    "prev_cursor": None,
    "result_count": 2,
    "is_partial_response": False,
}
GONG = {
    "requestId": "4al018gzaztcr8nbukw",
    "records": {"totalRecords": 263, "currentPageSize": 100, "currentPageNumber": 0, "cursor": "eyJhbGciOi"},
    "peopleInteractionStats": [
        {"userId": "234599484848423", "personInteractionStats": [{"name": "Interactivity", "value": 9.23}]}
    ],
    "timeZone": "US/Pacific",
}


def page(**keys: Any) -> bytes:
    return body({"result": [{"id": "a"}], **keys})


# Envelopes


def test_an_ordinary_page() -> None:
    found = READER.read(body(PAGE))
    assert [item.id for item in found.items] == ["98765432109876543210_2024-01-01", "b"]
    assert found.items[0].start_time == datetime(2024, 1, 1, 8, tzinfo=UTC)
    assert found.items[0].remote_data == PAGE["result"][0]["remote_data"]  # type: ignore[index]
    assert (found.next_cursor, found.prev_cursor, found.result_count) == ("eyJhbGciOi/+=", None, 2)
    assert found.is_partial_response is False
    assert (found.debug, found.extra, found.issues, found.keys) == (None, {}, [], None)


def test_an_ordinary_page_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lenient reading costs a second decode, so it is for unusual pages only."""
    monkeypatch.setattr(PageReader, "read_in_slices", None)
    assert len(READER.read(body(PAGE)).items) == 2
    assert len(READER.read(page(debug={"requestUrl": "u", "nextCursor": 1})).items) == 1


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("is_odd", [False, True])
def test_key_order_and_white_space_do_not_matter(indent: int | None, is_odd: bool) -> None:
    keys = PAGE | {"odd": 1} if is_odd else PAGE
    expected = ANY.read(body(keys))
    for order in (sorted(keys), sorted(keys, reverse=True)):
        text = json.dumps({key: keys[key] for key in order}, indent=indent)
        assert ANY.read(f" {text}\r\n".encode()) == expected
        assert len(READER.read(f" {text}\r\n".encode()).items) == 2


def test_results_is_accepted_for_result() -> None:
    """Some of the service's admin endpoints call it that."""
    assert [item.id for item in READER.read(b'{"results": [{"id": "a"}], "next_cursor": "c"}').items] == ["a"]
    both = READER.read(b'{"results": [1], "result": [{"id": "a"}]}')
    assert (len(both.items), both.extra) == (1, {"results": [1]})


def test_unknown_keys_are_kept() -> None:
    extra = {"query": {"a": [1, None]}, "cached_at": "2024", "ünï": 98765432109876543210}
    found = READER.read(body(PAGE | extra))
    assert found.extra == extra
    assert (found.next_cursor, found.result_count, len(found.items)) == ("eyJhbGciOi/+=", 2, 2)


@pytest.mark.parametrize("odd", [{}, {"odd": 1}])
@pytest.mark.parametrize(
    ("keys", "name", "expected"),
    [
        ({}, "next_cursor", None),
        ({"next_cursor": None}, "next_cursor", None),
        ({"next_cursor": ""}, "next_cursor", None),
        ({"next_cursor": "c"}, "next_cursor", "c"),
        ({"next_cursor": " "}, "next_cursor", " "),
        ({"next_cursor": 0}, "next_cursor", "0"),
        ({"next_cursor": 98765432109876543210}, "next_cursor", "98765432109876543210"),
        ({"prev_cursor": "p"}, "prev_cursor", "p"),
        ({"prev_cursor": ""}, "prev_cursor", None),
        ({"prev_cursor": 5}, "prev_cursor", "5"),
        ({}, "result_count", None),
        ({"result_count": None}, "result_count", None),
        ({"result_count": 50}, "result_count", 50),
        ({"result_count": 50.0}, "result_count", 50),
        ({"result_count": "50"}, "result_count", 50),
        ({"is_partial_response": True}, "is_partial_response", True),
        ({"is_partial_response": None}, "is_partial_response", None),
        ({"is_partial_response": "true"}, "is_partial_response", True),
        ({"debug": None}, "debug", None),
    ],
)
def test_keys_around_the_result(keys: dict[str, Any], name: str, expected: Any, odd: dict[str, Any]) -> None:
    """Whether or not something else about the envelope is unusual."""
    found = READER.read(page(**keys, **odd))
    assert getattr(found, name) == expected
    assert type(getattr(found, name)) is type(expected)
    assert found.extra == odd
    assert [item.id for item in found.items] == ["a"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("result_count", "many"), ("result_count", 50.5), ("result_count", True), ("result_count", [50]),
     ("prev_cursor", {}), ("prev_cursor", True), ("is_partial_response", "perhaps"), ("is_partial_response", 2),
     ("debug", "text"), ("debug", [1]), ("debug", {"isLooping": "perhaps"})],
)  # fmt: skip
def test_a_known_key_of_a_wrong_type_is_kept_as_extra(key: str, value: Any) -> None:
    """An odd count must not cost any item."""
    found = READER.read(page(**{key: value}, next_cursor="c"))
    assert found.extra == {key: value}
    assert getattr(found, key) is None
    assert (found.next_cursor, len(found.items)) == ("c", 1)


@pytest.mark.parametrize("cursor", [True, False, 1.5, {}, ["c"], {"after": "c"}])
def test_a_next_cursor_that_is_not_a_string_is_an_error(cursor: Any) -> None:
    """Read as the end, it would stop paging with records missing."""
    with pytest.raises(DecodeError, match="next_cursor") as caught:
        READER.read(page(next_cursor=cursor))
    assert caught.value.path == "$.next_cursor"
    with pytest.raises(DecodeError):
        cursor_text(cursor)


def test_debug_is_read_and_its_credentials_are_masked_in_reprs() -> None:
    debug = {
        "requestUrl": "https://api.gong.io/v2/stats?key=hunter2",
        "requestOptions": {"headers": {"Authorization": "hunter2"}},
        "data": {"a": 1},
        "nextCursor": "c",
        "isLooping": False,
        "isEmptyResult": False,
        "resultCount": 1,
        "newKey": {},
    }
    for odd in ({}, {"odd": 1}):
        found = READER.read(page(debug=debug, **odd))
        assert found.debug is not None
        assert found.debug.request_options == debug["requestOptions"]
        assert (found.debug.data, found.debug.next_cursor, found.debug.result_count) == ({"a": 1}, "c", 1)
        assert "hunter2" not in repr(found)
    odd_debug = READER.read(page(debug=debug | {"isLooping": "perhaps"}))
    assert odd_debug.extra["debug"]["requestOptions"]["headers"]["Authorization"] == "hunter2"
    assert "hunter2" not in repr(odd_debug)


# Keyed results


def test_a_keyed_result_gives_keys_and_items_in_order() -> None:
    found = KEYED.read(b'{"result": {"k1": {"id": "a"}, "k2": {"id": "b"}}, "next_cursor": "c", "odd": 1}')
    assert found.keys == ("k1", "k2")
    assert [item.id for item in found.items] == ["a", "b"]
    assert (found.next_cursor, found.extra) == ("c", {"odd": 1})


@pytest.mark.parametrize("empty", [b"{}", b"{ }", b"[]", b"[ \n]"])
def test_an_empty_keyed_result(empty: bytes) -> None:
    """Some servers write an empty object as an empty array."""
    found = KEYED.read(b'{"result": ' + empty + b"}")
    assert (found.keys, found.items) == ((), ())


@pytest.mark.parametrize("result", ["[[]]", '[{"id": "a"}]', "null", "5", '"[]"', "true"])
def test_a_result_that_was_not_keyed_is_an_error(result: str) -> None:
    with pytest.raises(DecodeError, match="did not key it") as caught:
        KEYED.read(f'{{"result": {result}}}'.encode())
    assert caught.value.path == "$.result"


def test_a_dropped_keyed_item_takes_its_key_along() -> None:
    """Otherwise every later item would get its neighbour's key."""
    found = KEYED.read(b'{"result": {"k1": {"id": "a"}, "k2": {"foo": 1}, "k3": {"id": "c"}}}')
    assert found.keys == ("k1", "k3")
    assert [item.id for item in found.items] == ["a", "c"]
    assert [(issue.index, issue.dropped) for issue in found.issues] == [(1, True)]


def test_a_key_that_comes_twice_is_there_twice() -> None:
    """The last of two equal keys wins in most readers, and the first item is gone without a word."""
    found = KEYED.read(
        b'{"result": {"k": {"id": "a"}, "k": {"id": "b"}, "\\u006b": {"id": "c"}}, "result_count": 3}'
    )
    assert found.keys == ("k", "k", "k")
    assert [item.id for item in found.items] == ["a", "b", "c"]
    assert found.issues == []


@pytest.mark.parametrize(
    ("count", "is_lost"), [(3, True), (2, False), (1, False), (None, False), ("x", False)]
)
def test_more_items_counted_than_keys_is_a_loss(count: Any, is_lost: bool) -> None:
    """The service builds an object: of items with the same key it keeps one. A dropped item had its key."""
    text = body({"result": {"k": {"id": "a"}, "l": {"foo": 1}}, "result_count": count})
    lost = [issue for issue in KEYED.read(text).issues if issue.path == "$.result_count"]
    assert bool(lost) is is_lost
    strict = PageReader(ItemReader(Interaction, on_invalid="raise"), keyed=True)
    whole = body({"result": {"k": {"id": "a"}, "l": {"id": "b"}}, "result_count": count})
    if is_lost:
        with pytest.raises(DecodeError, match="counted 3 items"):
            strict.read(whole)
    else:
        assert strict.read(whole).issues == []


def test_a_repaired_keyed_item_keeps_its_key() -> None:
    found = KEYED.read(b'{"result": {"k1": {"id": 5}, "k2": {"foo": 1}, "k3": {"id": "c"}}}')
    assert found.keys == ("k1", "k3")
    assert [item.id for item in found.items] == ["5", "c"]


def test_a_keyed_result_where_an_array_is_expected_names_the_method() -> None:
    with pytest.raises(DecodeError, match=r"keyed\(\)"):
        READER.read(b'{"result": {"k1": {"id": "a"}}}')


# Items


def test_a_bad_field_is_repaired_and_reported() -> None:
    found = READER.read(
        b'{"result": [{"id": "a"}, {"id": 98765432109876543210, "timezone": 5}], "next_cursor": "c"}'
    )
    assert [item.id for item in found.items] == ["a", "98765432109876543210"]
    assert [issue.path for issue in found.issues] == ["$.result[1].id", "$.result[1].timezone"]
    assert found.next_cursor == "c"
    with pytest.raises(DecodeError) as caught:
        STRICT.read(b'{"result": [{"id": "a"}, {"id": 98765432109876543210}]}')
    assert (caught.value.path, caught.value.index) == ("$.result[1].id", 1)
    assert caught.value.raw == b'{"id": 98765432109876543210}'


@pytest.mark.parametrize("reader", [READER, STRICT])
@pytest.mark.parametrize("item", [b"{}", b'{"userId": "1", "stats": []}', b"5", b"null", b"[]"])
def test_a_page_of_foreign_items_is_an_error(reader: PageReader[Interaction], item: bytes) -> None:
    """All fields are optional: a provider's own rows would pass as records full of None."""
    with pytest.raises(DecodeError) as caught:
        reader.read(b'{"result": [' + item + b"]}")
    assert (caught.value.path, caught.value.index, caught.value.raw) == ("$.result[0]", 0, item)
    if reader is READER:
        assert "Interaction" in str(caught.value)
        assert "item_type=dict" in str(caught.value)


def test_one_foreign_item_among_good_ones_is_dropped_and_reported() -> None:
    found = READER.read(b'{"result": [{"id": "a"}, {"userId": "1"}]}')
    assert len(found.items) == 1
    assert [(issue.index, issue.dropped, issue.raw) for issue in found.issues] == [
        (1, True, b'{"userId": "1"}')
    ]
    with pytest.raises(DecodeError):
        STRICT.read(b'{"result": [{"id": "a"}, {"userId": "1"}]}')


def test_items_of_any_shape_and_exact_items() -> None:
    text = b'{"result": [{"b" : 1.00}, {"a": 98765432109876543210}], "odd": 1}'
    assert ANY.read(text).items == ({"b": 1.0}, {"a": 98765432109876543210})
    assert [bytes(item) for item in EXACT.read(text).items] == [
        b'{"b" : 1.00}',
        b'{"a": 98765432109876543210}',
    ]


T = TypeVar("T")


class Own(Struct):
    id: str
    remote_data: Raw


class Odd(Struct):
    id: Annotated[Raw, Meta(description="as it is written")]
    remote_data: Raw | UnsetType = UNSET


class Mayhap(Struct, frozen=True):
    id: str
    remote_data: Raw | UnsetType = UNSET


class Wrapped(Struct, frozen=True):
    remote_data: Own
    more: Interaction | None = None


class Box(Struct, Generic[T]):
    inside: T


class Point(NamedTuple):
    x: Raw
    y: int | None = None


@dataclass(frozen=True)
class Dated:
    remote_data: list[dict[str, tuple[int, Raw]]]


@dataclass
class Later:
    own: Raw
    more: Raw | None = field(init=False, default=None)


class Node(Struct):
    own: Raw
    nodes: list[Node] = []


class Chain(NamedTuple):
    own: Raw
    next: Chain | None = None


class Child(Struct):
    own: Raw
    nodes: list[Child] = []
    parent: Child | None = None

    def __post_init__(self) -> None:
        for node in self.nodes:
            node.parent = self


class Nest(Struct):
    nest: Nest | None = None
    own: Raw = Raw(b"null")


@pytest.mark.parametrize(
    ("item_type", "item", "places"),
    [
        (Raw, b"[]", 1),
        (Interaction, b'{"id":"1","remote_data":{}}', 1),
        (Interaction | None, b'{"id":"1","remote_data":{}}', 1),
        (Own, b'{"id":"1","remote_data":7}', 1),
        (Annotated[Own, "as theirs"], b'{"id":"1","remote_data":7}', 1),
        (Mayhap, b'{"id":"1"}', 0),
        (Mayhap, b'{"id":"1","remote_data":7}', 1),
        (Odd, b'{"id":"1"}', 1),
        (Odd, b'{"id":"1","remote_data":7}', 2),
        (Wrapped, b'{"remote_data":{"id":"1","remote_data":7},"more":{"id":"2","remote_data":8}}', 2),
        (Wrapped, b'{"remote_data":{"id":"1","remote_data":7}}', 1),
        (list[Raw], b"[1,[2]]", 2),
        (dict[str, list[Raw]], b'{"a":[1,2],"b":[]}', 2),
        (tuple[int, Raw, tuple[Raw, ...]], b"[1,2,[3,4]]", 3),
        (Point, b"[1,2]", 1),
        (Box[Raw], b'{"inside":1}', 1),
        (Box[list[Raw]], b'{"inside":[1,2]}', 2),
        (list[Box[Box[Raw]]], b'[{"inside":{"inside":1}}]', 1),
        (Box[int], b'{"inside":1}', 0),
        (dict[str, Point], b'{"a":[1,2],"b":[3]}', 2),
        (Dated, b'{"remote_data":[{"a":[1,"x"]},{}]}', 1),
        (Later, b'{"own":1}', 1),
        (Node, b'{"own":1,"nodes":[{"own":2},{"own":3,"nodes":[{"own":4}]}]}', 4),
        (Nest, b'{"nest":' * 700 + b"null" + b',"own":5}' * 700, 700),
        (Interaction | list[Raw], b"[1]", 1),
        (NewType("Exact", Raw), b"[1]", 1),
        (Raw | UnsetType, b"[1]", 1),
        (dict[str, Any], b'{"a":1}', 0),
    ],
)
def test_raw_values_are_detached_unless_asked_not_to(item_type: Any, item: bytes, places: int) -> None:
    """A view keeps the whole page alive; a pull's sinks drop a page once it is written."""
    text = b'{"result":[%b,%b],"next_cursor":null}' % (item, item) + b" " * 9
    held = sys.getrefcount(text)
    detached = PageReader(ItemReader[Any](item_type)).read(text).items
    assert sys.getrefcount(text) == held
    views = PageReader(ItemReader[Any](item_type), detach=False).read(text).items
    assert sys.getrefcount(text) == held + 2 * places
    assert (views, list(map(type, views))) == (detached, list(map(type, detached)))
    assert msgspec.json.encode(detached) == msgspec.json.encode(views)


def test_only_types_with_raw_deeper_inside_are_looked_through() -> None:
    """For fields of the items themselves, a loop in C does it in a fiftieth of the time."""

    class Plain(msgspec.Struct):
        required: Raw
        optional: Raw = Raw(b"null")
        text: str | None = None

    class Unset(msgspec.Struct):
        maybe: Raw | msgspec.UnsetType = msgspec.UNSET

    for item_type, names, has_more in (
        (Plain, ["required", "optional"], False),
        (Unset, [], True),
        (dict[str, int], [], False),
        (dict[str, Raw], [], True),
    ):
        fields, is_inside = detach.raw_places(item_type)
        assert ([name for name, _ in fields], is_inside) == (names, has_more)


def test_items_that_refer_to_their_parents_are_detached_too() -> None:
    text = b'[{"own":1,"nodes":[{"own":2},{"own":3}]}]' + b" " * 9
    held = sys.getrefcount(text)
    [item], _ = ItemReader(Child).read_array(text)
    assert item.nodes[1].parent is item
    assert [bytes(each.own) for each in (item, *item.nodes)] == [b"1", b"2", b"3"]
    assert sys.getrefcount(text) == held


def test_deeply_nested_tuples_are_read() -> None:
    """Those too deep to detach stay views."""
    for depth in (10, 300, 600):
        [item], issues = ItemReader(Chain).read_array(b"[" + b"[1," * depth + b"null" + b"]" * depth + b"]")
        assert issues == []
        while item is not None:
            assert bytes(item.own) == b"1"
            item, depth = item.next, depth - 1
        assert depth == 0


def test_interactions_are_detached_without_a_python_call_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page at a time, in C."""
    monkeypatch.setattr(detach, "_fresh", None)
    assert READER.read(b'{"result":[{"id":"1","remote_data":{}}]}').items[0].remote_data == {}


# Bodies that are not an envelope


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "empty"),
        (b" \r\n\t ", "empty"),
        (b" " * 300, "white space"),
        (b"<html><body>502</body></html>" + b"<br>" * 200, "HTML"),
        (b"\n\n  <!DOCTYPE html>", "HTML"),
        (b"\n" * 200 + b"<html>", "HTML"),
        (b"upstream connect error" + b"." * 200, "upstream connect error"),
        (b"\xef\xbb\xbf<html>", "HTML"),
        (b"\xef\xbb\xbf\xef\xbb\xbf" + page(), "not JSON"),
        (b" \xef\xbb\xbf" + page(), "not JSON"),
        (page().decode().encode("utf-16"), "UTF-8"),
        (b'{"result": [{"id": "\xff"}]}', "0xff at offset 20"),
        (b'{"result": [{"id": "a", "other": "\xc3"}]}', "UTF-8"),
        (b'{"result": [{"id": "a", "remote_data": {"a": "\xed\xa0\x80"}}]}', "UTF-8"),
        (b'{"result": [], "other": ["\xff"]}', "UTF-8"),
        (b'{"result": [{"id": "\\ud800\\x"}]}', "not JSON"),
        (b'{"result": [{"id": "a", "remote_data": \\udc00}]}', "not JSON"),
        (b'{"result": [], "other": 1e400}', "other"),
        (b'{"result": [NaN]}', "not JSON"),
        (b"{'result': []}", "not JSON"),
        (b'{"result": [],}', "not JSON"),
        (b'{"result": [{"id": "a",}]}', "not JSON"),
        (b"[]", "expected a JSON object"),
        (b'[{"id": "a"}]', "expected a JSON object"),
        (b"5", "expected a JSON object"),
        (b'"text"', "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b"true", "expected a JSON object"),
        (b"{}", "its keys are: none"),
        (b'{"result": null}', "must be an array, but it is null"),
        (b'{"result": {}}', "it is an object; for truto_key_by use keyed()"),
        (b'{"result": "text"}', 'it is "text"'),
        (b'{"result": 5, "next_cursor": "c"}', "it is 5"),
        (b'{"error": "no such account"}', 'keys are: error; the service says "no such account"'),
        (b'{"error": "x", "message": null}', '"x"'),
        (b'{"message": "", "error": ""}', "error, message"),
        (b'{"Result": []}', "Result"),
    ],
)
def test_a_body_that_is_not_a_page_is_a_decode_error(text: bytes, said: str) -> None:
    """Proxies and half-deployed servers send such bodies with status 200."""
    for reader in (READER, STRICT, ANY, EXACT):
        with pytest.raises(DecodeError) as caught:
            reader.read(text)
        assert caught.value.raw in text
        assert caught.value.raw or not text
        assert said in str(caught.value)
        assert len(str(caught.value)) < 200


def test_the_services_message_is_cut_between_characters() -> None:
    for shift in range(4):
        error = "x" * shift + "é李🙂" * 100
        with pytest.raises(DecodeError) as caught:
            READER.read(body({"error": error}))
        shown = str(caught.value).partition('the service says "')[2]
        assert error.startswith(shown)
        assert 196 <= len(shown.encode()) < 200


def test_a_body_with_a_thousand_keys_makes_a_short_message() -> None:
    with pytest.raises(DecodeError, match="and 988 more$") as caught:
        READER.read(body({f"key-{i}": i for i in range(1000)}))
    assert len(str(caught.value)) < 300
    with pytest.raises(DecodeError, match="key-11$"):
        READER.read(body({f"key-{i}": i for i in range(10, 12)} | {f"key-0{i}": i for i in range(10)}))


def test_a_value_that_cannot_be_decoded_is_named() -> None:
    with pytest.raises(DecodeError, match="^other cannot be decoded") as caught:
        READER.read(b'{"result": [], "other": [1e400]}')
    assert (caught.value.path, caught.value.raw) == ("$.other", b"[1e400]")


def test_the_error_for_the_providers_own_body_says_how_to_read_it() -> None:
    with pytest.raises(DecodeError) as caught:
        READER.read(body(GONG))
    assert "peopleInteractionStats, records, requestId, timeZone" in str(caught.value)
    assert "stream(path='peopleInteractionStats', item_type=dict)" in str(caught.value)


# Nesting. msgspec decodes recursively, so it gives up at some depth.


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize(
    ("template", "items"),
    [
        ('{"result": [{"id": "a", "remote_data": %s}]}', 1),
        ('{"result": [{"id": "a", "other": %s}]}', 1),
        ('{"result": [{"id": %s}, {"id": "a"}]}', 2),
        ('{"result": [], "other": %s}', 0),
        ('{"other": 1, "result": [{"id": "a"}], "debug": {"data": %s}}', 1),
    ],
)
def test_nesting_is_read_at_200_levels_and_refused_at_100_000(
    template: str, items: int, opening: str, closing: str
) -> None:
    def nested(depth: int) -> str:
        return opening * depth + "1" + closing * depth

    found = READER.read((template % nested(200)).encode())
    assert len(found.items) == items
    if "remote_data" in template:
        assert found.items[0].remote_data == json.loads(nested(200))
    too_deep = (template % nested(100_000)).encode()
    for reader in (READER, ANY):
        with pytest.raises(DecodeError):
            reader.read(too_deep)


@pytest.mark.parametrize("opening", [b"[", b'{"result":[', b'{"result":[{"id":'])
def test_a_hundred_thousand_brackets_that_never_close_are_a_truncated_body(opening: bytes) -> None:
    with pytest.raises(TruncatedBodyError):
        READER.read(opening * 100_000)


# Truncated bodies


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        pytest.param(READER, body(PAGE), id="page"),
        pytest.param(READER, body({"odd": {"é": [1]}} | PAGE), id="lenient"),
        pytest.param(STRICT, json.dumps(PAGE, indent=1).encode(), id="escaped and indented"),
        pytest.param(ANY, body({"results": [{"a": True}, {"b": -1.5e-7}], "next_cursor": None}), id="any"),
        pytest.param(KEYED, body({"result": {"ключ": {"id": "a"}}}), id="keyed"),
        pytest.param(READER, body(GONG), id="no page"),
        pytest.param(READER, body([PAGE]), id="array"),
        pytest.param(READER, body(PAGE | {"result": {}}), id="wrong type"),
    ],
)
def test_a_body_truncated_at_any_byte_is_distinguished_from_a_bad_one(
    reader: PageReader[Any], text: bytes
) -> None:
    """A truncated body is worth fetching again; of a bad one the server would send the same."""
    for end in range(1, len(text)):
        with pytest.raises(TruncatedBodyError, match=f"after {end:,} bytes") as caught:
            reader.read(text[:end])
        assert caught.value.bytes_read == end


@pytest.mark.parametrize("garbage", [b"x", b"}", b"]", b"{}", b"\0", b",", body(PAGE), b"<html>", b"\xff"])
def test_garbage_after_the_end_is_not_truncation(garbage: bytes) -> None:
    for reader in READERS:
        with pytest.raises(DecodeError):
            reader.read(body(PAGE) + garbage)


def test_truncation_is_detected_in_a_large_body() -> None:
    big = body({"result": [{"id": "é" * 50_000, "remote_data": [1] * 50_000}]})
    assert len(READER.read(big).items) == 1
    for end in (len(big) - 1, 65_536, 65_537, 100_001):
        with pytest.raises(TruncatedBodyError):
            READER.read(big[:end])
    with pytest.raises(DecodeError):
        READER.read(big[:100_001] + b"\x01" + big[100_001:])


# Whatever comes


@given(st.binary(max_size=60) | JSON_LIKE | PAGE_LIKE)
def test_no_body_raises_an_error_of_another_library(text: bytes) -> None:
    for reader in READERS:
        try:
            found: Any = reader.read(text)
        except TrutoError:
            continue
        repr(found)
        for item in found.items:
            if isinstance(item, Interaction):
                item.row()
                hash(item)
                repr(item)
                for use in (item.to_dict, lambda item=item: item.remote_data):
                    with suppress(
                        DecodeError
                    ):  # a number too large for a float, in a value that was kept raw
                        use()
    with suppress(DecodeError):
        raw_cursors(text)


# Large bodies, read in slices


def in_slices(reader: PageReader[Any], text: bytes) -> Any:
    *pauses, found = reader.read_in_slices(text)
    assert set(pauses) <= {None}
    return found


def outcome(read: Callable[[bytes], Any], text: bytes) -> Any:
    """What reading gives: everything but the exact bytes of ``debug``, or the type of the error."""
    try:
        found = read(text)
    except TrutoError as error:
        return type(error)
    around = found.next_cursor, found.prev_cursor, found.result_count, found.is_partial_response, found.extra
    debug = found.debug and (found.debug.data, found.debug.request_options, found.debug.request_url)
    return found.items, around, found.issues, found.keys, debug


def test_a_large_page_is_read_in_many_slices() -> None:
    items = [{"id": str(i), "timezone": "x" * 1_000} for i in range(2_000)]
    text = body({"result": items, "next_cursor": "c", "odd": [1]})
    steps = list(READER.read_in_slices(text))
    assert len(steps) >= len(text) // 300_000
    assert steps[:-1] == [None] * (len(steps) - 1)
    assert steps[-1] == READER.read(text)


def test_no_limit_of_a_stream_applies_to_a_page_read_in_slices() -> None:
    """The size of the body is limited elsewhere."""
    text = body({"result": [{"id": "x" * 100_000}] * 20, "large": "x" * 20_000_000})
    found = in_slices(READER, text)
    assert (len(found.items), len(found.extra["large"])) == (20, 20_000_000)
    assert found == READER.read(text)


@pytest.mark.parametrize("item", [b"1", b"{}", b'{"id":5}', b'{"x":1}', b"null", b'"\\ud83d"'])
@pytest.mark.parametrize("reader", [READER, ANY, KEYED])
def test_issues_of_a_page_are_capped_and_counted(reader: PageReader[Any], item: bytes) -> None:
    """A page of a million wrong items took 300 MB."""
    keyed = reader is KEYED
    items = [b'{"id":"a"}', *[item] * 5_000]
    texts = [b'"k%d":%s' % pair for pair in enumerate(items)] if keyed else items
    text = (b"{%s}" if keyed else b"[%s]") % b",".join(texts)
    found = reader.read(b'{"result":%s}' % text)
    is_kept = item.startswith(b"{") and (reader is ANY or b"id" in item)
    assert len(found.items) == (5_001 if is_kept else 1)
    assert found.keys is None or len(found.keys) == len(found.items)
    is_good = is_kept and reader is ANY
    assert (len(found.issues), found.issues_count >= 5_000) == ((0, False) if is_good else (100, True))


def test_notes_on_one_record_are_capped_and_counted() -> None:
    """A list of a million wrong elements in one record took 300 MB."""
    text = b'{"result":[{"id":"a","user":{"emails":[%s]}}]}' % b",".join([b"1"] * 20_000)
    tracemalloc.start()
    found = READER.read(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.issues) <= 100
    assert found.issues_count == 20_000
    assert found.items[0].user is not None
    assert found.items[0].user.emails == ()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("value", [b"1", b'{"email":1}', b'["x"]'])
def test_a_list_of_very_many_wrong_values_is_left_out(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repairing a million of them held the loop for seconds."""
    monkeypatch.setattr(repair, "MOST_REPAIRS", 1_000)
    text = b'{"result":[{"id":"a","user":{"id":5,"emails":[%s]}}]}'
    kept = READER.read(text % b",".join([value] * 1_000))
    assert kept.issues_count == 1_001
    found = READER.read(text % b",".join([value] * 30_000))
    assert found.issues_count == 2
    assert found.items[0].user == Person(id="5")
    assert "more than 1,000 wrong values" in found.issues[-1].message


def test_names_of_very_many_unknown_members_are_not_gathered() -> None:
    """Of half a million, a hundred were told, after all of them had been compared with those told before."""
    told: list[str] = []
    reader = item_reader(Interaction, "repair").for_walk(lambda names, kept: told.extend(names))
    for letter in (b"k", b"j"):
        members = b",".join(b'"%c%d":1' % (ord(letter), number) for number in range(20_000))
        (item,), issues = reader.read_array(b'[{"id":"a",%s}]' % members)
        assert len(item.unknown) == 20_000
        assert not issues
    assert len(told) == 100
    names: dict[str, None] = {}
    mover = member_mover(Interaction)
    assert mover is not None
    mover.move(b'{"id":"a",%s}' % members, "", names)
    assert len(names) <= 200


def test_a_byte_order_mark_is_left_out() -> None:
    """.NET and PHP write one before JSON."""
    for reader, text in ((READER, body(PAGE)), (ANY, page(odd=1)), (KEYED, b'{"result":{"k":{"id":"a"}}}')):
        assert reader.read(b"\xef\xbb\xbf" + text) == reader.read(text)
        assert in_slices(reader, b"\xef\xbb\xbf" + text) == in_slices(reader, text)


@pytest.mark.parametrize(
    ("reader", "text", "expected", "paths"),
    [
        (READER, rb'{"result":[{"id":"a\ud83d"}]}', ["a\ufffd"], [(0, "$.result[0].id")]),
        (
            ANY, rb'{"result":[{"id":"a"},{"id":"\udc00","\ud83d":1}]}', ["a", "\ufffd"],
            [(1, "$.result[1]"), (1, "$.result[1].id")],
        ),
        (
            KEYED, rb'{"result":{"\ud83d":{"id":"a\ud83d"}}}', ["a\ufffd"],
            [(0, "$.result[0].id"), (None, "$.result (keys)[0]")],
        ),
        (
            READER, rb'{"x":["\ud83d"],"result":[{"id":"a"}],"debug":{"data":"\udfff"}}', ["a"],
            [(None, "$.debug.data"), (None, "$.x[0]")],
        ),
    ],
)  # fmt: skip
def test_lone_surrogates_are_replaced_and_told(
    reader: PageReader[Any], text: bytes, expected: list[str], paths: list[Any]
) -> None:
    """JSON allows them, and JavaScript makes them when it cuts a text inside an emoji. They used to cost the page."""
    for found in (reader.read(text), in_slices(reader, text)):
        ids = [item["id"] if isinstance(item, dict) else item.id for item in found.items]
        assert ids == expected
        assert sorted(((issue.index, issue.path) for issue in found.issues), key=str) == paths
        assert all("half of a surrogate pair" in issue.message for issue in found.issues)
        assert found.issues_count == len(paths)
    if reader is KEYED:
        assert found.keys == ("\ufffd",)


def test_exact_bytes_are_exact_but_for_lone_surrogates() -> None:
    """The replacement has the same length."""
    item = rb'{"id":"\ud83d", "n":1.10, "t":"\ud83d\ude00\\ud83d"}'
    found = EXACT.read(b'{"result":[ ' + item + b" ]}")
    assert [bytes(each) for each in found.items] == [item.replace(rb'"\ud83d"', rb'"\ufffd"')]
    assert [issue.raw for issue in found.issues] == [item]


def test_a_large_object_around_the_items_is_not_decoded() -> None:
    """Decoding it would hold the loop. Nothing is lost: it is there as it came."""
    large = b"[" + b"[]," * 200_000 + b"1.10]"
    found = READER.read(b'{"result":[],"large":%s,"text":"%s"}' % (large, b"x" * 600_000))
    assert bytes(found.extra["large"]) == large
    assert found.extra["text"] == "x" * 600_000


def test_a_body_of_many_keys_is_refused() -> None:
    keys = b",".join(b'"k%d":1' % number for number in range(100_001))
    with pytest.raises(DecodeError, match="more than 10,000 keys"):
        READER.read(b'{"result":[],' + keys + b"}")


@pytest.mark.parametrize("cursor", [b'{"a":"' + b"x" * 1_000_000 + b'"}', b'"' + b"x" * 400_000 + b'"'])
def test_a_large_cursor_is_refused_without_decoding_it(cursor: bytes) -> None:
    with pytest.raises(DecodeError, match="next_cursor has more than 65,536 bytes; it begins") as caught:
        READER.read(b'{"result":[],"next_cursor":%s}' % cursor)
    assert len(str(caught.value)) < 200


def test_the_last_of_two_results_wins() -> None:
    text = b'{"result":[{"id":"a"}],"next_cursor":"x","result":[{"id":"b"},{"id":5}],"next_cursor":"y"}'
    for found in (READER.read(text), in_slices(READER, text)):
        assert ([item.id for item in found.items], found.next_cursor) == (["b", "5"], "y")
        assert [issue.path for issue in found.issues] == ["$.result[1].id"]


@pytest.mark.parametrize(
    "text",
    [
        body(PAGE),
        body({"odd": {"é": [1]}} | PAGE),
        page(
            debug={"requestUrl": "u", "requestOptions": {"a": 98765432109876543210}, "data": [1.5]},
            next_cursor=5,
        ),
        page(debug="odd", prev_cursor={}, result_count="50", is_partial_response=None),
        b'{"result": [{"id": 5}, {"foo": 1}, {"id": "a", "remote_data": {"a" : 1.00}}]}',
        b'{"result": [{"foo": 1}]}',
        b'{"results": []}',
        body(GONG),
        body(PAGE)[:-9],
        body(PAGE) + b"x",
        page(next_cursor=True),
    ],
)
def test_reading_in_slices_gives_the_same_as_reading_at_once(text: bytes) -> None:
    for reader in (READER, ANY):
        assert outcome(partial(in_slices, reader), text) == outcome(reader.read, text)
    keyed = body({"result": {"k": {"id": "a"}}, "odd": 1})
    assert in_slices(KEYED, keyed) == KEYED.read(keyed)


@given(JSON_LIKE | PAGE_LIKE)
def test_any_body_is_read_the_same_in_slices(text: bytes) -> None:
    """The size of a body must not change what a caller gets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_reader, "SLICE_BYTES", 7)
        for reader in (READER, ANY):
            assert outcome(partial(in_slices, reader), text) == outcome(reader.read, text)


@given(
    st.lists(
        st.fixed_dictionaries({"id": st.one_of(st.text(max_size=5), st.integers(), st.none())}), min_size=1
    ),
    st.booleans(),
)
def test_a_large_page_reads_the_same_in_slices(rows: list[dict[str, Any]], odd: bool) -> None:
    """Items, issues and envelope are those of a read in one go."""
    envelope = {"x": 1, "result": rows, "next_cursor": "c", "result_count": 2.0, "debug": {"isLooping": True}}
    body = msgspec.json.encode(envelope | ({"is_partial_response": "?"} if odd else {}))
    reader = PageReader[Interaction](ItemReader(Interaction))
    sliced = [page for page in reader.read_in_slices(body) if page is not None]
    whole = reader.read(body)
    assert len(sliced) == 1
    assert sliced[0].items == whole.items
    assert sliced[0].issues == whole.issues
    for name in ("next_cursor", "prev_cursor", "result_count", "is_partial_response", "debug", "extra"):
        assert getattr(sliced[0], name) == getattr(whole, name)


@pytest.mark.parametrize("size", [0, SLICED_ABOVE])
@pytest.mark.parametrize("is_first", [False, True])
def test_debug_data_has_the_same_bytes_whatever_the_size(size: int, is_first: bool) -> None:
    """``1.10`` is a version or a price to somebody; decoding and encoding makes it 1.1."""
    data = b'{ "v":1.10, "n":98765432109876543210,"e":1E2, "t":"\\u00e9\\/", "pad": "' + b"x" * size + b'"}'
    debug = b'"debug": {"requestUrl": "u", "data": ' + data + b', "requestOptions": {"v": 2.50}}'
    extra = b'"odd": {"v": 3.0}'
    around = b"{%b, %b, %b}" if is_first else b"{%b, %b, %b }"
    parts = (debug, extra, b'"result": [{"id": "1"}]')
    text = around % (parts if is_first else parts[::-1])
    for found in (READER.read(text), in_slices(READER, text)):
        assert found.debug is not None
        assert bytes(found.debug.data_json) == data
        assert bytes(found.debug.options_json) == b'{"v": 2.50}'
        assert found.extra == {"odd": {"v": 3.0}}


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
@pytest.mark.parametrize("more", [{}, {"odd": 1}])
def test_the_length_of_a_cursor_is_bounded(size: int, more: dict[str, Any]) -> None:
    """It is kept in positions, checkpoints and errors, and no request could hold it."""
    for cursor in ("c" * size, "é" * (size // 2) + "c" * (size % 2)):
        text = page(result=[], next_cursor=cursor, **more)
        if size <= 64 * 1024:
            assert READER.read(text).next_cursor == cursor
            assert raw_cursors(text) == (cursor, None)
        else:
            for read in (READER.read, raw_cursors):
                with pytest.raises(DecodeError, match=r"65,536 bytes") as caught:
                    read(text)
                assert caught.value.path == "$.next_cursor"
                assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        body(PAGE), page(odd=1, next_cursor="c"), b"{}", b"[]", b"", b"<html>", body(PAGE)[:-9], body(PAGE) + b"x",
        b'"a"', b'{"result":[{"id":5},{"foo":1},1],"x":[1.10]}', b'{"result":[{"id":"a"}],"result":[{"id":"b"}]}',
        b'{"result":null}', b'{"result":{"k":{"id":"a"},"k":{"id":5},"l":1}}', b'{"results":[{"id":"a"}],"result":[]}',
        b'{"result":[],}', b'{,"result":[]}', b'{"result":[] "a":1}', b'{"result":[],"a":}',
        b'{"result":null,"results":[{"id":"a"}]}',
    ],
)  # fmt: skip
def test_pages_are_read_the_same_if_msgspecs_messages_change(
    text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a value ends is read from one of them. Without it the body is split in one go."""
    for reader in (READER, ANY, KEYED):
        expected = outcome(partial(in_slices, reader), text)
        with monkeypatch.context() as patch:
            patch.setattr(body_walker, "FAST_PARSER_WORKS", False)
            patch.setattr(body_walker, "value_length", None)
            assert outcome(partial(in_slices, reader), text) == expected
            odd = (
                rb'{"result":{"k":{"id":"\ud83d"}}}' if reader is KEYED else rb'{"result":[{"id":"\ud83d"}]}'
            )
            assert [issue.path for issue in in_slices(reader, odd).issues][-1].startswith("$.result")


def test_a_key_that_comes_a_hundred_thousand_times_is_refused() -> None:
    text = b'{"result":[]' + b',"a":1' * 100_000 + b"}"
    for found in (READER.read_in_slices(text), KEYED.read_in_slices(text.replace(b"[]", b"{}"))):
        with pytest.raises(DecodeError, match="more than 10,000 keys"):
            list(found)


# Raw bodies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"next_cursor": "c"}', "c"),
        (b' \n{"a": 1, "next_cursor": 5}', "5"),
        (b'{"next_cursor": ""}', None),
        (b'{"next_cursor": null}', None),
        (b"[]", None),
        (b"", None),
        (b"<html>", None),
        (b"\x1f\x8b", None),
        (b"\xff\xfe\x00\x01", None),
        (b'{"title": "x\\ud83d", "next_cursor": "c"}', "c"),
        (b'{"title": "a\tb", "next_cursor": "c"}', "c"),
        (b'{"score": NaN, "next_cursor": "c"}', "c"),
        (b'\xef\xbb\xbf {"next_cursor": "c"}', "c"),
        (' {"next_cursor": "c"}'.encode("utf-16"), "c"),
        (' {"next_cursor": "c"}'.encode("utf-16-be"), None),
        (b'{"next_cursor": "c", "records": {"cursor": "d"}}', "c"),
        (b'{"records": [], "next_cursor": "c"}', "c"),
    ],
)  # fmt: skip
def test_a_raw_body_has_a_cursor_only_if_it_is_an_object_with_one(text: bytes, expected: str | None) -> None:
    """A raw body can be anything; one that is not a JSON object is not an error."""
    assert raw_cursors(text) == (expected, None)


@pytest.mark.parametrize(
    "text",
    [
        b'{"next_cursor": {"offset": 100}}',
        b'{"next_cursor": ["c"]}',
        b'{"next_cursor": 100.0}',
        b'{"next_cursor": true}',
        b'{"next_cursor": "\\ud83d"}',
        b'{"next_cursor": "c"',
        b'{"next_cursor": "\xff"}',
        b'{"a": ' + b"[" * 100_000,
        b'{"a": "\\ud83d' + b"x" * 2**20 + b'", "next_cursor": "c"}',
    ],
)
def test_a_raw_body_whose_cursor_cannot_be_read_is_an_error(text: bytes) -> None:
    """To end there in silence would pass off the first page as all of them."""
    with pytest.raises(DecodeError):
        raw_cursors(text)


@pytest.mark.parametrize(
    ("records", "expected"),
    [({"cursor": "eyJ"}, "eyJ"), ({"cursor": 5}, "5"), ({"cursor": None}, None), ({"cursor": ""}, None),
     ({"totalRecords": 2}, None), ([], None), (None, None), ("text", None)],
)  # fmt: skip
def test_gongs_own_cursor_is_told(records: Any, expected: str | None) -> None:
    assert raw_cursors(body({**GONG, "records": records})) == (None, expected)
