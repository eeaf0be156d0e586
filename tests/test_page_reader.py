"""Bodies in: envelopes, accounts and errors. A body is read right, or it is one typed error; nothing else gets out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypeVar

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from truto_ci_async._wire import detach, page_reader
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async._wire.page_reader import PageReader, cursor_text, raw_cursor
from truto_ci_async._wire.responses import (
    error_class,
    raise_for_cursor,
    read_capabilities,
    read_error,
    read_token,
)
from truto_ci_async.errors import (
    AccountBlockedError,
    APIError,
    AuthenticationError,
    BadRequestError,
    CursorExpiredError,
    DecodeError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ReconnectRequiredError,
    ServerError,
    TruncatedBodyError,
    TrutoError,
    UsageError,
)
from truto_ci_async.models import Capability, Interaction

READER = PageReader(ItemReader(Interaction))
STRICT = PageReader(ItemReader(Interaction, on_invalid="raise"))
ANY = PageReader(ItemReader(dict))
EXACT = PageReader(ItemReader(Raw))
KEYED = PageReader(ItemReader(Interaction), keyed=True)
READERS = [READER, STRICT, ANY, EXACT, KEYED]

# What a Gong company's page looks like: 20-digit ids, ints and floats and nulls, text beyond ASCII.
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


def body(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def page(**keys: Any) -> bytes:
    return body({"result": [{"id": "a"}], **keys})


# Envelopes


def test_a_faithful_page() -> None:
    found = READER.read(body(PAGE))
    assert [item.id for item in found.items] == ["98765432109876543210_2024-01-01", "b"]
    assert found.items[0].start_time == datetime(2024, 1, 1, 8, tzinfo=UTC)
    assert found.items[0].remote_data == PAGE["result"][0]["remote_data"]  # type: ignore[index]
    assert (found.next_cursor, found.prev_cursor, found.result_count) == ("eyJhbGciOi/+=", None, 2)
    assert found.is_partial_response is False
    assert (found.debug, found.extra, found.issues, found.keys) == (None, {}, [], None)


def test_the_common_page_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The careful reading costs a second decode: it is for surprises only."""
    monkeypatch.setattr(PageReader, "_read_carefully", None)
    assert len(READER.read(body(PAGE)).items) == 2
    assert len(READER.read(page(debug={"requestUrl": "u", "newKey": 1})).items) == 1


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("is_odd", [False, True])
def test_key_order_and_white_space_do_not_matter(indent: int | None, is_odd: bool) -> None:
    keys = PAGE | {"odd": 1} if is_odd else PAGE
    expected = ANY.read(body(keys))
    for order in (sorted(keys), sorted(keys, reverse=True)):
        text = json.dumps({key: keys[key] for key in order}, indent=indent)
        assert ANY.read(f" {text}\r\n".encode()) == expected
        assert len(READER.read(f" {text}\r\n".encode()).items) == 2


def test_results_is_taken_for_result() -> None:
    """Some of the service's own endpoints say it that way."""
    assert [item.id for item in READER.read(b'{"results": [{"id": "a"}], "next_cursor": "c"}').items] == ["a"]
    both = READER.read(b'{"results": [1], "result": [{"id": "a"}]}')
    assert (len(both.items), both.extra) == (1, {"results": [1]})


def test_unknown_keys_survive() -> None:
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
    """Read alike whether or not something else about the envelope is odd."""
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
def test_a_known_key_of_another_type_survives_and_costs_nothing(key: str, value: Any) -> None:
    """No item is lost for a count that is odd."""
    found = READER.read(page(**{key: value}, next_cursor="c"))
    assert found.extra == {key: value}
    assert getattr(found, key) is None
    assert (found.next_cursor, len(found.items)) == ("c", 1)


@pytest.mark.parametrize("cursor", [True, False, 1.5, {}, ["c"], {"after": "c"}])
def test_a_next_cursor_that_is_no_text_is_an_error(cursor: Any) -> None:
    """Taken for the end, it would end the walk with records missing."""
    with pytest.raises(DecodeError, match="next_cursor") as caught:
        READER.read(page(next_cursor=cursor))
    assert caught.value.path == "$.next_cursor"
    with pytest.raises(DecodeError):
        cursor_text(cursor)


