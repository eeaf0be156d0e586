"""Types and JSON helpers that the structs share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Raw

from truto_ci_async._json import EXCERPT_BYTES
from truto_ci_async.errors import DecodeError

Number: TypeAlias = int | float
AwareDatetime: TypeAlias = Annotated[datetime, Meta(tz=True)]

NO_DATA = Raw(b"null")
# One decoder for every lazily decoded value; building one per access would cost more than small records do.
_any = msgspec.json.Decoder()


def decode_any(raw: Raw | bytes) -> Any:
    """Decode a value that was skipped when its page was read, so that nobody has looked inside it yet."""
    try:
        return _any.decode(raw)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and bad UTF-8
        raise DecodeError(f"the value cannot be decoded: {error}", raw=bytes(raw)[:EXCERPT_BYTES]) from error


def json_text(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def iso_text(moment: datetime | None) -> str:
    return "?" if moment is None else moment.isoformat()
