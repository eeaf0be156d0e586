"""An answer before it meets the wire, and the bodies of Truto's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

JSON_TYPE: Final = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and whole body; how it travels is decided later."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()
    encoding: str | None = None  # the body is compressed like this already
    streamed: bool = False  # send it chunked, in small pieces
    notes: tuple[str, ...] = ()  # what was accepted but cannot have been meant


class Refused(Exception):
    """The request gets an error answer."""

    def __init__(self, status: int, message: str, **rest: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.rest = rest  # further arguments of `error_answer`

    def answer(self) -> Answer:
        return error_answer(self.status, self.message, **self.rest)


def dump_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def as_object(value: Any) -> dict[str, Any] | None:
    """The value if it is a JSON object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_list(value: Any) -> Sequence[Any] | None:
    """The value if it is a JSON array."""
    return cast("Sequence[Any]", value) if isinstance(value, list) else None


def error_answer(
    status: int,
    message: str | None = None,
    *,
    remote: bool = False,
    insight: Mapping[str, Any] | None = None,
    details: Any = None,
    raw_response: Any = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """Build Truto's error body: the first three members always, the others when they apply."""
    title = reason(status)
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
    return Answer(status, dump_json(body), headers=headers)


def remote_error(status: int, message: str) -> Refused:
    """An error of Gong's, passed on in its own words."""
    return Refused(
        status,
        message,
        remote=True,
        insight={"remote_error": {"description": "The error came from the provider", "value": message}},
        raw_response={"requestId": "4al018gzaztcr8nbukw", "errors": [message]},
    )


def missing_parameters(names: list[str]) -> Refused:
    insight = {"description": "Required query parameters are missing", "value": names}
    message = f"Missing required query parameters: {', '.join(names)}"
    return Refused(400, message, insight={"missing_required_query_parameters": insight})


def reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
