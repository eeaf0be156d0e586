"""The objects that calls return: exact values, no page kept alive, no secret in a repr."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from truto_ci_async._json import UNKNOWN
from truto_ci_async._wire.item_reader import ItemReader, item_reader
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.errors import DecodeError
from truto_ci_async.models import (
    ROW_COLUMNS,
    AdditionalMetric,
    Capabilities,
    Capability,
    DebugInfo,
    Email,
    IntegratedAccount,
    Integration,
    Interaction,
    Issue,
    Metrics,
    Page,
    Person,
    Position,
    RateLimit,
    RawResponse,
    ResponseInfo,
)
from truto_ci_async.models.row_views import are_plain

PACIFIC = timezone(timedelta(hours=-8))
SECRET = "hunter2"

# The provider's record must stay as it is: spaces, 1.00, escapes, key order.
REMOTE = '{"userId" : "98765432109876543210", "z": 1.00, "a": [ 1e2, null ], "n": "Zo\\u00eb"}'
TEXT = (
    '{"id": "98765432109876543210_2024-01-01",'
    ' "user": {"id": "98765432109876543210", "emails": [{"email": "b@x.io", "is_primary": false},'
    ' {"email": "zoë@x.io", "is_primary": true}]},'
    ' "start_time": "2024-01-01T00:00:00-08:00", "end_time": "2024-02-01T00:00:00.5-08:00",'
    ' "timezone": "US/Pacific", "aggregation_period": "total",'
    ' "metrics": {"longest_monologue": 125, "interactivity": 9.23, "patience": null, "question_rate": 1800.0},'
    ' "additional_metrics": [{"name": "Calls", "value": 12}, {"name": "Share", "value": 0.5}],'
    f' "created_at": null, "remote_data": {REMOTE}}}'
)


def read(text: str) -> Interaction:
    """Read an item as pages do, with members that the struct does not know."""
    item, issues = item_reader(Interaction).read_item(text.encode(), index=0, path="$")
    assert item is not None
    assert not issues
    return cast("Interaction", item)


def decoded(text: str | bytes) -> Interaction:
    return msgspec.json.decode(text, type=Interaction)


ITEM = decoded(TEXT)


# Interactions


def test_an_ordinary_item() -> None:
    assert ITEM.id == "98765432109876543210_2024-01-01"
    assert ITEM.user == Person(
        id="98765432109876543210",
        emails=(Email(email="b@x.io", is_primary=False), Email(email="zoë@x.io", is_primary=True)),
    )
    assert ITEM.start_time == datetime(2024, 1, 1, tzinfo=PACIFIC)
    assert ITEM.start_time.utcoffset() == timedelta(hours=-8)
    assert ITEM.end_time == datetime(2024, 2, 1, 0, 0, 0, 500_000, tzinfo=PACIFIC)
    assert (ITEM.timezone, ITEM.aggregation_period) == ("US/Pacific", "total")
    assert ITEM.metrics == Metrics(longest_monologue=125, interactivity=9.23, question_rate=1800.0)
    assert ITEM.additional_metrics == (
        AdditionalMetric(name="Calls", value=12),
        AdditionalMetric(name="Share", value=0.5),
    )
    assert (ITEM.created_at, ITEM.updated_at) == (None, None)
    assert ITEM.remote_data == json.loads(REMOTE)


def test_numbers_keep_their_type() -> None:
    """A count must not become 125.0, nor an id a number."""
    assert ITEM.metrics is not None
    assert type(ITEM.metrics.longest_monologue) is int
    assert type(ITEM.metrics.interactivity) is float
    assert type(ITEM.metrics.question_rate) is float
    assert ITEM.user is not None
    assert type(ITEM.user.id) is str


@pytest.mark.parametrize(
    "text", ["{}", '{"id": null}', '{"metrics": {}, "user": {}, "additional_metrics": []}']
)
def test_every_field_may_be_missing(text: str) -> None:
    """``truto_exclude_fields`` can take even the id."""
    item = decoded(text)
    assert item.id is None
    assert item.remote_data is None
    assert list(item.row()) == list(ROW_COLUMNS)
    assert item.row()["id"] is None
    assert repr(item).startswith("Interaction(id=None")


def test_values_and_fields_newer_than_this_package_are_harmless() -> None:
    item = read(
        '{"id": "a", "aggregation_period": "fortnight", "mood": {"x": [1]}, "user": {"id": "u", "team": 5},'
        ' "metrics": {"new_metric": 1, "patience": 1}, "additional_metrics": [{"name": "n", "value": 1, "unit": "s"}]}'
    )
    assert item.aggregation_period == "fortnight"
    assert item.user is not None
    assert item.user.id == "u"
    assert item.metrics is not None
    assert item.metrics.patience == 1
    assert item.additional_metrics is not None
    assert item.unknown == {"mood": {"x": [1]}}
    assert item.user.unknown == {"team": 5}
    assert item.metrics.unknown == {"new_metric": 1}
    assert item.additional_metrics[0].unknown == {"unit": "s"}


def test_remote_data_is_decoded_on_each_access() -> None:
    """Changes by one reader are invisible to others."""
    ITEM.remote_data["z"] = "changed"
    assert ITEM.remote_data["z"] == 1.0
    assert bytes(ITEM.remote_json) == REMOTE.encode()


@pytest.mark.parametrize("text", ["1e400", '{"a": [1e400]}'])
def test_remote_data_that_cannot_be_decoded_keeps_its_text(text: str) -> None:
    item = decoded(f'{{"id": "a", "remote_data": {text}}}')
    for use in (lambda: item.remote_data, item.to_dict):
        with pytest.raises(DecodeError, match="out of range"):
            use()
    assert item.row()["remote_data"] == text
    assert pickle.loads(pickle.dumps(item)) == item


@pytest.mark.parametrize("item_type", [Interaction, Raw])
@pytest.mark.parametrize("odd", ["", '"odd": {"a": "b"}, '])
@pytest.mark.parametrize("second", ['{"id": "b"}', '{"id": 5}'])
def test_a_kept_item_does_not_keep_its_page_alive(item_type: Any, odd: str, second: str) -> None:
    """Keeping one item of each of a million pages must not keep a million pages."""
    text = f'{{{odd}"result": [{TEXT}, {second}], "debug": {{"data": [1], "requestOptions": {{}}}}}}'.encode()
    reader: PageReader[Any] = PageReader(ItemReader(item_type))
    before = sys.getrefcount(text)
    kept = reader.read(text)
    assert len(kept.items) == 2
    assert kept.debug is not None
    assert sys.getrefcount(text) == before
    view = msgspec.json.decode(text, type=dict[str, Raw])
    assert sys.getrefcount(text) > before, "a view that keeps the page alive shows in the count"
    del view


def test_items_are_not_tracked_by_the_garbage_collector() -> None:
    """Tracking takes half of the time of decoding a page whose items are kept."""
    assert ITEM.user is not None
    assert ITEM.user.emails is not None
    assert ITEM.additional_metrics is not None
    leaves = [
        ITEM,
        ITEM.user,
        ITEM.metrics,
        *ITEM.user.emails,
        *ITEM.additional_metrics,
        Issue(),
        Position(filters="f"),
    ]
    assert [leaf for leaf in leaves if gc.is_tracked(leaf)] == []
    assert [leaf for leaf in leaves if leaf.__struct_config__.gc] == []


# Rows and dicts


def test_a_row_is_flat_and_has_every_column_in_order() -> None:
    assert ITEM.row() == {
        "id": "98765432109876543210_2024-01-01",
        "user_id": "98765432109876543210",
        "user_name": None,
        "user_email": "zoë@x.io",
        "user_emails": '[{"email":"b@x.io","is_primary":false},{"email":"zoë@x.io","is_primary":true}]',
        "start_time": datetime(2024, 1, 1, tzinfo=PACIFIC),
        "end_time": datetime(2024, 2, 1, 0, 0, 0, 500_000, tzinfo=PACIFIC),
        "timezone": "US/Pacific",
        "aggregation_period": "total",
        "longest_monologue": 125,
        "longest_customer_story": None,
        "interactivity": 9.23,
        "patience": None,
        "question_rate": 1800.0,
        "additional_metrics": '[{"name":"Calls","value":12},{"name":"Share","value":0.5}]',
        "created_at": None,
        "updated_at": None,
        "remote_data": REMOTE,
    }
    assert tuple(ITEM.row()) == tuple(Interaction().row()) == ROW_COLUMNS
    assert len(set(ROW_COLUMNS)) == len(ROW_COLUMNS) == 18


def test_every_field_of_the_api_is_in_the_row() -> None:
    """A field that is forgotten in the row would be missing from every CSV."""
    fields = {field.encode_name for field in msgspec.structs.fields(Interaction)} - {"user", "metrics"}
    fields.discard(UNKNOWN)
    metrics = {field.encode_name for field in msgspec.structs.fields(Metrics)}
    user = {f"user_{field.encode_name}" for field in msgspec.structs.fields(Person)} | {"user_email"}
    assert set(ROW_COLUMNS) == fields | (metrics - {UNKNOWN}) | (user - {f"user_{UNKNOWN}"})


@pytest.mark.parametrize(
    ("emails", "expected"),
    [(None, None), ((), None), ((Email(email="a"),), "a"), ((Email(email="a"), Email(email="b", is_primary=True)), "b"),
     ((Email(email="a", is_primary=False), Email(email="b", is_primary=False)), "a"), ((Email(),), None)],
)  # fmt: skip
def test_the_email_of_a_user(emails: tuple[Email, ...] | None, expected: str | None) -> None:
    assert Person(emails=emails).email == expected


def test_to_dict_has_the_apis_own_shape_and_can_be_decoded() -> None:
    plain = ITEM.to_dict()
    assert plain["user"]["id"] == "98765432109876543210"
    assert plain["start_time"] == "2024-01-01T00:00:00-08:00"
    assert plain["remote_data"] == json.loads(REMOTE)
    assert "remote_json" not in plain
    assert msgspec.structs.replace(decoded(json.dumps(plain)), remote_json=ITEM.remote_json) == ITEM


def test_encoded_json_has_the_providers_record_unchanged() -> None:
    """Decoding would change numbers such as 1.00 or 20-digit ones."""
    encoded = msgspec.json.encode(ITEM)
    parts = msgspec.json.decode(encoded, type=dict[str, Raw])
    assert bytes(parts["remote_data"]) == REMOTE.encode()
    assert decoded(encoded) == ITEM
    original = json.loads(TEXT)
    assert {
        key: value for key, value in json.loads(encoded).items() if value is not None and key != "end_time"
    } == {
        "user": original["user"] | {"name": None},
        "metrics": original["metrics"] | {"longest_customer_story": None},
        **{
            key: value
            for key, value in original.items()
            if key not in {"user", "metrics", "end_time", "created_at"}
        },
    }


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.booleans())
def test_any_provider_record_is_kept_unchanged(value: Any, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=1 if is_ascii else None).encode()
    item = decoded(b'{"id": "a", "remote_data": ' + text + b"}")
    assert item.remote_data == value
    assert bytes(item.remote_json) == text
    assert item.to_dict()["remote_data"] == value
    assert text in msgspec.json.encode(item)
    assert pickle.loads(pickle.dumps(item)) == item
    assert (item.row()["remote_data"] is None) == (value is None)


# Equality, hashing, copying, pickling

THINGS = [
    pytest.param(ITEM, id="Interaction"),
    pytest.param(Interaction(), id="empty Interaction"),
    pytest.param(
        IntegratedAccount(id="a", context={"k": [1]}, integration=Integration(name="gong")),
        id="IntegratedAccount",
    ),
    pytest.param(Capabilities(unified=(Capability(resource="r", methods=("list",)),)), id="Capabilities"),
    pytest.param(ResponseInfo(headers={"a": "b"}, rate_limit=RateLimit(limit=1)), id="ResponseInfo"),
    pytest.param(Issue(index=1, path="$", message="m", raw=b"\xff"), id="Issue"),
    pytest.param(Position(filters="f", user_batch=2, cursor="c"), id="Position"),
    pytest.param(
        msgspec.json.decode(b'{"requestUrl": "u", "requestOptions": {"a" : 1}, "data": []}', type=DebugInfo),
        id="DebugInfo",
    ),
]


@pytest.mark.parametrize("thing", THINGS)
def test_structs_can_be_pickled_copied_and_compared(thing: Any) -> None:
    """They go through queues, to other processes and into caches."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(thing, protocol))
        assert again == thing
        assert type(again) is type(thing)
    assert copy.copy(thing) == copy.deepcopy(thing) == thing
    assert thing != object()