def test_debug_is_read_and_its_credentials_stay_out_of_reprs() -> None:
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


def test_a_keyed_item_that_cannot_be_kept_takes_its_key_along() -> None:
    """Else every later item would go by its neighbour's key."""
    found = KEYED.read(b'{"result": {"k1": {"id": "a"}, "k2": {"foo": 1}, "k3": {"id": "c"}}}')
    assert found.keys == ("k1", "k3")
    assert [item.id for item in found.items] == ["a", "c"]
    assert [(issue.index, issue.dropped) for issue in found.issues] == [(1, True)]


def test_a_keyed_result_where_an_array_is_expected_names_the_verb() -> None:
    with pytest.raises(DecodeError, match=r"keyed\(\)"):
        READER.read(b'{"result": {"k1": {"id": "a"}}}')


# Items


def test_a_bad_field_is_repaired_and_told() -> None:
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


def test_one_foreign_item_among_good_ones_is_left_out_and_told() -> None:
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
def test_items_are_detached_unless_nobody_keeps_them(item_type: Any, item: bytes, places: int) -> None:
    """A view keeps its whole page; our own sinks are done with a page once it is written."""
    text = b'{"result":[%b,%b],"next_cursor":null}' % (item, item) + b" " * 9
    held = sys.getrefcount(text)
    detached = PageReader(ItemReader[Any](item_type)).read(text).items
    assert sys.getrefcount(text) == held
    views = PageReader(ItemReader[Any](item_type), detach=False).read(text).items
    assert sys.getrefcount(text) == held + 2 * places
    assert (views, list(map(type, views))) == (detached, list(map(type, detached)))
    assert msgspec.json.encode(detached) == msgspec.json.encode(views)


def test_items_that_know_their_parents_are_detached_too() -> None:
    text = b'[{"own":1,"nodes":[{"own":2},{"own":3}]}]' + b" " * 9
    held = sys.getrefcount(text)
    [item], _ = ItemReader(Child).read_array(text)
    assert item.nodes[1].parent is item
    assert [bytes(each.own) for each in (item, *item.nodes)] == [b"1", b"2", b"3"]
    assert sys.getrefcount(text) == held


def test_tuples_in_tuples_are_read_however_deep() -> None:
    """Where they are too deep for a look at each, they stay views."""
    for depth in (10, 300, 600):
        [item], issues = ItemReader(Chain).read_array(b"[" + b"[1," * depth + b"null" + b"]" * depth + b"]")
        assert issues == []
        while item is not None:
            assert bytes(item.own) == b"1"
            item, depth = item.next, depth - 1
        assert depth == 0


