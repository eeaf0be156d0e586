"""A web service over one client: pages as JSON, a walk as a stream of lines, and health.

    pip install 'truto-ci-async' fastapi uvicorn
    TRUTO_API_TOKEN=... uvicorn examples.fastapi_app:app

``/accounts/ID/interactions?start_time=-7d`` is a page, ``/accounts/ID/interactions.ndjson?start_time=-7d`` all pages.
A slow reader slows down the walk, of which two pages at most are in memory; a reader that leaves ends it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from truto_ci_async import (
    APIError,
    CursorExpiredError,
    Interaction,
    NotFoundError,
    Page,
    RateLimitError,
    Timeouts,
    TrutoClient,
    TrutoError,
    UsageError,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with TrutoClient(timeouts=Timeouts(total=20.0)) as truto:
        app.state.truto = truto
        yield


app = FastAPI(lifespan=lifespan)


def client(request: Request) -> TrutoClient:
    truto: TrutoClient = request.app.state.truto
    return truto


Client = Annotated[TrutoClient, Depends(client)]


@app.exception_handler(TrutoError)
async def failed(request: Request, error: TrutoError) -> Response:
    """What went wrong in words of HTTP. The message of a UsageError is for whoever called this service."""
    status, headers = 502, {}
    if isinstance(error, UsageError):
        status = 422
    elif isinstance(error, NotFoundError):
        status = 404
    elif isinstance(error, CursorExpiredError):  # of the position that the caller passed: begin again without
        status = 410
    elif isinstance(error, RateLimitError):
        status, headers = 503, {"Retry-After": f"{error.retry_after or 1:.0f}"}
    detail = error.error if isinstance(error, APIError) else str(error)
    return JSONResponse({"error": type(error).__name__, "detail": detail}, status, headers)


@app.get("/accounts/{account}/interactions")
async def one_page(
    truto: Client, account: str, start_time: str, end_time: str = "now", position: str | None = None
) -> Page[Interaction]:
    """The annotation makes FastAPI write the page as JSON; pass its ``position`` to get the next one."""
    return await truto.interactions.list(account, start_time=start_time, end_time=end_time, cursor=position)


@app.get("/accounts/{account}/interactions.ndjson")
async def all_pages(truto: Client, account: str, start_time: str, end_time: str = "now") -> Response:
    pages = aiter(truto.interactions.list(account, start_time=start_time, end_time=end_time).pages())
    first = await anext(pages)  # before the response begins, so that an error has a status

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield b"".join(item.to_json() + b"\n" for item in first)
            async for page in pages:
                yield b"".join(item.to_json() + b"\n" for item in page)
        finally:  # the reader may be gone
            await pages.aclose()

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@app.get("/healthz")
async def healthz(truto: Client) -> Response:
    """Healthy: the process answers, and its client takes calls. ``retry_budget`` falls when the service fails."""
    stats = truto.stats()
    return JSONResponse(
        {
            "open_calls": stats.open_calls,
            "waiting": stats.waiting,
            "paused": stats.paused,
            "retry_budget": stats.retry_budget,
        },
        status_code=503 if stats.is_closed else 200,
    )


@app.get("/readyz")
async def readyz(truto: Client) -> Response:
    """Ready: a new call would not wait long, and its retries would not be refused."""
    stats = truto.stats()
    is_ready = not stats.is_closed and stats.paused < 5 and stats.retry_budget >= 1
    return Response(status_code=200 if is_ready else 503)
