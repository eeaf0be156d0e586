"""The iterators that an ``ItemStream`` hands out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from truto_ci_async.export.column_values import Part
from truto_ci_async.export.walks import FetchedPart

T = TypeVar("T")


class Readable(Protocol[T]):
    """What the iterators need from a stream. Each method returns None at the end."""

    async def next_items(self) -> Iterator[T] | None: ...
    async def next_batch(self) -> list[T] | None: ...
    async def next_chunk(self) -> bytes | None: ...


class Items(Generic[T]):
    __slots__ = ("_next", "_stream")

    def __init__(self, stream: Readable[T]) -> None:
        self._stream = stream
        self._next: Callable[[], T] = iter(()).__next__

    def __aiter__(self) -> Items[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            try:
                return self._next()
            except StopIteration:
                items = await self._stream.next_items()
                if items is None:
                    raise StopAsyncIteration from None
                self._next = items.__next__


class Batches(Generic[T]):
    __slots__ = ("_stream",)

    def __init__(self, stream: Readable[T]) -> None:
        self._stream = stream

    def __aiter__(self) -> Batches[T]:
        return self

    async def __anext__(self) -> list[T]:
        batch = await self._stream.next_batch()
        if batch is None:
            raise StopAsyncIteration
        return batch


class Chunks:
    __slots__ = ("_stream",)

    def __init__(self, stream: Readable[Any]) -> None:
        self._stream = stream

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._stream.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


class StreamParts:
    """The items of a stream, for Arrow and data frames."""

    lead = None

    def __init__(self, stream: Readable[Any], item_type: Any) -> None:
        self.item_type = item_type
        self._stream = stream

    async def next_part(self) -> FetchedPart | None:
        items = await self._stream.next_batch()
        return None if items is None else FetchedPart(Part(items))

    def release(self, pages: Sequence[Any]) -> None:
        """Do nothing: there is nothing to mark."""
