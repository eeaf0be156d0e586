"""Responses before they are sent, and the bodies of Truto's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

JSON_TYPE: Final = "application/json; charset=utf-8"
REQUEST_ID: Final = "4al018gzaztcr8nbukw"  # of every response of Gong's


@dataclass(frozen=True, slots=True)
class Response:
    """Status, headers and complete body. How they are sent is decided later."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()
    encoding: str | None = None  # set if `body` is already compressed
    streamed: bool = False  # send the body chunked, in small pieces
    is_timed: bool = False  # the response may differ at another time of day
    notes: tuple[str, ...] = ()  # parameters that were accepted but are almost certainly a mistake


class ServiceError(Exception):
    """Raised where a request cannot be served; becomes an error response."""

    def __init__(self, status: int, message: str, **members: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self._members = members  # further arguments of `error_response`

    def response(self) -> Response:
        return error_response(self.status, self.message, **self._members)


def dump_json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates are legal in JSON only as escapes
        return json.dumps(value, separators=(",", ":")).encode()


def as_object(value: Any) -> dict[str, Any] | None:
    """Return the value if it is a JSON object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_list(value: Any) -> Sequence[Any] | None:
    """Return the value if it is a JSON array."""
    return cast("Sequence[Any]", value) if isinstance(value, list) else None


def error_response(
    status: int,
    message: str | None = None,
    *,
    remote: bool = False,
    insight: Mapping[str, Any] | None = None,
    details: Any = None,
    raw_response: Any = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """Build Truto's error body: always its first three members, the others only if given."""
    title = reason_phrase(status)
    body: dict[str, Any] = {
        "statusCode": status,
        "error": title,
        "message": title if message is None else message,
    }
    if details is not None:
        body["details"] = details
    if remote:
        body["truto_is_remote_error"] = True
    if raw_response is not None:
        body["raw_response"] = raw_response
    if insight is not None:
        body["truto_error_insight"] = dict(insight)
    return Response(status, dump_json(body), headers=headers)


def remote_error(
    status: int, message: str, *, insight: str = "remote_error", headers: tuple[tuple[str, str], ...] = ()
) -> ServiceError:
    """Build an error of Gong's that Truto passes on with Gong's own message."""
    return ServiceError(
        status,
        message,
        remote=True,
        insight={insight: {"description": "The error came from the provider"}},
        raw_response={"requestId": REQUEST_ID, "errors": [message]},
        headers=headers,
    )


def missing_parameters(names: list[str]) -> ServiceError:
    """Build the error for parameters that the account's provider requires."""
    insight = {"description": "Required query parameters are missing", "value": names}
    message = f"Missing required query parameters: {', '.join(names)}"
    return ServiceError(400, message, insight={"missing_required_query_parameters": insight})


def reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