@pytest.mark.parametrize("thing", THINGS)
def test_structs_are_immutable(thing: Any) -> None:
    for name in thing.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(thing, name, None)


def test_pages_and_responses_can_be_pickled() -> None:
    page = Page(
        [ITEM], next_cursor="c", extra={"a": 1}, issues=[Issue(index=1)], position=Position(filters="f")
    )
    again = pickle.loads(pickle.dumps(page))
    assert list(again) == [ITEM]
    assert all(getattr(again, name) == getattr(page, name) for name in Page.__slots__)
    raw = pickle.loads(
        pickle.dumps(RawResponse(body=b"{}", response=ResponseInfo(status=201), next_cursor="c"))
    )
    assert (raw.body, raw.status, raw.next_cursor) == (b"{}", 201, "c")


@pytest.mark.parametrize(
    ("change", "has_other_hash"),
    [
        ({"id": "b"}, True),
        ({"user": Person(id="b")}, True),
        ({"user": None}, True),
        ({"start_time": datetime(2024, 1, 2, tzinfo=UTC)}, True),
        ({"end_time": None}, True),
        ({"user": Person(id="98765432109876543210", name="n")}, False),
        ({"metrics": None}, False),
        ({"timezone": "x"}, False),
        ({"remote_json": Raw(b"{}")}, False),
    ],
)
def test_interactions_are_hashed_by_id_user_and_window(change: dict[str, Any], has_other_hash: bool) -> None:
    """Any difference makes two interactions unequal, but not every one changes the hash."""
    other = msgspec.structs.replace(ITEM, **change)
    assert other != ITEM
    assert (hash(other) != hash(ITEM)) == has_other_hash
    assert len({ITEM, other, decoded(TEXT)}) == 2


