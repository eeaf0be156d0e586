"""What `debug` pages add, with credentials redacted."""

from __future__ import annotations

import re
from typing import Any, cast

from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from .field_types import NO_DATA, Number, decode_any


class _MaskedDict(dict[str, Any]):
    """A dict that shows its keys and hides its values; values are reached by key as ever."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: '***'" for key in self) + "}"

    __str__ = __repr__


class _MaskedList(list[Any]):
    def __repr__(self) -> str:
        return f"[{len(self)} hidden]"

    __str__ = __repr__


# The provider's URL can hold a key too: before its host, or in its query.
_URL_SECRETS = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)


def mask_repr(value: object) -> Any:
    """Wrap decoded JSON so that its reprs hide what it holds."""
    if isinstance(value, dict):
        return _MaskedDict({key: mask_repr(item) for key, item in cast("dict[str, object]", value).items()})
    if isinstance(value, list):
        return _MaskedList(mask_repr(item) for item in cast("list[object]", value))
    return value


class DebugInfo(
    Struct,
    frozen=True,
    kw_only=True,
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
    """What Truto asked the provider and what came back (``response_format="debug"``).

    ``request_options`` can hold the provider's credentials: it shows as ``***`` in every repr, also of the
    parts taken out of it, while its values stay reachable by key. Do not log those.
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
    def request_options(self) -> Any:
        """Options of the provider's request, decoded on each access; every repr of it is masked."""
        return mask_repr(decode_any(self.options_json))

    @property
    def data(self) -> Any:
        """The provider's body, decoded on each access."""
        return decode_any(self.data_json)

    @property
    def response_headers(self) -> Any:
        """Headers of the provider's answer, decoded on each access; every repr of it is masked."""
        return mask_repr(decode_any(self.headers_json))

    def __repr__(self) -> str:
        return f"DebugInfo({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        url = _URL_SECRETS.sub("", self.request_url) if self.request_url else None
        return [("request_url", url), ("request_options", "***"), ("result_count", self.result_count)]
