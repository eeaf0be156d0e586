"""Reads error bodies, capabilities and tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn, cast

import msgspec
from msgspec import Raw, Struct

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
from truto_ci_async.models import Capabilities, Capability


class _UnifiedList(Struct):
    model: str | None = None
    resource: str | None = None
    methods: tuple[str, ...] = ()


class _UnifiedResource(Struct):
    api_name: str | None = None
    name: str | None = None
    methods: tuple[str, ...] = ()


class _UnifiedResources(Struct):
    resources: tuple[_UnifiedResource, ...] = ()


class _CapabilityAccount(Struct):
    id: str | None = None
    status: str | None = None
    is_blocked: bool | None = None


class _CapabilityBody(Struct):
    unified: Raw
    account: _CapabilityAccount | None = None


def read_capabilities(body: bytes) -> Capabilities:
    """Read what an account can do, in either published shape (contract section 5).

    :raises DecodeError: neither shape.
    """
    try:
        parsed = decode_with(msgspec.json.Decoder(_CapabilityBody), body)
        if bytes(parsed.unified).lstrip()[:1] == b"{":
            listed = msgspec.json.decode(parsed.unified, type=_UnifiedResources).resources
            entries = tuple(
                Capability(model=entry.api_name, resource=entry.name, methods=entry.methods)
                for entry in listed
            )
        else:
            rows = msgspec.json.decode(parsed.unified, type=tuple[_UnifiedList, ...] | None) or ()
            entries = tuple(
                Capability(model=row.model, resource=row.resource, methods=row.methods) for row in rows
            )
    except msgspec.ValidationError as error:
        raise DecodeError(
            f"the capabilities have another shape: {error}", raw=body[:EXCERPT_BYTES]
        ) from error
    account = parsed.account or _CapabilityAccount()
    return Capabilities(
        account_id=account.id, status=account.status, is_blocked=account.is_blocked, unified=entries
    )


class _TokenBody(Struct):
    integrated_account_token: str


def read_token(body: bytes) -> str:
    """Read the answer of ``POST /integrated-account/token`` (contract section 4).

    :raises DecodeError: no token in it; the body is not quoted, since it may hold one under another name.
    """
    try:
        return decode_with(msgspec.json.Decoder(_TokenBody), body).integrated_account_token
    except (msgspec.ValidationError, DecodeError):
        raise DecodeError("the answer holds no integrated_account_token") from None


_BAD_REQUEST = frozenset({400, 405, 409, 422})
_CURSOR_DEAD = re.compile(
    r"expired|malformed|not a cursor|invalid|unknown|no longer|not found|stale", re.IGNORECASE
)
_CURSOR_FOREIGN = re.compile(r"filter|different|other|mismatch|does not belong", re.IGNORECASE)


def error_class(status: int, *, is_remote: bool, asked_to_wait: bool) -> type[APIError]:
    """Return the error that says what to do about a status (contract section 3)."""
    if status == 401:
        return ReconnectRequiredError if is_remote else AuthenticationError
    if status == 503:
        return ServerError if asked_to_wait else AccountBlockedError
    named = {
        403: PermissionDeniedError,
        404: NotFoundError,
        408: ServerError,
        425: ServerError,
        429: RateLimitError,
    }
    if status in named:
        return named[status]
    return BadRequestError if status in _BAD_REQUEST or 400 <= status < 500 else ServerError


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
    """Read an error answer. A body that is HTML, empty or broken never hides the status (contract section 3)."""
    try:
        parsed: object = decode_with(msgspec.json.Decoder(), body)
    except (DecodeError, msgspec.ValidationError):
        parsed = None
    fields = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
    is_remote = fields.get("truto_is_remote_error") is True
    raw_response = fields.get("raw_response")
    error = _text(fields.get("error")) or reason
    message = _text(fields.get("message")) or _text(raw_response) or error
    if 300 <= status < 400:
        where = headers.get("location", "")
        message = f"a redirect to {where[:200]!r}, which is not followed; check base_url"
    elif not message:
        message = f"no message; {describe(body)}"
    elif not isinstance(parsed, dict) and body.strip():
        message = f"{message}; the body is no JSON object: {describe(body)}"
    insight = fields.get("truto_error_insight")
    return error_class(status, is_remote=is_remote, asked_to_wait=retry_after is not None)(
        message,
        status=status,
        error=error,
        is_remote=is_remote,
        insight=cast("dict[str, Any]", insight) if isinstance(insight, dict) else None,
        details=fields.get("details"),
        raw_response=raw_response,
        headers=headers,
        retry_after=retry_after,
        account=account,
        attempts=attempts,
    )


def _text(value: object) -> str:
    """Whatever the service put where a message belongs, as one short text."""
    if value is None or value == "" or value == {} or value == []:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 1_000 else f"{text[:1_000]}…"


def raise_for_cursor(error: APIError, cursor: str | None) -> NoReturn:
    """Raise what a refusal means for the request's ``cursor``: its end, its misuse, or just the refusal itself.

    :raises CursorExpiredError: the service no longer takes the cursor.
    :raises UsageError: the cursor was given for other filters.
    :raises APIError: anything else, as it came.
    """
    if cursor and error.status in {400, 404, 409, 410, 422} and "cursor" in error.message.lower():
        if _CURSOR_FOREIGN.search(error.message):
            raise UsageError(f"the cursor was given for other filters: {error.message}") from error
        if _CURSOR_DEAD.search(error.message):
            raise CursorExpiredError(
                f"the service no longer takes this cursor: {error.message}; start the window again",
                cursor=cursor,
                account=error.account,
            ) from error
    try:
        raise error
    finally:
        del error  # this frame is part of its traceback: the two would be a cycle