def test_equal_times_of_different_offsets_have_the_same_hash() -> None:
    other = msgspec.structs.replace(ITEM, start_time=datetime(2024, 1, 1, 8, tzinfo=UTC))
    assert other == ITEM
    assert hash(other) == hash(ITEM)


# Reprs


def test_the_repr_of_an_interaction() -> None:
    assert repr(ITEM) == (
        "Interaction(id='98765432109876543210_2024-01-01', user='zoë@x.io', "
        "window=2024-01-01T00:00:00-08:00..2024-02-01T00:00:00.500000-08:00, "
        f"longest_monologue=125, interactivity=9.23, question_rate=1800.0, remote_data=<{len(REMOTE.encode())} bytes>)"
    )
    assert repr(Interaction(user=Person(id="u"), end_time=datetime(2024, 1, 1, tzinfo=UTC))) == (
        "Interaction(id=None, user='u', window=?..2024-01-01T00:00:00+00:00)"
    )


DEBUG = msgspec.json.decode(
    json.dumps(
        {
            "requestUrl": f"https://user:{SECRET}@api.gong.io/v2/stats?api_key={SECRET}#{SECRET}",
            "requestOptions": {
                "method": "GET",
                "headers": {"Authorization": SECRET},
                "auth": [SECRET, [SECRET]],
            },
            "responseHeaders": {"set-cookie": [SECRET], "x-key": SECRET},
            "data": {"rows": 2},
            "nextCursor": SECRET,
            "isLooping": False,
            "isEmptyResult": False,
            "resultCount": 2,
        }
    ),
    type=DebugInfo,
)


