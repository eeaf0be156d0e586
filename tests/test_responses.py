"""Responses that are not pages: an error keeps its status whatever its body is, and nothing secret is quoted."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.json_bodies import JSON_LIKE, PAGE_LIKE, body
from truto_ci_async._http.credentials import mask
from truto_ci_async._http.failures import failure_of
from truto_ci_async._wire.responses import (
    error_class,
    raise_for_cursor,
    read_capabilities,
    read_error,
    read_token,
    says_no_data,
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
    TrutoError,
    UsageError,
)
from truto_ci_async.models import Capability

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
        (503, True, None, ServerError),
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
    assert error_class(status, is_remote=is_remote, has_retry_after=retry_after is not None) is expected
    text = body({"statusCode": status, "error": "e", "message": "m", "truto_is_remote_error": is_remote})
    error = read_error(status, {}, text, retry_after=retry_after)
    assert type(error) is expected
    assert (error.status, error.is_remote, error.retry_after) == (status, is_remote, retry_after)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html><h1>503 Service Temporarily Unavailable</h1>",
        b"upstream connect error or disconnect/reset before headers",
        b"no healthy upstream",
        b"null",
        b"[]",
        b"{}",
        b'{"message": "Service Unavailable"}',
        b'{"message": "name resolution failed", "request_id": "4e"}',
        b'{"timestamp": 1, "status": 503, "error": "Service Unavailable", "message": "", "path": "/x"}',
        b'{"statusCode": 503, "error": "Service Unavailable", "message": "blocked"',
    ],
)
def test_a_503_that_truto_did_not_write_blocks_nobody(text: bytes) -> None:
    """It comes from a balancer: the next attempt may reach a server."""
    error = read_error(503, {}, text, reason="Service Unavailable")
    assert type(error) is ServerError
    assert failure_of(error).verdict == "fault"


@pytest.mark.parametrize(
    ("more", "retry_after", "expected", "verdict"),
    [
        ({}, None, AccountBlockedError, "no"),
        ({"message": ""}, None, AccountBlockedError, "no"),
        ({}, 5.0, ServerError, "throttle"),
        ({"truto_is_remote_error": True}, None, ServerError, "fault"),
        ({"truto_is_remote_error": True}, 5.0, ServerError, "throttle"),
    ],
)
def test_a_503_of_truto_is_about_the_account_unless_it_is_the_providers(
    more: dict[str, Any], retry_after: float | None, expected: type[APIError], verdict: str
) -> None:
    text = body({"statusCode": 503, "error": "Service Unavailable", "message": "m", **more})
    error = read_error(503, {}, text, retry_after=retry_after)
    assert type(error) is expected
    assert failure_of(error).verdict == verdict


@pytest.mark.parametrize(
    "value", ["soon", "5s", '"5"', "Wed, 21 Oct 0000 07:28:00 GMT", "2026-11-29T21:00:00Z"]
)
def test_a_503_that_says_when_to_come_back_blocks_nobody(value: str) -> None:
    """Even if we cannot read when that is. The account was taken for blocked, and never asked again."""
    text = body({"statusCode": 503, "error": "Service Unavailable", "message": "m"})
    error = read_error(503, {"retry-after": value}, text)
    assert type(error) is ServerError
    assert failure_of(error).verdict == "fault"
    assert type(read_error(503, {"retry-after": " "}, text)) is AccountBlockedError


def test_a_3xx_that_leads_nowhere_is_no_redirect() -> None:
    error = read_error(304, {}, b"", reason="Not Modified")
    assert str(error) == "Truto responded with 304 Not Modified: Not Modified"


def test_an_error_carries_everything_the_service_sent() -> None:
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
        "the provider, through Truto, responded with 422 Unprocessable Entity: Email is invalid "
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
        (b"<p>oops", "Bad Gateway; the body is not a JSON object: it looks like HTML or XML, beginning b'<p>oops'"),
        (b"upstream error", "Bad Gateway; the body is not a JSON object: it begins b'upstream error'"),
        (b"[1]", "Bad Gateway; the body is not a JSON object: it begins b'[1]'"),
        (b"\xff\xfe", "Bad Gateway; the body is not a JSON object: it begins b'\\xff\\xfe'"),
        (b"\xef\xbb\xbf{}", "Bad Gateway"),
        (b'\xef\xbb\xbf{"message": "m"}', "m"),
        (b'{"message": "cut \\ud83d"}', "cut \ufffd"),
        (b'{"message": "m", "raw_response": {"a": ["\\udc00"]}}', "m"),
        (b'{"message": "m"', "Bad Gateway; the body is not a JSON object: it begins b'{\"message\": \"m\"'"),
        (b'{"message": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"message": "' + b"x" * 1_000 + b'"}', "x" * 1_000),
        (b'{"message": "' + b"x" * 1_001 + b'"}', "x" * 1_000 + "…"),
        (b'{"message": "' + b"x" * 100_000 + b'"}', "x" * 1_000 + "…"),
    ],
)  # fmt: skip
def test_the_message_falls_back_and_the_status_is_never_hidden(text: bytes, expected: str | None) -> None:
    error = read_error(502, {}, text, reason="Bad Gateway")
    assert (type(error), error.status) == (ServerError, 502)
    assert expected is None or error.message == expected
    assert len(str(error)) < 1_200
    assert str(error).startswith("Truto responded with 502 ")


@pytest.mark.parametrize("text", [b"", b"<html>", b"null", b'{"message": ""}'])
def test_an_error_without_any_text_still_has_a_message(text: bytes) -> None:
    error = read_error(500, {}, text)
    assert error.message.startswith("no message; ")


def test_missing_parameters_are_listed_in_the_message() -> None:
    insight = {
        "missing_required_query_parameters": {"description": "missing", "value": ["start_time", "end_time"]},
        "conditionally_required_query_parameters": {"description": "one of these is needed", "value": []},
    }
    error = read_error(422, {}, body({"message": "refused", "truto_error_insight": insight}))
    assert str(error) == (
        "Truto responded with 422: refused (conditionally required query parameters: one of these is needed; "
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
def test_an_insight_of_an_unknown_shape_is_harmless(insight: Any) -> None:
    error = read_error(403, {}, body({"message": "m", "truto_error_insight": insight}))
    assert isinstance(error, PermissionDeniedError)
    assert error.missing_scopes == ()
    assert str(error).startswith("Truto responded with 403: m")


@pytest.mark.parametrize(
    ("flag", "expected"), [(True, True), (False, False), (None, False), ("false", False), (1, False)]
)
def test_only_true_means_remote(flag: Any, expected: bool) -> None:
    """A 401 mistaken for the provider's would make the account's owner reconnect for nothing."""
    assert read_error(401, {}, body({"truto_is_remote_error": flag})).is_remote is expected


@pytest.mark.parametrize("status", [300, 302, 399])
def test_a_redirect_says_where_it_leads_and_what_to_check(status: int) -> None:
    error = read_error(status, {"location": "https://login.example/" + "x" * 500}, b"<html>")
    assert "https://login.example/" in error.message
    assert "base_url" in error.message
    assert len(error.message) < 300


# Refused cursors


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "Cursor expired", CursorExpiredError),
        (400, "The cursor has expired, please request another one", CursorExpiredError),
        (400, "Invalid cursor: it is no longer valid. Start another walk.", CursorExpiredError),
        (404, "Cursor not found. It may have expired or otherwise been removed", CursorExpiredError),
        (
            410,
            "Expired cursor; repeat the request without the cursor but with the same filters",
            CursorExpiredError,
        ),
        (400, "Unknown cursor, please request another one", CursorExpiredError),
        (400, "Unknown cursor. Repeat the request with the same filters but with another cursor", CursorExpiredError),
        (422, "invalid cursor", CursorExpiredError),
        (422, "Invalid `next_cursor`", CursorExpiredError),
        (422, "Invalid value for parameter next_cursor", CursorExpiredError),
        (422, "next_cursor: invalid value", CursorExpiredError),
        (422, 'The cursor "c-1" is invalid', CursorExpiredError),
        (422, "the next_cursor parameter is not valid", CursorExpiredError),
        (404, "The cursor was not found", CursorExpiredError),
        (404, "The cursor could not be found", CursorExpiredError),
        (404, "The cursor does not exist", CursorExpiredError),
        (404, "No such cursor", CursorExpiredError),
        (422, "Could not decode cursor", CursorExpiredError),
        (410, "this cursor is no longer valid", CursorExpiredError),
        (409, "Malformed cursor", CursorExpiredError),
        (400, "that is not a cursor", CursorExpiredError),
        (400, "unknown cursor", CursorExpiredError),
        (400, "STALE CURSOR", CursorExpiredError),
        (400, "the cursor was issued for another query", UsageError),
        (400, "The cursor was issued for different filters", UsageError),
        (422, "the cursor was made for different filters", UsageError),
        (400, "The cursor belongs to another account", UsageError),
        (400, "cursor does not belong to this account", UsageError),
        (400, "the cursor doesn't match the filters", UsageError),
        (422, "Invalid cursor: filter mismatch", UsageError),
        (422, "Invalid cursor: start_time differs", UsageError),
        (422, "The filters changed since this cursor was issued", UsageError),
        (422, "The cursor is not valid for these filters", UsageError),
        (422, "cursor", BadRequestError),
        (422, "start_time is invalid", BadRequestError),
        (422, "Invalid limit: a page of a cursor has at most 100 records", BadRequestError),
        (422, "Unknown parameter 'foo'; a cursor was sent with it", BadRequestError),
        (422, "users[0].id is invalid (cursor c-1)", BadRequestError),
        (422, "The filter is invalid; the cursor was not used", BadRequestError),
        (422, "Another cursor is in use", BadRequestError),
        (422, "the precursor has expired", BadRequestError),
        (500, "invalid cursor", ServerError),
        (401, "invalid cursor", AuthenticationError),
        (429, "unknown cursor", RateLimitError),
    ],
)  # fmt: skip
def test_a_refused_cursor_is_distinguished_from_other_errors(
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


def test_a_raised_error_is_not_kept_alive_by_its_traceback() -> None:
    """A reference cycle would keep the response, and all that the frames refer to, until the next collection."""
    error = read_error(500, {}, b"")
    alive = weakref.ref(error)
    gc.disable()
    try:
        with suppress(APIError):
            raise_for_cursor(error, "c")
        del error
        assert alive() is None
    finally:
        gc.enable()


# No data


@pytest.mark.parametrize(
    ("message", "is_no_data"),
    [
        ("no stats found for the specified period", True),
        ("No calls found corresponding to the provided filters", True),
        ("No data for the given date range.", True),
        ("There are no interactions in this period", True),
        ("There is nothing in the time frame", True),
        ("Nothing found for the selected filters", True),
        ("No interactions match the filter", True),
        ("0 records match the given criteria", True),
        ("Could not find any calls in the requested time range", True),
        ("No stats found between the given dates", True),
        ("No data", True),
        ("No stats found.", True),
        ("There are no interactions", True),
        ("", False),
        ("Not Found", False),
        ("gone", False),
        ("Could not find company", False),
        ("Workspace not found", False),
        ("Company not found for the specified period", False),
        ("No such company", False),
        ("No company found in this period", False),
        ("No access to calls of this period", False),
        ("This company no longer exists in that period", False),
        ("No route found for GET /v2/stats/period", False),
        ("There is no user 5", False),
        ("Unknown filter", False),
        ("No filter of that name", False),
        ("Cannot POST /v2/stats/activity/aggregate-by-period", False),
    ],
)
def test_a_404_is_no_data_only_if_it_says_so(message: str, is_no_data: bool) -> None:
    """Any other means that something is wrong, and an account would be reported as empty for ever."""
    text = {"statusCode": 404, "error": "Not Found", "message": message, "truto_is_remote_error": True}
    assert says_no_data(read_error(404, {}, body(text), reason="Not Found")) is is_no_data
    assert not says_no_data(read_error(404, {}, body(text | {"truto_is_remote_error": False})))
    assert not says_no_data(read_error(400, {}, body(text)))


@pytest.mark.parametrize(
    "more",
    [
        {"raw_response": {"errors": ["No stats found for the specified period"]}},
        {"truto_error_insight": {"remote_error": {"description": "No stats found for the specified period"}}},
    ],
)
def test_what_the_provider_said_counts_too(more: dict[str, Any]) -> None:
    text = {"message": "Request failed with status code 404", "truto_is_remote_error": True, **more}
    assert says_no_data(read_error(404, {}, body(text)))


# Tokens and capabilities


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
        b'{"integrated_account_token": ""}',
        b'{"integrated_account_token": "hunter2\\ud83d"}',
        b'{"integrated_account_token": "hunter2\\n"}',
        b'{"integrated_account_token": "hunter2 x"}',
    ],
)
def test_a_response_without_a_token_is_not_quoted(text: bytes) -> None:
    """It may hold the token under another name, and errors end up in logs."""
    with pytest.raises(DecodeError) as caught:
        read_token(text)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "hunter2" not in f"{chain!s} {chain!r} {chain.__dict__}"
        chain = chain.__cause__


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
    offered = [msgspec.structs.replace(each, unknown_json=msgspec.UNSET) for each in found.unified]
    assert tuple(offered) == expected
    assert all(each.unknown in ({}, {"label": "x"}) for each in found.unified)
    assert (found.account_id, found.status, found.is_blocked) == ("a", "active", False)
    assert found.supports("interactions") == bool(expected)
    assert not found.supports("calls")


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b"null", b"{}", b'{"error": "x"}', b'{"unified": 5}', b'{"unified": [5]}',
             b'{"unified": [', b'{"unified": {"resources": {}}}', b'{"unified": [], "account": []}',
             b'{"unified": "\xff"}', b'{"unified": 5, "x": "' + b"x" * 1_000 + b'"}',
              b'{"unified": [{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"]
)  # fmt: skip
def test_capabilities_of_an_unknown_shape_are_an_error(text: bytes) -> None:
    """An error body read as "can do nothing" would make a caller skip the account."""
    with pytest.raises(DecodeError) as caught:
        read_capabilities(text)
    assert len(caught.value.raw) <= 512


# Whatever comes


@given(st.binary(max_size=60) | JSON_LIKE | PAGE_LIKE)
def test_no_body_raises_an_error_of_another_library(text: bytes) -> None:
    for read in (read_capabilities, read_token):
        with suppress(TrutoError):
            read(text)
    for status in (401, 404, 422, 503):
        error = read_error(status, {}, text)
        says_no_data(error)
        assert error.status == status
        assert str(error)
        repr(error)
        with pytest.raises(TrutoError):
            raise_for_cursor(error, "c")


def test_a_token_is_masked_as_it_is_and_as_a_url_has_it() -> None:
    token = "tok/en+with=signs"
    for repeated in (token, quote(token, safe="")):
        assert mask(f"not {repeated}, please", token) == "not ***, please"
    assert mask("the token is short", "token") == "the token is short"
