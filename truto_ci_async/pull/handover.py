"""Hands pages from the workers of a pull to its consumers."""

from __future__ import annotations

from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class Handover(Generic[T]):
    """A bounded stream of pages whose places are reserved before a page is read.

    ``reserve`` a place, read the page, then ``send`` it, or ``give_back`` the place. The place is free again when a
    consumer takes the page.
    """

    def __init__(self, size: int) -> None:
        self._inlet, self._outlet = anyio.create_memory_object_stream[T](size)
        # ``fast_acquire`` saves a turn of the loop, some 10 us a page.
        self._places = anyio.Semaphore(size, fast_acquire=True)
        # Consumers wait for this and not in ``MemoryObjectReceiveStream.receive``: that one loses the page it was
        # given if asyncio (``asyncio.timeout``, ``Task.cancel``) cancels it before it runs again.
        self._arrivals = anyio.Semaphore(0, fast_acquire=True)

    async def reserve(self) -> None:
        """Wait for a free place."""
        await self._places.acquire()

    def give_back(self) -> None:
        """Free a reserved place that is not needed."""
        self._places.release()

    def send(self, page: T) -> None:
        """Put a page into its reserved place."""
        self._inlet.send_nowait(page)
        self._arrivals.release()

    async def receive(self) -> T | None:
        """Wait for the next page; None at the end. A cancellation loses no page."""
        await self._arrivals.acquire()
        try:
            page = self._outlet.receive_nowait()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._arrivals.release()  # for whoever asks next
            return None
        self._places.release()
        return page

    def end(self) -> None:
        """End the stream: consumers still get the pages already in it."""
        self._inlet.close()
        self._arrivals.release()

    def close(self) -> None:
        """Drop the pages that are left."""
        self.end()
        self._outlet.close()