def test_debug_values_can_be_read_by_key() -> None:
    assert DEBUG.request_options["headers"]["Authorization"] == SECRET
    assert DEBUG.request_options["auth"] == [SECRET, [SECRET]]
    assert DEBUG.response_headers["set-cookie"] == [SECRET]
    assert DEBUG.data == {"rows": 2}
    assert DEBUG.request_url is not None
    assert DEBUG.request_url.startswith("https://user:")
    assert (DEBUG.is_looping, DEBUG.is_empty_result, DEBUG.result_count) == (False, False, 2)


def test_the_providers_credentials_are_in_no_repr() -> None:
    """A debug page printed in a notebook or a log must not leak the customer's credentials."""
    options, headers = DEBUG.request_options, DEBUG.response_headers
    page = Page([ITEM], debug=DEBUG)
    parts = [
        DEBUG,
        options,
        options["headers"],
        options["auth"],
        options["auth"][1],
        headers,
        headers["set-cookie"],
    ]
    for thing in [
        *parts,
        page,
        [page],
        {"debug": DEBUG},
        copy.deepcopy(options),
        pickle.loads(pickle.dumps(options)),
    ]:
        for text in (repr(thing), str(thing), f"{thing}", f"{thing!s:>10}", "%s" % (thing,)):  # noqa: UP031
            assert SECRET not in text
    assert (
        repr(DEBUG)
        == "DebugInfo(request_url='https://api.gong.io/v2/stats', request_options='***', result_count=2)"
    )
    assert repr(options) == "{'method': '***', 'headers': '***', 'auth': '***'}"
    assert repr(DebugInfo()) == "DebugInfo(request_url=None, request_options='***', result_count=None)"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://x.io/a#{SECRET}", "https://x.io/a"),
        (f"https://x.io/a?k={SECRET}", "https://x.io/a"),
        (f"https://{SECRET}@x.io", "https://x.io"),
        (f"https://u:{SECRET}@x.io/a@b", "https://x.io/a@b"),
        (f"https://x.io/a?k=1\n{SECRET}", "https://x.io/a"),
    ],
)
def test_credentials_in_a_url_are_not_in_the_repr(url: str, shown: str) -> None:
    assert repr(DebugInfo(request_url=url)).startswith(f"DebugInfo(request_url={shown!r},")


