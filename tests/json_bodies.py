"""JSON texts for property tests: good, nearly right and wrong."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st


def body(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


LEAVES = [
    *(
        b"null",
        b"true",
        b"0",
        b"-1.5",
        b"1e400",
        b"98765432109876543210",
        b'""',
        b'"a"',
        b'"2024-01-01 10:00:00"',
    ),
    *(b'"2024-01-01T00:00:00Z"', b'"\\ud800"', b'"\xc3\xa9"', b'"\xff"', b'"\\u0000"', b"[]", b"{}"),
    *(
        b"",
        b"nul",
        b'"',
        b"[",
        b"}",
        b'"\\ud83d\\ude00\\udfff"',
        b'"\\\\ud83d"',
        b"1E-99999999999999999999",
        b"\xef\xbb\xbf",
    ),
]
KEYS = [
    *(
        b"result",
        b"results",
        b"next_cursor",
        b"prev_cursor",
        b"result_count",
        b"is_partial_response",
        b"debug",
    ),
    *(
        b"requestOptions",
        b"isLooping",
        b"id",
        b"user",
        b"metrics",
        b"patience",
        b"remote_data",
        b"start_time",
    ),
    *(
        b"emails",
        b"unified",
        b"resources",
        b"methods",
        b"account",
        b"error",
        b"message",
        b"raw_response",
        b"value",
    ),
    *(b"truto_error_insight", b"integrated_account_token", b"peopleInteractionStats", b"\\ud800", b"?"),
]


def _object(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"{" + b",".join(b'"' + key + b'":' + value for key, value in pairs) + b"}"


def _objects(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=5).map(_object)


JSON_LIKE = st.recursive(
    st.sampled_from(LEAVES),
    lambda values: (
        st.lists(values, max_size=3).map(lambda items: b"[" + b",".join(items) + b"]") | _objects(values)
    ),
    max_leaves=15,
)
# Nearly right: most of these get past the envelope and into the items.
PAGE_LIKE = st.builds(
    lambda items, around, is_keyed: _object(
        [(b"result", _object([(b"k%d" % i, item) for i, item in enumerate(items)])), *around]
        if is_keyed
        else [(b"result", b"[" + b",".join(items) + b"]"), *around]
    ),
    st.lists(_objects(JSON_LIKE) | JSON_LIKE, max_size=3),
    st.lists(st.tuples(st.sampled_from(KEYS), JSON_LIKE), max_size=2),
    st.booleans(),
)
