"""Reads the responses that are not pages: errors (contract section 3), tokens (4) and capabilities (5).

Pages are read in `page_reader`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn, cast

import msgspec
from msgspec import Meta, Struct

from truto_ci_async._json import EXCERPT_BYTES, decode_with, describe
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
    UsageError,
)
from truto_ci_async.models import Capabilities

from .item_reader import item_reader

# Characters of the service's message that an error repeats at most.
MESSAGE_CHARS = 1_000

_decode_any = msgspec.json.Decoder()


def read_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    reason: str = "",
    retry_after: float | None = None,
    account: str | None = None,
    attempts: int = 1,
) -> APIError:
    """Turn an error response into an exception. A body that is HTML, empty or broken never hides the status."""
    try:
        parsed: object = decode_with(_decode_any, body)
    except (DecodeError, msgspec.ValidationError):
        parsed = None
    fields = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else None
    given = fields or {}
    error = _text(given.get("error")) or reason
    insight = given.get("truto_error_insight")
    is_remote = given.get("truto_is_remote_error") is True
    kind = error_class(
        status,
        is_remote=is_remote,
        has_retry_after=retry_after is not None or bool(headers.get("retry-after", "").strip()),
        is_truto=given.keys() >= _TRUTO_KEYS,
    )
    return kind(
        _error_message(status, headers, body, fields, fallback=error),
        status=status,
        error=error,
        is_remote=is_remote,
        insight=cast("dict[str, Any]", insight) if isinstance(insight, dict) else None,
        details=given.get("details"),
        raw_response=given.get("raw_response"),
        headers=headers,
        retry_after=retry_after,
        account=account,
        attempts=attempts,
    )


# All errors of Truto have these; the JSON of a load balancer or proxy may have a ``message``, but no ``statusCode``.
_TRUTO_KEYS = frozenset({"statusCode", "message"})


def error_class(
    status: int, *, is_remote: bool, has_retry_after: bool, is_truto: bool = True
) -> type[APIError]:
    """Return the exception that says what to do about a status; ``is_truto``: the body has the shape of Truto's errors.

    Only a 503 of Truto's own without ``Retry-After`` means that the account is blocked. The provider, or a load
    balancer in front of the service, sends 503 while it is briefly unavailable.
    """
    if status == 401:
        return ReconnectRequiredError if is_remote else AuthenticationError
    if status == 503:
        return ServerError if has_retry_after or is_remote or not is_truto else AccountBlockedError
    if status in _ERROR_CLASSES:
        return _ERROR_CLASSES[status]
    return BadRequestError if 400 <= status < 500 else ServerError


_ERROR_CLASSES: dict[int, type[APIError]] = {
    403: PermissionDeniedError,
    404: NotFoundError,
    408: ServerError,
    425: ServerError,
    429: RateLimitError,
}


def _error_message(
    status: int, headers: Mapping[str, str], body: bytes, fields: dict[str, Any] | None, *, fallback: str
) -> str:
    """Return the message of an error body, of which ``fields`` are the keys if it is a JSON object."""
    if 300 <= status < 400 and (location := headers.get("location", "")):
        return f"a redirect to {location[:200]!r}, which is not followed; check base_url"
    given = fields or {}
    message = _text(given.get("message")) or _text(given.get("raw_response")) or fallback
    if not message:
        return f"no message; {describe(body)}"
    if fields is None and body.strip():
        return f"{message}; the body is not a JSON object: {describe(body)}"
    return message


def _text(value: object) -> str:
    """Return any JSON value as text of at most ``MESSAGE_CHARS``; empty values are empty text."""
    if value is None or value == "" or value == {} or value == []:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= MESSAGE_CHARS else f"{text[:MESSAGE_CHARS]}…"


_CURSOR_STATUSES = frozenset({400, 404, 409, 410, 422})
_CURSOR = r"\b(?:next_|page_)?cursor\b"
_EXPIRED = r"\b(?:expired?|expires|expiry|stale|outdated|too old|timed out|no longer)\b"
# Words for a cursor of another list call. "another" alone is none: "request another one", "start another walk".
_FOREIGN = (
    r"\bmismatch(?:ed|es)?\b"
    r"|\b(?:does|do|did)(?: not|n't) (?:belong|match|correspond|fit)\b"
    r"|\b(?:for|of|from|to|with|by|under) (?:an)?other (?!one\b|cursor\b)\w"
    r"|\b(?:for|of|from|to|with|by|under) (?:a )?different\b"
    r"|\bdiffers?\b"
    r"|\b(?:filters|parameters|query) (?:(?:have|has|were|was|are|is) )?(?:changed|different)\b"
    r"|\b(?:in|not )valid (?:for|with) (?:these|this|the|your) (?:\w+ )?(?:filters?|query|parameters?|account|window)\b"
)
# Words that many messages have: they count only next to the cursor's own parameter.
_BAD = r"(?:invalid|unknown|malformed|bad|illegal|unrecogni[sz]ed|corrupt(?:ed)?)"
_NEVER_VALID = (
    rf"\b{_BAD} (?:values? (?:for|of|in) )?(?:the )?(?:parameter )?['\"`]?(?:next_|page_)?cursor\b"
    r"|\b(?:next_|page_)?cursor['\"`]?(?: parameter| value| token)?(?: ?['\"`][^'\"`]*['\"`])?:? "
    r"(?:(?:is|was|does|could|can|cannot|looks|seems) )?"
    rf"(?:{_BAD}\b|not (?:valid|found|exist|known|recogni[sz]ed)\b|(?:not )?be (?:found|decoded|parsed|read)\b)"
    r"|\b(?:not a (?:valid )?|no such )cursor\b"
    r"|\b(?:could not|couldn't|cannot|can't|unable to|failed to) (?:decode|parse|read|find|resolve) (?:the |this )?"
    r"['\"`]?(?:next_|page_)?cursor\b"
)


def _search(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def raise_for_cursor(error: APIError, cursor: str | None) -> NoReturn:
    """Raise ``error``, or a more specific error if the service refused the ``cursor`` that was sent.

    Expiry comes first: a message about an expired cursor often tells how to ask for another one.

    :raises CursorExpiredError: the service no longer accepts the cursor.
    :raises UsageError: the cursor belongs to other filters.
    :raises APIError: anything else, unchanged.
    """
    said = " ".join(error.message.split())
    if cursor and error.status in _CURSOR_STATUSES and _search(_CURSOR, said):
        is_expired = _search(_EXPIRED, said)
        if not is_expired and _search(_FOREIGN, said):
            raise UsageError(f"the cursor belongs to other filters: {error.message}") from error
        if is_expired or _search(_NEVER_VALID, said):
            raise CursorExpiredError(
                f"the service no longer accepts this cursor: {error.message}; start the window again",
                cursor=cursor,
                account=error.account,
            ) from error
    try:
        raise error
    finally:
        del error  # this frame is part of its traceback: a reference cycle otherwise


# "No stats found for the specified period", "no calls match the given filters": what is missing is data. A message
# about a missing company, route or user names that instead.
_PERIOD_OR_FILTER = (
    r"(?<![/\w-])(?:(?:time|date) ?(?:ranges?|frames?|windows?|spans?|periods?)|timeframes?|periods?|dates?|ranges?"
    r"|windows?|intervals?|filters?|criteria)\b"
)
_NO_DATA = (
    r"\b(?:no|nothing|zero|0|not (?:find )?any)\b(?! (?:longer|such|access|permission|right|authori[sz]|licen[sc]e"
    r"|subscription|connection|integration|compan|account|workspace|tenant|organi[sz]ation|route|endpoint|resource))"
    r"[^.;]{0,80}?\b(?:for|in|within|during|between|over|under|with|by"
    r"|match\w*|correspond\w*|satisf\w+|meet\w*)\b[^.;]{0,60}?" + _PERIOD_OR_FILTER
)
_NOTHING_THERE = (
    r"^\W*(?:there (?:is|are|was|were) )?no (?:\w+ )?(?:data|stats|statistics|records|results|rows|interactions|calls"
    r"|activity|activities)(?: (?:was|were|is|are))?(?: (?:found|available|returned|yet))?\W*$"
)


def says_no_data(error: APIError) -> bool:
    """Tell whether a 404 of the provider means that there is no data for the period or filter: an empty window.

    "Could not find company" is a 404 too, and means that something is wrong.
    """
    return _is_said(error, _NO_DATA, _NOTHING_THERE)


def says_no_transcript(error: APIError) -> bool:
    """Tell whether a 404 of the provider means that a meeting has no transcript, at least not yet.

    "Transcript not found" says so, and so does "No calls found corresponding to the provided filters".
    """
    return _is_said(error, _NO_DATA, _NOTHING_THERE, _NO_TRANSCRIPT)


_NO_TRANSCRIPT = (
    r"\b(?:transcripts?|transcriptions?|recordings?)\b[^.;]{0,60}?"
    r"(?:\bmissing|\bunavailable|(?:\bnot|n't)(?: been| yet)* (?:found|available|ready|exist|generated"
    r"|processed|created|recorded|there))\b"
    r"|\b(?:no|without|missing)(?! (?:access|permission|right|authori[sz]|licen[sc]e|subscription)) (?:\w+ ){0,2}"
    r"(?:transcripts?|transcriptions?|recordings?)\b"
    r"|\b(?:calls?|meetings?)\b[^.;]{0,40}?\bnot(?: been| yet)* (?:transcribed|recorded)\b"
)


def _is_said(error: APIError, *patterns: str) -> bool:
    """Tell whether a 404 of the provider says one of these, in any of its texts."""
    if error.status != 404 or not error.is_remote:
        return False
    remote = error.insight.get("remote_error")
    description = cast("dict[str, object]", remote).get("description") if isinstance(remote, dict) else None
    texts = (" ".join(_text(each).split()) for each in (error.message, error.raw_response, description))
    return any(_search(pattern, text) for text in texts for pattern in patterns)


class _TokenBody(Struct):
    integrated_account_token: Annotated[str, Meta(pattern=r"^[!-~]+\Z")]  # what a header may hold


def read_token(body: bytes) -> str:
    """Read the response of ``POST /integrated-account/token``.

    :raises DecodeError: there is no token that can be sent. The body is not quoted, since it may hold one under
        another name.
    """
    try:
        return decode_with(msgspec.json.Decoder(_TokenBody), body).integrated_account_token
    except (msgspec.ValidationError, DecodeError):
        raise DecodeError("the response has no integrated_account_token") from None


def read_capabilities(body: bytes) -> Capabilities:
    """Read what an account can do, in either of the two published shapes.

    :raises DecodeError: the body has neither shape.
    """
    try:
        given = decode_with(_decode_object, body)
        if not given.keys() & {"unified", "proxy"}:
            raise msgspec.ValidationError("it has neither unified nor proxy")
        sent = given.pop("account", None)
        account: dict[str, Any] = {} if sent is None else sent
        members = {
            **given,
            "account_id": account.get("id"),
            "status": account.get("status"),
            "is_blocked": account.get("is_blocked"),
            "unified": [_capability(each) for each in _resources(given.get("unified"))],
            "proxy": [_proxy(each) for each in _resources(given.get("proxy"))],
        }
        reader = item_reader(Capabilities, "raise")
        found, _ = reader.read_item(msgspec.json.encode(members), index=0, path="$")
    except (msgspec.ValidationError, AttributeError, TypeError, DecodeError) as error:
        if isinstance(error, DecodeError) and error.index is None:
            raise  # not JSON
        raise DecodeError(
            f"the capabilities have an unknown shape: {error}", raw=body[:EXCERPT_BYTES]
        ) from error
    return cast("Capabilities", found)


_decode_object = msgspec.json.Decoder(dict[str, Any])


def _resources(value: Any) -> Any:
    """Return the list of resources, which may be wrapped in an object."""
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("resources")
    if value is not None and not isinstance(value, list):
        raise msgspec.ValidationError("the resources are not a list")
    return value or []  # pyright: ignore[reportUnknownVariableType]


def _capability(value: dict[str, Any]) -> dict[str, Any]:
    """Return a resource with the names of the other shape."""
    if "api_name" not in value:
        return value
    named = {name: each for name, each in value.items() if name not in ("api_name", "name")}
    return {"model": value["api_name"], "resource": value.get("name"), **named}


def _proxy(value: dict[str, Any]) -> dict[str, Any]:
    methods = [{"name": each} if isinstance(each, str) else each for each in value.get("methods") or ()]
    named = {"resource": value["name"]} if "name" in value and "resource" not in value else {}
    return {**value, **named, "methods": methods}
