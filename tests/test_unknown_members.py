"""Members that the service sends and this package does not know: nothing that was received is lost."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

from tests.support import examples
from truto_ci_async._json import UNKNOWN, encode
from truto_ci_async._wire.flat_rows import flat_row_reader
from truto_ci_async._wire.incremental.item_decoder import ItemDecoder
from truto_ci_async._wire.item_reader import MOST_NAMES, ItemReader, item_reader
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.errors import DecodeError
from truto_ci_async.models import (
    Activity,
    Interaction,
    Issue,
    Meeting,
    Metrics,
    Page,
    Person,
    Transcript,
    User,
)
from truto_ci_async.models.api_object import ApiObject
from truto_ci_async.models.pulls import AccountPage, PlannedAccount, Window
from truto_ci_async.models.unknown_members import NAME_CHARS
from truto_ci_async.sinks.rows import json_lines

RESOURCES: list[type[ApiObject]] = [Interaction, Meeting, Transcript, User, Activity]


def read(kind: type[ApiObject], value: object) -> tuple[Any, list[Issue]]:
    """Read one item as a page does."""
    item, issues = item_reader(kind).read_item(json.dumps(value).encode(), index=0, path="$")
    return item, issues


def body(*items: object, **envelope: object) -> bytes:
    return json.dumps({"result": items, "next_cursor": None, **envelope}).encode()


@pytest.mark.parametrize(
    ("kind", "value", "where"),
    [
        (Interaction, {"id": "1", "mood": {"x": [1, None]}}, lambda item: item),
        (Interaction, {"user": {"id": "1", "role": "rep"}}, lambda item: item.user),
        (Interaction, {"user": {"emails": [{}, {"verified": True}]}}, lambda item: item.user.emails[1]),
        (Interaction, {"metrics": {"patience": 1, "talk_ratio": 0.5}}, lambda item: item.metrics),
        (Interaction, {"additional_metrics": [{"name": "a", "unit": "s"}]}, lambda item: item.additional_metrics[0]),
        (Activity, {"metrics": {"calls_hosted": 1, "calls_shared_externally": 2}}, lambda item: item.metrics),
        (Activity, {"id": "1", "score": 1.5}, lambda item: item),
        (Meeting, {"attendees": [{"name": "a", "start_time": 5}]}, lambda item: item.attendees[0]),
        (Meeting, {"id": "1", "calendar_event": "e"}, lambda item: item),
        (Meeting, {"transcript": [{"text": "a", "sentiment": -0.5}]}, lambda item: item.transcript[0]),
        (Transcript, {"meeting": {"id": "1", "title": "t"}}, lambda item: item.meeting),
        (Transcript, {"entries": [{"text": "a"}, {"text": "b", "topic": None}]}, lambda item: item.entries[1]),
        (User, {"emails": [{"email": "a@b", "type": "work"}]}, lambda item: item.emails[0]),
        (User, {"id": "1", "status": "active"}, lambda item: item),
        (User, {"id": "1", UNKNOWN: "a member of this very name"}, lambda item: item),
        (User, {"id": "1", UNKNOWN: None}, lambda item: item),
        (User, {"id": "1", UNKNOWN: {"a": 1}, "b": 2}, lambda item: item),
    ],
)  # fmt: skip
def test_unknown_members_stay_where_they_were(kind: type[ApiObject], value: Any, where: Any) -> None:
    item, issues = read(kind, value)
    assert not issues
    assert contains(item.to_dict(), value)
    holder = where(item)
    assert holder.unknown
    assert contains(json.loads(encode(item)), value)
    assert "unknown" in repr(item) or holder is not item
    for other in (pickle.loads(pickle.dumps(item)), copy.copy(item), copy.deepcopy(item)):
        assert other == item
        assert other.to_dict() == item.to_dict()
    assert msgspec.structs.replace(holder, unknown_json=msgspec.UNSET) != holder
    hash(item)


def contains(found: Any, expected: Any) -> bool:
    """Tell whether ``expected`` is in ``found``, which may have more members: fields that were not received."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(key in found and contains(found[key], value) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(contains, found, expected))
    return bool(found == expected and type(found) is type(expected))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
)
names = st.text('abxy\u00e9"\\', max_size=4)
values = st.recursive(
    scalars | st.text(max_size=6).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('abxyz\u00e9"\\', max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)


def objects(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the known members, of the right types, and any others."""
    others = st.dictionaries(
        st.text('abxyz"\\', max_size=5) | st.sampled_from(["name2", "remote_json"]), values, max_size=3
    )
    return st.builds(lambda a, b: {**b, **a}, st.fixed_dictionaries({}, optional=known), others)


texts = st.none() | st.text("abc", max_size=5)
numbers = st.none() | st.integers(0, 10**6) | st.floats(0, 10**6)
counts = st.none() | st.integers(0, 10**6)
emails = st.none() | st.lists(objects({"email": texts, "is_primary": st.none() | st.booleans()}), max_size=2)
people = objects({"id": texts, "name": texts, "emails": emails})
sentences = objects(
    {"id": texts, "speaker_id": texts, "speaker_name": texts, "text": texts, "start_time": numbers}
)
SHAPES: dict[type[ApiObject], dict[str, st.SearchStrategy[Any]]] = {
    Interaction: {"user": people, "metrics": objects({"patience": numbers}), "remote_data": values},
    Activity: {"user": people, "metrics": objects({"calls_hosted": counts}), "remote_data": values},
    Meeting: {
        "attendees": st.lists(objects({"name": texts, "is_host": st.none() | st.booleans()}), max_size=2),
        "transcript": st.none() | st.lists(sentences, max_size=2),
        "topics": st.none() | st.lists(st.text("abc"), max_size=2),
        "duration": numbers,
        "remote_data": values,
    },
    Transcript: {"meeting": objects({"id": texts}), "entries": st.lists(sentences, max_size=3), "start_time": numbers},
    User: {"name": texts, "emails": emails, "remote_data": values},
}  # fmt: skip


@pytest.mark.parametrize("kind", RESOURCES)
@examples(20)
@given(st.data())
def test_any_object_comes_back_from_to_dict(kind: type[ApiObject], data: st.DataObject) -> None:
    """Decode an object with anything in it; every member is in ``to_dict()``, however the page was read."""
    value = data.draw(objects({"id": texts, **SHAPES[kind]}).map(lambda found: {"id": "1", **found}))
    item, issues = read(kind, value)
    assert not issues
    assert contains(item.to_dict(), value)
    assert contains(json.loads(json_lines({"tenant_id": None}, [item])), value)
    decoder = ItemDecoder(ItemReader[Any](kind))
    streamed = [*decoder.feed(body(value)), *decoder.flush()]
    paged = PageReader(ItemReader[Any](kind)).read(body(value))
    keyed = PageReader(ItemReader[Any](kind), keyed=True).read(json.dumps({"result": {"1": value}}).encode())
    assert streamed == list(paged.items) == list(keyed.items) == [item]


@pytest.mark.parametrize("kind", RESOURCES)
@examples(20)
@given(st.data())
def test_values_of_wrong_types_are_in_the_issues_and_the_rest_is_kept(
    kind: type[ApiObject], data: st.DataObject
) -> None:
    """Whatever is at a known place: each member is in ``to_dict()``, or an issue names its place."""
    names = [field.encode_name for field in msgspec.structs.fields(kind) if field.name != UNKNOWN]
    value = data.draw(st.dictionaries(st.sampled_from([*names, "x", "y z"]), values, min_size=1, max_size=4))
    item, issues = read(kind, value)
    if item is None:
        assert issues[0].dropped
        return
    found = item.to_dict()
    for key, member in value.items():
        told = any(issue.path.startswith(f"$.{key}") for issue in issues)
        assert told or contains(found[key], member) or isinstance(member, str), (key, found[key])  # a time


def test_a_walk_tells_each_unknown_field_once() -> None:
    """One line for a field that is new in every record, not one per record and page."""
    told: list[tuple[list[str], bool]] = []
    reader = PageReader(item_reader(Interaction).for_walk(lambda names, kept: told.append((names, kept))))
    item = {"id": "1", "mood": 1, "user": {"emails": [{"verified": True}]}, "metrics": {"new": 1}}
    first = reader.read(body(item, item))
    assert first.unknown_fields == ("mood", "user.emails[].verified", "metrics.new")
    assert not first.issues
    assert reader.read(body({"id": "2"})).unknown_fields == first.unknown_fields
    assert reader.read(body(item, {"id": "3", "other": 1})).unknown_fields[3:] == ("other",)
    assert told == [(["mood", "user.emails[].verified", "metrics.new"], True), (["other"], True)]
    assert item_reader(Interaction).unknown_fields == ()  # which other walks share


def test_the_names_of_unknown_fields_are_bounded() -> None:
    """A service that uses ids as names must not fill the memory."""
    reader = PageReader(item_reader(User).for_walk(lambda names, kept: None))
    page = reader.read(body({"id": "1", "n" * 500: 1, **{f"k{i}": i for i in range(500)}}))
    assert len(page.unknown_fields) == MOST_NAMES
    assert max(map(len, page.unknown_fields)) == NAME_CHARS
    assert len(page.items[0].unknown) == 501


def test_raise_does_not_raise_for_unknown_members() -> None:
    reader = PageReader(ItemReader[Any](User, on_invalid="raise"))
    page = reader.read(body({"id": "1", "x": 1, "emails": [{"y": 2}]}))
    assert page.items[0].to_dict()["emails"][0]["y"] == 2
    with pytest.raises(DecodeError, match="expected a string|Expected `str"):
        reader.read(body({"id": "1", "x": 1, "name": 5}))


def test_an_object_with_only_unknown_members_is_not_an_item() -> None:
    """It would become a record full of None; the issue names the keys that came."""
    told: list[Any] = []
    reader = item_reader(Meeting).for_walk(lambda names, kept: told.append(names))
    items, issues = reader.read_array(b'[{"id": "1"}, {"callId": "5", "started": "x"}]')
    assert [item.id for item in items] == ["1"]
    assert issues[0].dropped
    assert "callId, started" in issues[0].message
    assert not told


def test_flat_rows_keep_unknown_members_too() -> None:
    told: list[str] = []
    reader = flat_row_reader(item_reader(Interaction).for_walk(lambda names, kept: told.extend(names)))
    items, issues = reader.read_array(
        b'[{"id": "1", "patience": 0.5, "mood": "x", "user": {"id": "1", "team": 5}}]'
    )
    assert not issues
    assert items[0].metrics == Metrics(patience=0.5)
    assert items[0].unknown == {"mood": "x"}
    assert items[0].user.unknown == {"team": 5}
    assert sorted(told) == ["mood", "user.team"]


class Row(Struct, frozen=True):
    id: str | None = None
    who: Person | None = None
    others: dict[str, list[Person]] | None = None


class Wider(Interaction, frozen=True, kw_only=True, gc=False):
    mood: str | None = None


@pytest.mark.parametrize(
    ("item_type", "value", "found"),
    [
        (Row, {"id": "1", "y": 1, "who": {"id": "2", "x": 1}}, lambda item: item.who.unknown),
        (Row, {"id": "1", "others": {"a": [{"id": "2"}, {"x": 1}]}}, lambda item: item.others["a"][1].unknown),
        (Wider, {"id": "1", "mood": "m", "x": 1}, lambda item: item.unknown),
        (dict[str, Person], {"a": {"id": "2", "x": 1}}, lambda item: item["a"].unknown),
        (list[Person], [{"id": "2", "x": 1}], lambda item: item[0].unknown),
    ],
)  # fmt: skip
def test_structs_of_ours_inside_a_type_of_the_callers(item_type: Any, value: object, found: Any) -> None:
    """A struct of the caller's ignores what it does not know, as before; ours inside of it keep it."""
    items, issues = ItemReader[Any](item_type).read_array(json.dumps([value]).encode())
    assert not issues
    assert found(items[0]) == {"x": 1}


@pytest.mark.parametrize(
    ("item_type", "text", "name"),
    [
        (dict[str, Person], ' {"a": {"id": %s, "x": 1}}', "a.x"),
        (list[Person], '\n[{"id": %s, "x": 1}]', "[].x"),
    ],
)
def test_unknown_members_in_items_that_are_not_structs(item_type: Any, text: str, name: str) -> None:
    """Their names are told as they are, and an item that is dropped says what is wrong besides."""
    told: list[str] = []
    reader = ItemReader[Any](item_type).for_walk(lambda names, kept: told.extend(names))
    (item, issues) = reader.read_item((text % '"1"').encode(), index=0, path="$")
    assert item is not None
    assert not issues
    assert told == [name]
    (item, issues) = reader.read_item((text % 5).encode(), index=0, path="$")
    assert item is None
    assert issues[0].message == f"Expected `str | null`, got `int`: {text % 5}"


def test_numbers_and_text_of_unknown_members_keep_their_digits() -> None:
    text = b'{"id": "1", "big": 98765432109876543210, "exact": 1.10, "s": "\\u00eb"}'
    item, _ = item_reader(User).read_item(text, index=0, path="$")
    assert json.loads(cast("str", item.unknown_json)) == {"big": 98765432109876543210, "exact": 1.1, "s": "ë"}
    assert b'"exact":1.10' in encode(item)
    assert item.unknown_members()["big"] == Raw(b"98765432109876543210")


def test_the_providers_record_keeps_its_bytes_beside_unknown_members() -> None:
    item, _ = item_reader(User).read_item(
        b'{"id": "1", "x": 1, "remote_data": {"a" : 1.00}}', index=0, path="$"
    )
    assert b'"remote_data":{"a" : 1.00}' in encode(item)
    assert b'"x":1' in encode(item)


def test_text_that_looks_like_the_mark_is_harmless() -> None:
    """The provider's record may have a member with the name of our field."""
    item, _ = read(User, {"id": "1", "remote_data": {UNKNOWN: "a"}})
    assert item.unknown == {}
    assert item.to_dict()["remote_data"] == {UNKNOWN: "a"}


def test_a_page_of_a_pull_writes_unknown_members() -> None:
    item, _ = read(Interaction, {"id": "1", "x": 1, "start_time": "2024-01-01T00:00:00Z"})
    assert item.start_time == datetime(2024, 1, 1, tzinfo=UTC)
    page = AccountPage(PlannedAccount("a"), Window(), Page([item]))
    line = json_lines({"integrated_account_id": page.account.id}, page.page.items)
    assert json.loads(line)["x"] == 1
    assert line.count(b"\n") == 1


def test_items_without_unknown_members_are_as_small_as_before() -> None:
    """Eight bytes for each struct, nothing else."""
    assert encode(Person(id="1")) == b'{"id":"1","name":null,"emails":null}'
    assert repr(Person(id="1")) == "Person(id='1')"
    assert not any(Person().unknown)


def test_debug_information_keeps_unknown_members_and_hides_them() -> None:
    """They may hold credentials, as the members that we know do."""
    page = PageReader(item_reader(User)).read(
        body({"id": "1"}, debug={"requestUrl": "u", "proxyAuth": {"k": "hunter2"}})
    )
    assert page.debug is not None
    assert page.debug.unknown["proxyAuth"]["k"] == "hunter2"
    assert page.debug.to_dict()["proxyAuth"]["k"] == "hunter2"
    assert not page.extra
    for shown in (page.debug, page.debug.unknown, page.debug.to_dict(), page.debug.__rich_repr__()):
        assert "hunter2" not in repr(shown)


def test_a_large_object_is_not_split_into_all_of_its_members() -> None:
    """Half a million of them took half a second, in which nothing else had a turn."""
    count = 50_000
    members = ",".join(f'"k{at}":{at}' for at in range(count))
    texts = {
        "known and unknown": f'{{"id":"1",{members},"user":{{"id":"u","x":1}}}}',
        "inside": f'{{"id":"1","user":{{"id":"u",{members}}}}}',
        "a wrong value": f'{{"id":1,{members},"user":7}}',
    }
    for what, text in texts.items():
        reader = item_reader(Interaction)
        items, issues = reader.read_array(f"[{text}]".encode())
        (item,) = items
        assert item.id == "1"
        assert len(issues) == (2 if what == "a wrong value" else 0)
        expected = json.loads(text)
        found = item.to_dict()
        given = expected["user"] if what == "inside" else expected
        kept = found["user"] if what == "inside" else found
        assert {name: kept[name] for name in given if name.startswith("k")} == {
            name: given[name] for name in given if name.startswith("k")
        }
        holder = item.user if what == "inside" else item
        assert holder is not None
        assert len(holder.unknown) == count
        assert json.loads(bytes(holder.unknown_raw or b"")) == holder.unknown
    _, issues = item_reader(Interaction).read_array(f"[{{{members}}}]".encode())
    assert "the keys are: k0" in issues[0].message