def test_secrets_are_not_in_rich_output() -> None:
    """rich prints structs field by field and ignores their repr."""
    pretty = pytest.importorskip("rich.pretty").pretty_repr
    account = IntegratedAccount(id="a", context={"password": SECRET}, last_error={"token": SECRET})
    for thing in (
        DEBUG,
        DEBUG.request_options,
        DEBUG.request_options["auth"],
        account,
        Page([account], debug=DEBUG),
    ):
        assert SECRET not in pretty(thing)
        assert SECRET not in repr(thing)
    assert "'a'" in pretty(account)


def test_headers_are_not_in_the_repr_of_a_response() -> None:
    """They contain cookies."""
    info = ResponseInfo(status=200, headers={"set-cookie": SECRET}, attempts=2, elapsed=0.12345)
    assert repr(info) == "ResponseInfo(status=200, attempts=2, elapsed=0.123)"


def test_the_repr_of_an_account() -> None:
    account = IntegratedAccount(id="a", integration=Integration(name="gong"), status="active", tenant_id="t")
    assert repr(account) == "IntegratedAccount(id='a', integration='gong', status='active', tenant_id='t')"


# Accounts and capabilities


def test_an_account_of_the_api() -> None:
    account = IntegratedAccount.from_json(
        b'{"id": "a", "tenant_id": "t", "environment_id": "e", "environment_integration_id": "ei",'
        b' "status": "brand_new", "is_sandbox": false, "authentication_method": "oauth2", "region": "us",'
        b' "integration": {"id": "i", "name": "gong", "category": "ci", "logo": "x"}, "context": {"k": "v"},'
        b' "created_at": "2024-01-01T10:00:00.000Z", "updated_at": null, "last_error": "text", "other": 1}',
    )
    assert account.status == "brand_new"
    assert account.context == {"k": "v"}
    assert account.row() == {
        "id": "a",
        "integration": "gong",
        "status": "brand_new",
        "tenant_id": "t",
        "is_sandbox": False,
        "authentication_method": "oauth2",
        "region": "us",
        "created_at": datetime(2024, 1, 1, 10, tzinfo=UTC),
        "updated_at": None,
    }
    assert list(IntegratedAccount().row()) == list(account.row())
    assert account.to_dict()["context"] == {"k": "v"}
    assert account.to_dict()["integration"]["logo"] == "x"
    again = IntegratedAccount.from_json(json.dumps(account.to_dict()))
    assert again.to_dict() == account.to_dict()
    assert again.unknown == {"other": 1}


@pytest.mark.parametrize(
    ("resource", "method", "model", "expected"),
    [
        ("interactions", "list", None, True),
        ("interactions", "list", "conversational-intelligence", True),
        ("interactions", "list", "crm", False),
        ("interactions", "get", None, False),
        ("contacts", "get", "crm", True),
        ("contacts", "get", "anything", True),
        ("calls", "list", None, False),
    ],
)
def test_supports_looks_for_resource_method_and_model(
    resource: str, method: str, model: str | None, expected: bool
) -> None:
    can = Capabilities(
        unified=(
            Capability(model="conversational-intelligence", resource="interactions", methods=("list",)),
            Capability(resource="contacts", methods=("list", "get")),
        )
    )
    assert can.supports(resource, method, model=model) is expected


# Pages and raw responses