def test_pages_of_interactions_are_detached_without_a_look_into_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it in C, a page at a time."""
    monkeypatch.setattr(detach, "_fresh", None)
    assert READER.read(b'{"result":[{"id":"1","remote_data":{}}]}').items[0].remote_data == {}


# Bodies that are no envelope


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "empty"),
        (b" \r\n\t ", "empty"),
        (b" " * 300, "white space"),
        (b"<html><body>502</body></html>", "HTML"),
        (b"\n\n  <!DOCTYPE html>", "HTML"),
        (b"upstream connect error", "upstream connect error"),
        (b"\xef\xbb\xbf" + page(), "byte order mark"),
        (page().decode().encode("utf-16"), "UTF-8"),
        (b'{"result": [{"id": "\xff"}]}', "0xff at offset 20"),
        (b'{"result": [{"id": "a", "other": "\xc3"}]}', "UTF-8"),
        (b'{"result": [{"id": "a", "remote_data": {"a": "\xed\xa0\x80"}}]}', "UTF-8"),
        (b'{"result": [], "other": ["\xff"]}', "UTF-8"),
        (b'{"result": [{"id": "\\ud800"}]}', "not JSON"),
        (b'{"result": [{"id": "a", "remote_data": "\\udc00"}]}', "not JSON"),
        (b'{"result": [], "other": "\\ud800"}', "not JSON"),
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
        (b'{"result": null}', "result is null"),
        (b'{"result": {}}', "result is an object"),
        (b'{"result": "text"}', "result is no array"),
        (b'{"result": 5, "next_cursor": "c"}', "result is no array"),
        (b'{"error": "no such account"}', 'keys are: error; the service says "no such account"'),
        (b'{"error": "x", "message": null}', '"x"'),
        (b'{"message": "", "error": ""}', "error, message"),
        (b'{"Result": []}', "Result"),
    ],
)
def test_what_is_no_page_is_one_typed_error(text: bytes, said: str) -> None:
    """With status 200, too: proxies and half-deployed servers answer so."""
    for reader in (READER, STRICT, ANY, EXACT):
        with pytest.raises(DecodeError) as caught:
            reader.read(text)
        assert caught.value.raw in text
        assert caught.value.raw or not text
        assert said in str(caught.value)


def test_the_services_word_is_cut_between_characters() -> None:
    for shift in range(3):
        with pytest.raises(DecodeError, match="the service says"):
            READER.read(body({"error": "x" * shift + "é李🙂" * 100}))


def test_a_body_with_a_thousand_keys_makes_a_short_message() -> None:
    with pytest.raises(DecodeError, match="and 988 more") as caught:
        READER.read(body({f"key-{i}": i for i in range(1000)}))
    assert len(str(caught.value)) < 300


def test_the_providers_own_body_names_its_keys_and_the_way_to_read_it() -> None:
    with pytest.raises(DecodeError) as caught:
        READER.read(body(GONG))
    assert "peopleInteractionStats, records, requestId, timeZone" in str(caught.value)
    assert "stream(path='peopleInteractionStats', item_type=dict)" in str(caught.value)


# Nesting. msgspec descends by recursion, so there is a depth it gives up at.


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
def test_a_hundred_thousand_brackets_that_never_close_are_a_cut_body(opening: bytes) -> None:
    with pytest.raises(TruncatedBodyError):
        READER.read(opening * 100_000)


# Bodies that were cut


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        pytest.param(READER, body(PAGE), id="page"),
        pytest.param(READER, body({"odd": {"é": [1]}} | PAGE), id="careful"),
        pytest.param(STRICT, json.dumps(PAGE, indent=1).encode(), id="escaped and indented"),
        pytest.param(ANY, body({"results": [{"a": True}, {"b": -1.5e-7}], "next_cursor": None}), id="any"),
        pytest.param(KEYED, body({"result": {"ключ": {"id": "a"}}}), id="keyed"),
        pytest.param(READER, body(GONG), id="no page"),
        pytest.param(READER, body([PAGE]), id="array"),
        pytest.param(READER, body(PAGE | {"result": {}}), id="wrong type"),
    ],
)
def test_a_body_cut_at_any_byte_is_told_from_a_bad_one(reader: PageReader[Any], text: bytes) -> None:
    """A cut body is fetched again, a bad one is not: the server would send the same."""
    for end in range(1, len(text)):
        with pytest.raises(TruncatedBodyError, match=f"after {end:,} bytes") as caught:
            reader.read(text[:end])
        assert caught.value.bytes_read == end


@pytest.mark.parametrize("garbage", [b"x", b"}", b"]", b"{}", b"\0", b",", body(PAGE), b"<html>", b"\xff"])
def test_garbage_after_the_end_is_no_cut(garbage: bytes) -> None:
    for reader in READERS:
        with pytest.raises(DecodeError):
            reader.read(body(PAGE) + garbage)


def test_a_cut_is_seen_in_a_body_of_many_slices() -> None:
    big = body({"result": [{"id": "é" * 50_000, "remote_data": [1] * 50_000}]})
    assert len(READER.read(big).items) == 1
    for end in (len(big) - 1, 65_536, 65_537, 100_001):
        with pytest.raises(TruncatedBodyError):
            READER.read(big[:end])
    with pytest.raises(DecodeError):
        READER.read(big[:100_001] + b"\x01" + big[100_001:])


# Whatever comes


LEAVES = [
    *(
        b"null",
        b"true",
        b"0",
        b"-1.5",
        b"1e400",
        b"98765432109876543210",
        b'""',
        b'"a"',
        b'"2024-01-01 10:00:00"',
    ),
    *(b'"2024-01-01T00:00:00Z"', b'"\\ud800"', b'"\xc3\xa9"', b'"\xff"', b'"\\u0000"', b"[]", b"{}"),
    *(b"", b"nul", b'"', b"[", b"}"),
]
KEYS = [
    *(
        b"result",
        b"results",
        b"next_cursor",
        b"prev_cursor",
        b"result_count",
        b"is_partial_response",
        b"debug",
    ),
    *(
        b"requestOptions",
        b"isLooping",
        b"id",
        b"user",
        b"metrics",
        b"patience",
        b"remote_data",
        b"start_time",
    ),
    *(
        b"emails",
        b"unified",
        b"resources",
        b"methods",
        b"account",
        b"error",
        b"message",
        b"raw_response",
        b"value",
    ),
    *(b"truto_error_insight", b"integrated_account_token", b"peopleInteractionStats", b"\\ud800", b"?"),
]


def _object(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"{" + b",".join(b'"' + key + b'":' + value for key, value in pairs) + b"}"


def _objects(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=5).map(_object)


JSON_LIKE = st.recursive(
    st.sampled_from(LEAVES),
    lambda values: (
        st.lists(values, max_size=3).map(lambda items: b"[" + b",".join(items) + b"]") | _objects(values)
    ),
    max_leaves=15,
)
# Nearly right: most of these get past the envelope, and into the items.
PAGE_LIKE = st.builds(
    lambda items, around, is_keyed: _object(
        [(b"result", _object([(b"k%d" % i, item) for i, item in enumerate(items)])), *around]
        if is_keyed
        else [(b"result", b"[" + b",".join(items) + b"]"), *around]
    ),
    st.lists(_objects(JSON_LIKE) | JSON_LIKE, max_size=3),
    st.lists(st.tuples(st.sampled_from(KEYS), JSON_LIKE), max_size=2),
    st.booleans(),
)


@given(st.binary(max_size=60) | JSON_LIKE | PAGE_LIKE)
def test_no_body_makes_another_error_than_ours(text: bytes) -> None:
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
                    with suppress(DecodeError):  # a number no float holds, where nobody had looked before
                        use()
    for read in (read_capabilities, read_token):
        with suppress(TrutoError):
            read(text)
    raw_cursor(text)
    for status in (401, 422, 503):
        error = read_error(status, {}, text)
        assert error.status == status
        assert str(error)
        repr(error)
        with pytest.raises(TrutoError):
            raise_for_cursor(error, "c")


# Large bodies, read in steps


def in_slices(reader: PageReader[Any], text: bytes) -> Any:
    *breaths, found = reader.read_in_slices(text)
    assert set(breaths) <= {None}
    return found


def told(read: Callable[[bytes], Any], text: bytes) -> Any:
    """What came of reading: everything but exact bytes of ``debug``, or the kind of error."""
    try:
        found = read(text)
    except TrutoError as error:
        return type(error)
    around = found.next_cursor, found.prev_cursor, found.result_count, found.is_partial_response, found.extra
    debug = found.debug and (found.debug.data, found.debug.request_options, found.debug.request_url)
    return found.items, around, found.issues, found.keys, debug


def test_a_large_page_lets_the_loop_breathe_between_its_slices() -> None:
    items = [{"id": str(i), "timezone": "x" * 1_000} for i in range(2_000)]
    text = body({"result": items, "next_cursor": "c", "odd": [1]})
    steps = list(READER.read_in_slices(text))
    assert len(steps) >= len(text) // 300_000
    assert steps[:-1] == [None] * (len(steps) - 1)
    assert steps[-1] == READER.read(text)


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
def test_reading_in_slices_is_reading(text: bytes) -> None:
    for reader in (READER, ANY):
        assert told(partial(in_slices, reader), text) == told(reader.read, text)
    keyed = body({"result": {"k": {"id": "a"}}, "odd": 1})
    assert in_slices(KEYED, keyed) == KEYED.read(keyed)


@given(JSON_LIKE | PAGE_LIKE)
def test_whatever_comes_is_read_alike_in_slices(text: bytes) -> None:
    """How large a body is must not decide what a caller gets."""
    assume(text.count(b'"result') <= 1)  # given twice, the one reading takes the last and the other refuses
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_reader, "SLICE", 7)
        for reader in (READER, ANY):
            assert told(partial(in_slices, reader), text) == told(reader.read, text)


# raw bodies


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b'{"next_cursor": "c"}', "c"), (b' \n{"a": 1, "next_cursor": 5}', "5"), (b'{"next_cursor": ""}', None),
     (b'{"next_cursor": null}', None), (b'{"next_cursor": {}}', None), (b"[]", None), (b"", None), (b"<html>", None),
     (b'{"records": {"cursor": "c"}}', None), (b'{"next_cursor": "c"', None), (b"\x1f\x8b", None),
     (b'{"next_cursor": "\xff"}', None), (b'{"a": ' + b"[" * 100_000, None), (body(GONG), None)],
)  # fmt: skip
def test_a_raw_body_goes_on_only_by_a_cursor_that_is_there(text: bytes, expected: str | None) -> None:
    """Anything may come as raw: what is no JSON object has no cursor, and is no error either."""
    assert raw_cursor(text) == expected


# Accounts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b'{"unified": [{"model": "conversational-intelligence", "resource": "interactions",'
            b' "methods": ["list", "get"]}], "account": {"id": "a", "status": "active", "is_blocked": false}}',
            (Capability(model="conversational-intelligence", resource="interactions", methods=("list", "get")),),
        ),
        (
            b'{"unified": {"resources": [{"api_name": "conversational-intelligence", "name": "interactions",'
            b' "methods": ["list"], "label": "x"}]}, "other": {},'
            b' "account": {"id": "a", "status": "active", "is_blocked": false, "other": {}}}',
            (Capability(model="conversational-intelligence", resource="interactions", methods=("list",)),),
        ),
        (b'{"unified": [], "account": {"id": "a", "status": "active", "is_blocked": false}}', ()),
        (b'{"unified": null, "account": {"id": "a", "status": "active", "is_blocked": false}}', ()),
        (b'{"unified": {}, "account": {"id": "a", "status": "active", "is_blocked": false}}', ()),
    ],
)  # fmt: skip
def test_capabilities_in_both_published_shapes(text: bytes, expected: tuple[Capability, ...]) -> None:
    found = read_capabilities(text)
    assert found.unified == expected
    assert (found.account_id, found.status, found.is_blocked) == ("a", "active", False)
    assert found.supports("interactions") == bool(expected)
    assert not found.supports("calls")


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b"null", b"{}", b'{"error": "x"}', b'{"unified": 5}', b'{"unified": [5]}',
             b'{"unified": [', b'{"unified": {"resources": {}}}', b'{"unified": [], "account": []}',
             b'{"unified": "\xff"}', b'{"unified": [{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"]
)  # fmt: skip
def test_capabilities_of_another_shape_are_an_error(text: bytes) -> None:
    """Read as "can do nothing", an error body would make a caller skip the account."""
    with pytest.raises(DecodeError):
        read_capabilities(text)


def test_a_token_is_read() -> None:
    assert read_token(b'{"integrated_account_token": "t-1", "expires_in": 900}') == "t-1"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'"hunter2"',
        b'{"token": "hunter2"}',
        b'{"integrated_account_token": ["hunter2"]}',
        b'{"integrated_account_token": "hunter2"',
    ],
)
def test_an_answer_without_a_token_is_not_quoted(text: bytes) -> None:
    """It may hold the token under another name, and errors end up in logs."""
    with pytest.raises(DecodeError) as caught:
        read_token(text)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "hunter2" not in f"{chain!s} {chain!r} {chain.__dict__}"
        chain = chain.__cause__


# Errors


@pytest.mark.parametrize(
    ("status", "is_remote", "retry_after", "expected"),
    [
        (400, False, None, BadRequestError),
        (405, False, None, BadRequestError),
        (409, True, None, BadRequestError),
        (422, True, None, BadRequestError),
        (418, False, None, BadRequestError),
        (401, False, None, AuthenticationError),
        (401, True, None, ReconnectRequiredError),
        (403, False, None, PermissionDeniedError),
        (403, True, None, PermissionDeniedError),
        (404, False, None, NotFoundError),
        (404, True, None, NotFoundError),
        (408, False, None, ServerError),
        (425, False, None, ServerError),
        (429, False, 10.0, RateLimitError),
        (429, True, None, RateLimitError),
        (500, False, None, ServerError),
        (502, True, None, ServerError),
        (503, False, None, AccountBlockedError),
        (503, False, 0.0, ServerError),
        (503, True, 10.0, ServerError),
        (504, False, None, ServerError),
        (520, False, None, ServerError),
        (524, False, None, ServerError),
        (301, False, None, ServerError),
        (304, False, None, ServerError),
        (100, False, None, ServerError),
        (999, False, None, ServerError),
    ],
)
def test_a_status_becomes_the_error_that_says_what_to_do(
    status: int, is_remote: bool, retry_after: float | None, expected: type[APIError]
) -> None:
    assert error_class(status, is_remote=is_remote, asked_to_wait=retry_after is not None) is expected
    error = read_error(status, {}, body({"truto_is_remote_error": is_remote}), retry_after=retry_after)
    assert type(error) is expected
    assert (error.status, error.is_remote, error.retry_after) == (status, is_remote, retry_after)


def test_an_error_carries_everything_the_service_said() -> None:
    error = read_error(
        422,
        {"x-request-id": "r"},
        body(
            {
                "statusCode": 422,
                "error": "Unprocessable Entity",
                "message": "Email is invalid",
                "details": {"failures": [1]},
                "truto_is_remote_error": True,
                "raw_response": {"errors": ["bad email"]},
                "truto_error_insight": {"remote_error": {"description": "the provider refused", "value": []}},
            }
        ),
        reason="Unprocessable Content",
        account="acc",
        attempts=3,
    )
    assert (error.status, error.error, error.message) == (422, "Unprocessable Entity", "Email is invalid")
    assert error.is_remote is True
    assert error.details == {"failures": [1]}
    assert error.raw_response == {"errors": ["bad email"]}
    assert error.insight == {"remote_error": {"description": "the provider refused", "value": []}}
    assert (error.headers, error.account, error.attempts) == ({"x-request-id": "r"}, "acc", 3)
    assert str(error) == (
        "the provider, through Truto, answered 422 Unprocessable Entity: Email is invalid "
        "(remote error: the provider refused) [account acc]"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"message": "m", "raw_response": "r", "error": "e"}', "m"),
        (b'{"message": "", "raw_response": "r", "error": "e"}', "r"),
        (b'{"message": null, "raw_response": {"a": [1]}, "error": "e"}', '{"a":[1]}'),
        (b'{"raw_response": {}, "error": "e"}', "e"),
        (b'{"message": {"a": 98765432109876543210}}', '{"a":98765432109876543210}'),
        (b'{"message": ["x"]}', '["x"]'),
        (b'{"message": 5}', "5"),
        (b"{}", "Bad Gateway"),
        (b"", "Bad Gateway"),
        (b"<p>oops", "Bad Gateway; the body is no JSON object: it looks like HTML or XML, beginning b'<p>oops'"),
        (b"upstream error", "Bad Gateway; the body is no JSON object: it begins b'upstream error'"),
        (b"[1]", "Bad Gateway; the body is no JSON object: it begins b'[1]'"),
        (b"\xff\xfe", "Bad Gateway; the body is no JSON object: it begins b'\\xff\\xfe'"),
        (b"\xef\xbb\xbf{}", "Bad Gateway; the body is no JSON object: it begins with a byte order mark"),
        (b'{"message": "m"', "Bad Gateway; the body is no JSON object: it begins b'{\"message\": \"m\"'"),
        (b'{"message": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"message": "' + b"x" * 100_000 + b'"}', "x" * 1_000 + "…"),
    ],
)  # fmt: skip
def test_the_message_falls_back_and_the_status_is_never_hidden(text: bytes, expected: str | None) -> None:
    error = read_error(502, {}, text, reason="Bad Gateway")
    assert (type(error), error.status) == (ServerError, 502)
    assert expected is None or error.message == expected
    assert len(str(error)) < 1_200
    assert str(error).startswith("Truto answered 502 ")


@pytest.mark.parametrize("text", [b"", b"<html>", b"null", b'{"message": ""}'])
def test_without_any_words_there_still_is_a_message(text: bytes) -> None:
    error = read_error(500, {}, text)
    assert error.message.startswith("no message; ")


def test_what_is_missing_is_listed_in_the_message() -> None:
    insight = {
        "missing_required_query_parameters": {"description": "missing", "value": ["start_time", "end_time"]},
        "conditionally_required_query_parameters": {"description": "one of these is needed", "value": []},
    }
    error = read_error(422, {}, body({"message": "refused", "truto_error_insight": insight}))
    assert str(error) == (
        "Truto answered 422: refused (conditionally required query parameters: one of these is needed; "
        "missing required query parameters: start_time, end_time)"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [({"missing_scopes": ["a:read", "b:read"]}, ("a:read", "b:read")), ({"missing_scopes": "a:read"}, ("a:read",)),
     ({"missing_scopes": []}, ()), ({"missing_scopes": None}, ()), ({}, ()), ([], ()), (None, ()), ("a:read", ())],
)  # fmt: skip
def test_missing_scopes_are_listed(value: Any, expected: tuple[str, ...]) -> None:
    insight = {"forbidden_error": {"description": "rights are missing", "value": value}}
    error = read_error(403, {}, body({"truto_error_insight": insight}))
    assert isinstance(error, PermissionDeniedError)
    assert error.missing_scopes == expected
    assert "forbidden error: rights are missing" in str(error)


@pytest.mark.parametrize(
    "insight", [None, [], "text", 5, {"forbidden_error": None}, {"forbidden_error": []}, {"x": {"value": {}}}]
)
def test_an_insight_of_another_shape_does_no_harm(insight: Any) -> None:
    error = read_error(403, {}, body({"message": "m", "truto_error_insight": insight}))
    assert isinstance(error, PermissionDeniedError)
    assert error.missing_scopes == ()
    assert str(error).startswith("Truto answered 403: m")


@pytest.mark.parametrize(
    ("flag", "expected"), [(True, True), (False, False), (None, False), ("false", False), (1, False)]
)
def test_only_true_means_remote(flag: Any, expected: bool) -> None:
    """A 401 taken for the provider's would send the account's owner to reconnect for nothing."""
    assert read_error(401, {}, body({"truto_is_remote_error": flag})).is_remote is expected


def test_a_redirect_says_where_to_and_what_to_check() -> None:
    error = read_error(302, {"location": "https://login.example/" + "x" * 500}, b"<html>")
    assert "https://login.example/" in error.message
    assert "base_url" in error.message
    assert len(error.message) < 300


# What a refusal means for a cursor


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "Cursor expired", CursorExpiredError),
        (422, "invalid cursor", CursorExpiredError),
        (404, "The cursor was not found", CursorExpiredError),
        (410, "this cursor is no longer valid", CursorExpiredError),
        (422, "the cursor was made for different filters", UsageError),
        (400, "cursor does not belong to this account", UsageError),
        (422, "Invalid cursor: filter mismatch", UsageError),
        (422, "cursor", BadRequestError),
        (422, "start_time is invalid", BadRequestError),
        (500, "invalid cursor", ServerError),
        (401, "invalid cursor", AuthenticationError),
        (429, "unknown cursor", RateLimitError),
    ],
)
def test_a_refused_cursor_is_told_from_other_refusals(
    status: int, message: str, expected: type[TrutoError]
) -> None:
    error = read_error(status, {}, body({"message": message}), account="acc")
    with pytest.raises(TrutoError) as caught:
        raise_for_cursor(error, "c-1")
    assert type(caught.value) is expected
    if isinstance(caught.value, CursorExpiredError):
        assert (caught.value.cursor, caught.value.account) == ("c-1", "acc")
    if not isinstance(caught.value, APIError):
        assert caught.value.__cause__ is error
        assert message in str(caught.value)
    with pytest.raises(APIError) as without:
        raise_for_cursor(error, None)
    assert without.value is error


@given(
    st.lists(
        st.fixed_dictionaries({"id": st.one_of(st.text(max_size=5), st.integers(), st.none())}), min_size=1
    ),
    st.booleans(),
)
def test_a_large_page_reads_the_same_in_slices(rows: list[dict[str, Any]], odd: bool) -> None:
    """Slices only give the loop a breath: items, issues and what stands around them stay the same."""
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
