"""Field types of the structs, and how a value that is kept as raw JSON is decoded."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Raw

from truto_ci_async._json import EXCERPT_BYTES
from truto_ci_async.errors import DecodeError

Number: TypeAlias = int | float
AwareDatetime: TypeAlias = Annotated[datetime, Meta(tz=True)]

#: A whole number of at most 64 bits, which every database and data frame can store. Others are repaired to None.
Count: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

NO_DATA = Raw(b"null")
# Building a decoder takes longer than decoding a small record.
_decoder = msgspec.json.Decoder()


def decode_raw(raw: Raw | bytes) -> Any:
    """Decode a value that was kept as raw JSON, and so not validated, when its page was read.

    :raises DecodeError: the value is bad UTF-8, nested too deep, or has a number too large for a float.
    """
    try:
        return _decoder.decode(raw)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and bad UTF-8
        raise DecodeError(f"the value cannot be decoded: {error}", raw=bytes(raw)[:EXCERPT_BYTES]) from error
