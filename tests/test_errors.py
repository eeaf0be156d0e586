"""The exceptions: their documented tree, what they carry, and that they can be pickled."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import traceback
from typing import Any

import pytest

from truto_ci_async import errors
from truto_ci_async.errors import (
    APIError,
    ConnectError,
    DeadlineError,
    MissingExtraError,
    PermissionDeniedError,
    TruncatedBodyError,
    TrutoError,
)
from truto_ci_async.models import Position

PUBLIC: list[type[TrutoError]] = [getattr(errors, name) for name in errors.__all__]

# A distinct value for each argument of an exception; any other argument gets its own name.
VALUES: dict[str, Any] = {
    "message": "what went wrong",
    "is_permanent": True,
    "attempts": 3,
    "seconds": 1.5,
    "items_read": 5,
    "bytes_read": 10,
    "status": 422,
    "is_remote": True,
    "insight": {"remote_error": {"description": "d", "value": []}},
    "details": {"failures": [1]},
    "raw_response": {"a": [None]},
    "headers": {"x": "y"},
    "retry_after": 2.5,
    "index": 7,
    "raw": b"{",
    "limit": 9,
    "pages": 8,
    "pid": 4,
    "errno": 28,
}


def sample(kind: type[TrutoError]) -> TrutoError:
    """Build an exception with every argument given."""
    arguments = {name: VALUES.get(name, name) for name in inspect.signature(kind).parameters}
    error = kind(**arguments)
    for name, value in arguments.items():
        assert getattr(error, name) == value, f"{kind.__name__} drops {name}"
    return error


# The tree


def _drawn(docstring: str) -> dict[str, str]:
    """Read ``child -> parent`` off the tree in a docstring."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in docstring.splitlines():
        match = re.match(r"    ((?:[│ ]   )*)(?:[├└]── )?([A-Za-z]+Error)\b", line)
        if match is None:
            continue
        depth = len(match[1]) // 4 + ("── " in line)
        path[depth:] = [match[2]]
        if depth:
            parents[match[2]] = path[depth - 1]
    return parents


def _public_parent(kind: type) -> str:
    return next(base.__name__ for base in kind.__mro__[1:] if base.__name__ in errors.__all__)


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    """It is what people read before they write ``except``."""
    real = {kind.__name__: _public_parent(kind) for kind in PUBLIC if kind is not TrutoError}
    assert _drawn(errors.__doc__ or "") == real


def test_every_error_of_the_module_is_public() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and not name.startswith("_")
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConnectError, ConnectionError),
        (ConnectError, OSError),
        (DeadlineError, TimeoutError),
        (MissingExtraError, ImportError),
    ],
)
def test_exceptions_are_also_the_builtin_ones(kind: type, builtin: type) -> None:
    """Code that handles TimeoutError handles ours too."""
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", PUBLIC)
def test_every_exception_has_a_docstring_of_its_own(kind: type) -> None:
    assert kind.__doc__
    assert kind.__doc__ != getattr(kind.__mro__[1], "__doc__", None)


# One error


@pytest.mark.parametrize("kind", PUBLIC)
def test_every_exception_can_be_pickled_with_all_its_attributes(kind: type[TrutoError]) -> None:
    """Pools and queues send exceptions between processes; one that cannot be pickled hides the real failure."""
    error = sample(kind)
    error.add_note("seen by a test")
    copies = [
        pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    ]
    for again in [*copies, copy.copy(error), copy.deepcopy(error)]:
        assert type(again) is kind
        assert vars(again) == vars(error)
        assert (str(again), repr(again), again.args) == (str(error), repr(error), error.args)
        assert again.__notes__ == ["seen by a test"]
        if isinstance(error, ImportError):
            assert again.msg == error.msg == error.message


