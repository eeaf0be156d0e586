"""Hands pages from the workers of a pull to its consumers, or to what writes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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

    async def send(self, page: T) -> None:
        """Put a page into its reserved place, without waiting."""
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


class DirectWriting(Generic[T]):
    """Has each page written by the worker that read it, one page at a time: a ``Handover`` without consumers.

    No page waits for a turn of the loop, neither for its consumer nor for a place, unless ``write`` itself waits.
    """

    def __init__(self, write: Callable[[T], Awaitable[object]]) -> None:
        self._write = write
        self._is_free = True
        # Whoever waits is woken once, and then all of them go on in one turn of the loop if ``write`` does not wait. A
        # lock that is passed on to the next in line would have every page wait from the first time on.
        self._freed = asyncio.Event()
        self._ended = asyncio.Event()

    async def reserve(self) -> None:
        """Wait until no other page is read or written."""
        while not self._is_free:
            self._freed.clear()
            await self._freed.wait()
        self._is_free = False

    def give_back(self) -> None:
        """Let another page be read."""
        self._is_free = True
        self._freed.set()

    async def send(self, page: T) -> None:
        """Write a page.

        :raises Exception: what ``write`` raises.
        """
        try:
            await self._write(page)
        finally:
            self.give_back()

    async def receive(self) -> None:
        """Wait for the end."""
        await self._ended.wait()

    def end(self) -> None:
        """End the wait: all pages are written."""
        self._ended.set()

    close = end