def test_a_page_is_a_list_of_its_items() -> None:
    """It is no abc.Sequence: polars would make one column of objects of it before it looks for Arrow."""
    page = Page(["a", "b", "c"])
    assert not isinstance(page, Sequence)
    assert (len(page), list(page), page[0], page[-1], page[1:]) == (3, ["a", "b", "c"], "a", "c", ("b", "c"))
    assert "b" in page
    assert "x" not in page
    assert (page.index("c"), page.count("a"), list(reversed(page))) == (2, 1, ["c", "b", "a"])
    with pytest.raises(IndexError):
        page[3]
    with pytest.raises(ValueError, match="not in tuple"):
        page.index("a", 1)
    assert page == page
    assert page != Page(["a", "b", "c"])  # as before: a page is its response too
    assert not Page([])
    first, *_ = page
    assert first == "a"


def test_a_page_copies_its_arguments() -> None:
    items, issues, extra = [1], [Issue()], {"a": 1}
    page = Page(items, issues=issues, extra=extra)
    items.append(2)
    issues.clear()
    extra["b"] = 2
    assert (list(page), len(page.issues), page.extra) == ([1], 1, {"a": 1})


def test_a_page_with_a_position_has_more() -> None:
    """At the end of a batch of users there is no cursor, but another batch may follow."""
    assert not Page([1], next_cursor=None).has_more
    assert Page([], next_cursor=None, position=Position(filters="f", user_batch=1)).has_more


def test_the_repr_of_a_page() -> None:
    assert repr(Page([])) == "Page(0 items, has_more=False)"
    page = Page([Interaction(id="a"), Interaction(id="b")], issues=[Issue()], position=Position(filters="f"))
    assert repr(page) == "Page(2 items, has_more=True, issues=1, first=Interaction(id='a'))"


def raw(body: bytes, **headers: str) -> RawResponse:
    return RawResponse(body=body, response=ResponseInfo(headers=headers))


def test_a_raw_response_decodes_on_demand() -> None:
    response = raw(b'{"id": "a", "n": 98765432109876543210}')
    assert response.json() == {"id": "a", "n": 98765432109876543210}
    assert response.json(Person).id == "a"
    assert response.json(Person).unknown == {"n": 98765432109876543210}
    assert response.json(dict[str, Raw])["n"] == Raw(b"98765432109876543210")
    assert repr(response) == "RawResponse(status=200, no content type, 38 bytes)"


@pytest.mark.parametrize(
    ("body", "type_", "said"),
    [
        (b"", Any, "empty"),
        (b"<html>", Any, "HTML"),
        (b'"\xff"', Any, "UTF-8"),
        (b"1e400", Any, "out of range"),
        (b"[" * 100_000, Any, "too deep"),
        (b'{"a": 1', Any, "not JSON"),
        (b"[]", Person, "does not match"),
        (b'{"id": 5}', Person, "does not match"),
        (b'{"id": 5, "name": "' + b"n" * 1_000 + b'"}', Person, "does not match"),
    ],
)
def test_a_raw_body_that_does_not_match_is_a_decode_error(body: bytes, type_: Any, said: str) -> None:
    with pytest.raises(DecodeError, match=said) as caught:
        raw(body).json(type_)
    assert caught.value.raw == body[:512]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/json; charset=utf-8", "application/json"),
        ("Text/CSV", "text/csv"),
        (" text/html ", "text/html"),
        ("", ""),
    ],
)
def test_the_media_type_without_its_parameters(value: str, expected: str) -> None:
    assert raw(b"", **{"content-type": value}).content_type == expected
    assert raw(b"").content_type == ""


# Row views


@pytest.mark.parametrize(
    ("items", "is_plain"),
    [
        ([b'{"id": "a"}', b'{"x": [1], "id": 5}'], True),
        ([], True),
        ([b'{"id": "a"}', b'{"user": {"id": 5}, "x": [1]}'], False),
        ([b'{"id": "a"}', b"{}"], False),
        ([b'{"id": "a"}', b"[]"], False),
        ([b'{"id": "a"}', b"null"], False),
        ([b'{"id": "a"}', b""], False),
        ([b'{"id": "a", "tenant_id": "t"}'], False),
        ([b'{"window_start": null}'], False),
        ([b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"], False),
    ],
)
def test_rows_are_plain_if_each_has_an_id_and_none_a_column_of_a_pull(
    items: list[bytes], is_plain: bool
) -> None:
    """Others are written the slower way, field by field."""
    assert are_plain([Raw(item) for item in items]) == is_plain
