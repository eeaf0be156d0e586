"""The debug information of a page, with the provider's credentials masked in every repr."""

from __future__ import annotations

import re
from typing import Any, cast

from msgspec import Raw
from msgspec.structs import force_setattr

from .api_object import ApiObject
from .field_types import NO_DATA, Number, decode_raw


class _MaskedDict(dict[str, Any]):
    """A dict whose repr shows only its keys; values are reached by key as usual."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: '***'" for key in self) + "}"

    __str__ = __repr__


class _MaskedList(list[Any]):
    def __repr__(self) -> str:
        return f"[{len(self)} hidden]"

    __str__ = __repr__


# A URL can contain credentials too: before its host, or in its query.
_URL_SECRETS = r"(?s)(?<=//)[^/?#]*@|[?#].*"


def mask_repr(value: object) -> Any:
    """Wrap decoded JSON so that no repr of it, or of a part of it, shows a value."""
    if isinstance(value, dict):
        return _MaskedDict({key: mask_repr(item) for key, item in cast("dict[str, object]", value).items()})
    if isinstance(value, list):
        return _MaskedList(mask_repr(item) for item in cast("list[object]", value))
    return value


class DebugInfo(
    ApiObject,
    frozen=True,
    kw_only=True,
    gc=True,
    rename={
        "request_url": "requestUrl",
        "options_json": "requestOptions",
        "data_json": "data",
        "headers_json": "responseHeaders",
        "next_cursor": "nextCursor",
        "is_looping": "isLooping",
        "is_empty_result": "isEmptyResult",
        "result_count": "resultCount",
    },
):
    """What Truto sent to the provider and what came back (``response_format="debug"``).

    ``request_options`` can contain the provider's credentials. Every repr of it, or of a part of it, shows ``***``;
    the values are reached by key. Do not log them.
    """

    request_url: str | None = None
    options_json: Raw = NO_DATA
    data_json: Raw = NO_DATA
    headers_json: Raw = NO_DATA
    next_cursor: Any = None
    is_looping: bool | None = None
    is_empty_result: bool | None = None
    result_count: Number | None = None

    def __post_init__(self) -> None:
        for name in ("options_json", "data_json", "headers_json"):
            force_setattr(self, name, getattr(self, name).copy())

    @property
    def unknown(self) -> dict[str, Any]:
        """Members that this package has no field for; masked in every repr."""
        return cast("dict[str, Any]", mask_repr(super().unknown))

    def to_dict(self) -> dict[str, Any]:
        """Return the service's own shape; masked in every repr."""
        return cast("dict[str, Any]", mask_repr(super().to_dict()))

    @property
    def request_options(self) -> Any:
        """Options of the request to the provider, decoded on each access; masked in every repr."""
        return mask_repr(decode_raw(self.options_json))

    @property
    def data(self) -> Any:
        """The body of the provider's response, decoded on each access."""
        return decode_raw(self.data_json)

    @property
    def response_headers(self) -> Any:
        """Headers of the provider's response, decoded on each access; masked in every repr."""
        return mask_repr(decode_raw(self.headers_json))

    def __repr__(self) -> str:
        return f"DebugInfo({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        url = re.sub(_URL_SECRETS, "", self.request_url) if self.request_url else None
        return [("request_url", url), ("request_options", "***"), ("result_count", self.result_count)]