def test_attributes_set_later_are_pickled_too() -> None:
    error = TruncatedBodyError("m")
    error.position = Position(filters="f", user_batch=1, cursor="c")
    error.account = "acc"
    again = pickle.loads(pickle.dumps(error))
    assert again.position == Position(filters="f", user_batch=1, cursor="c")
    assert again.account == "acc"


@pytest.mark.parametrize("kind", PUBLIC)
def test_every_error_has_its_message_as_text(kind: type[TrutoError]) -> None:
    error = sample(kind)
    assert error.message in str(error)
    assert error.message in repr(error)
    last_line = traceback.format_exception_only(error)[-1]
    assert last_line == f"truto_ci_async.errors.{kind.__name__}: {error}\n"


@pytest.mark.parametrize("kind", [kind for kind in PUBLIC if kind is not MissingExtraError])
def test_every_error_can_be_made_with_a_message_alone(kind: type[TrutoError]) -> None:
    """Callers' tests build them that way."""
    assert kind("m").message == "m"
    assert kind().message == ""
    assert str(kind("m")).endswith("m")


def test_a_missing_extra_names_the_command_to_run() -> None:
    error = MissingExtraError("rich", "cli")
    assert str(error) == "rich is not installed: pip install 'truto-ci-async[cli]'"
    assert (error.package, error.extra) == ("rich", "cli")


# API errors


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": 404}, "Truto responded with 404: m"),
        ({"status": 404, "error": "Not Found"}, "Truto responded with 404 Not Found: m"),
        ({"status": 401, "is_remote": True}, "the provider, through Truto, responded with 401: m"),
        ({"status": 404, "account": "acc"}, "Truto responded with 404: m [account acc]"),
        ({"status": 429, "attempts": 0, "account": "acc"}, "m [account acc]"),
        (
            {
                "status": 422,
                "insight": {"missing_required_query_parameters": {"value": ["start_time", "end_time"]}},
            },
            "Truto responded with 422: m (missing required query parameters: start_time, end_time)",
        ),
        (
            {
                "status": 422,
                "insight": {
                    "rate_limit_error": {"description": "slow down", "value": []},
                    "forbidden_error": {
                        "description": "rights are missing",
                        "value": {"missing_scopes": ["a"]},
                    },
                    "missing_required_body_fields": {"description": "not shown", "value": ["x", 5]},
                },
                "account": "acc",
            },
            "Truto responded with 422: m (forbidden error: rights are missing; missing required body fields: x, 5; "
            "rate limit error: slow down) [account acc]",
        ),
        ({"status": 422, "insight": {"new_kind": "text"}}, "Truto responded with 422: m (new kind)"),
        ({"status": 422, "insight": {"new_kind": {}}}, "Truto responded with 422: m (new kind)"),
    ],
)
def test_the_text_of_an_api_error(fields: dict[str, Any], expected: str) -> None:
    assert str(APIError("m", **fields)) == expected


def test_an_api_error_copies_its_arguments() -> None:
    insight: dict[str, Any] = {"a": {}}
    headers = {"a": "b"}
    error = APIError("m", insight=insight, headers=headers)
    insight["b"] = headers["c"] = ""
    assert (error.insight, error.headers) == ({"a": {}}, {"a": "b"})
    assert APIError("m").insight == {}


@pytest.mark.parametrize(
    ("insight", "expected"),
    [
        ({"forbidden_error": {"value": {"missing_scopes": ["a:read", "b:read"]}}}, ("a:read", "b:read")),
        ({"forbidden_error": {"value": {"missing_scopes": "a:read"}}}, ("a:read",)),
        ({"forbidden_error": {"value": {"missing_scopes": [5]}}}, ("5",)),
        ({"forbidden_error": {"value": ["a:read"]}}, ()),
        ({"forbidden_error": "a:read"}, ()),
        ({"remote_error": {}}, ()),
        ({}, ()),
    ],
)
def test_scopes_to_grant(insight: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert PermissionDeniedError("m", insight=insight).missing_scopes == expected
