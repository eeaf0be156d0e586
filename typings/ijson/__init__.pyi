# The part of ijson that truto_ci_async uses; ijson ships no types of its own.

from decimal import Decimal
from typing import Protocol, TypeAlias

_Event: TypeAlias = tuple[str, str | int | float | Decimal | bool | None]

class _Target(Protocol):
    def send(self, event: _Event, /) -> object: ...

class _Parser(Protocol):
    def send(self, data: bytes, /) -> object: ...
    def close(self) -> object: ...

class sendable_list(list[_Event]):
    def send(self, event: _Event, /) -> None: ...

class JSONError(Exception): ...
class IncompleteJSONError(JSONError): ...

backend: str

def basic_parse_coro(
    target: _Target,
    *,
    use_float: bool = False,
    multiple_values: bool = False,
    allow_comments: bool = False,
) -> _Parser: ...
