"""Truto's conversational-intelligence interactions from asyncio: typed, streaming, safe to leave running.

    from truto_ci_async import TrutoClient

    async with TrutoClient() as truto:
        async for interaction in truto.interactions.list(account_id, start_time=start, end_time=end):
            print(interaction)

Names are loaded when they are first used (PEP 562): importing the package and its models loads no aiohttp.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from truto_ci_async._http.policy.rate_limiter import Pacing
    from truto_ci_async._http.policy.rate_windows import Rate
    from truto_ci_async._http.policy.retry import RetryPolicy, Timeouts, quick_retries
    from truto_ci_async.models import (
        ROW_COLUMNS,
        AdditionalMetric,
        Capabilities,
        Capability,
        DebugInfo,
        Email,
        IntegratedAccount,
        Integration,
        Interaction,
        Issue,
        Metrics,
        Number,
        Page,
        Position,
        RateLimit,
        RawResponse,
        ResponseInfo,
        User,
    )
    from truto_ci_async.models.pulls import AccountPage, PlannedAccount, Unit, Window
    from truto_ci_async.pagination.paginator import Paginator, RawPages
    from truto_ci_async.pagination.stream import ItemStream
    from truto_ci_async.pull.checkpoint.base import Checkpoint, Progress
    from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
    from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
    from truto_ci_async.pull.commits import PulledPage
    from truto_ci_async.pull.engine import Pull
    from truto_ci_async.pull.plan.plan import Plan
    from truto_ci_async.pull.report import Budget, PullReport
    from truto_ci_async.pull.shard import run_shard
    from truto_ci_async.resources.base import Keyed, Resource
    from truto_ci_async.resources.integrated_accounts import IntegratedAccounts
    from truto_ci_async.resources.interactions import Interactions
    from truto_ci_async.sandbox import Fault, Sandbox
    from truto_ci_async.sinks.base import Sink
    from truto_ci_async.sinks.factory import make_sink
    from truto_ci_async.sinks.files import FileSink
    from truto_ci_async.sinks.lines import CsvSink, NdjsonSink
    from truto_ci_async.sinks.parquet import ParquetSink

    from .client import TrutoClient
    from .errors import (
        AccountBlockedError,
        APIError,
        AuthenticationError,
        BadRequestError,
        BodyTooLargeError,
        ConfigurationError,
        ConnectError,
        CursorExpiredError,
        CursorLoopError,
        DamagedStateError,
        DeadlineError,
        DecodeError,
        MissingExtraError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        ReconnectRequiredError,
        ServerError,
        StateConflictError,
        StorageError,
        TransportError,
        TruncatedBodyError,
        TrutoError,
        UsageError,
    )
    from .events import (
        Event,
        EventHook,
        FieldRepaired,
        PacingWait,
        PageDecoded,
        RequestSent,
        ResponseReceived,
        RetryScheduled,
    )


# Each public name and the module that holds it.
_HOMES = {
    "Pacing": "_http.policy.rate_limiter",
    "Rate": "_http.policy.rate_windows",
    "RetryPolicy": "_http.policy.retry",
    "Timeouts": "_http.policy.retry",
    "quick_retries": "_http.policy.retry",
    "TrutoClient": "client",
    "APIError": "errors",
    "AccountBlockedError": "errors",
    "AuthenticationError": "errors",
    "BadRequestError": "errors",
    "BodyTooLargeError": "errors",
    "ConfigurationError": "errors",
    "ConnectError": "errors",
    "CursorExpiredError": "errors",
    "CursorLoopError": "errors",
    "DamagedStateError": "errors",
    "DeadlineError": "errors",
    "DecodeError": "errors",
    "MissingExtraError": "errors",
    "NotFoundError": "errors",
    "PermissionDeniedError": "errors",
    "RateLimitError": "errors",
    "ReconnectRequiredError": "errors",
    "ServerError": "errors",
    "StateConflictError": "errors",
    "StorageError": "errors",
    "TransportError": "errors",
    "TruncatedBodyError": "errors",
    "TrutoError": "errors",
    "UsageError": "errors",
    "Event": "events",
    "EventHook": "events",
    "FieldRepaired": "events",
    "PacingWait": "events",
    "PageDecoded": "events",
    "RequestSent": "events",
    "ResponseReceived": "events",
    "RetryScheduled": "events",
    "AdditionalMetric": "models",
    "Capabilities": "models",
    "Capability": "models",
    "DebugInfo": "models",
    "Email": "models",
    "IntegratedAccount": "models",
    "Integration": "models",
    "Interaction": "models",
    "Issue": "models",
    "Metrics": "models",
    "Number": "models",
    "Page": "models",
    "Position": "models",
    "ROW_COLUMNS": "models",
    "RateLimit": "models",
    "RawResponse": "models",
    "ResponseInfo": "models",
    "User": "models",
    "AccountPage": "models.pulls",
    "PlannedAccount": "models.pulls",
    "Unit": "models.pulls",
    "Window": "models.pulls",
    "Paginator": "pagination.paginator",
    "RawPages": "pagination.paginator",
    "ItemStream": "pagination.stream",
    "Checkpoint": "pull.checkpoint.base",
    "Progress": "pull.checkpoint.base",
    "MemoryCheckpoint": "pull.checkpoint.memory",
    "SQLiteCheckpoint": "pull.checkpoint.sqlite",
    "Pull": "pull.engine",
    "PulledPage": "pull.commits",
    "Plan": "pull.plan.plan",
    "Budget": "pull.report",
    "PullReport": "pull.report",
    "run_shard": "pull.shard",
    "Keyed": "resources.base",
    "Resource": "resources.base",
    "IntegratedAccounts": "resources.integrated_accounts",
    "Interactions": "resources.interactions",
    "Fault": "sandbox",
    "Sandbox": "sandbox",
    "Sink": "sinks.base",
    "make_sink": "sinks.factory",
    "FileSink": "sinks.files",
    "CsvSink": "sinks.lines",
    "NdjsonSink": "sinks.lines",
    "ParquetSink": "sinks.parquet",
}

__all__ = [
    "APIError",
    "AccountBlockedError",
    "AccountPage",
    "AdditionalMetric",
    "AuthenticationError",
    "BadRequestError",
    "BodyTooLargeError",
    "Budget",
    "Capabilities",
    "Capability",
    "Checkpoint",
    "ConfigurationError",
    "ConnectError",
    "CsvSink",
    "CursorExpiredError",
    "CursorLoopError",
    "DamagedStateError",
    "DeadlineError",
    "DebugInfo",
    "DecodeError",
    "Email",
    "Event",
    "EventHook",
    "Fault",
    "FieldRepaired",
    "FileSink",
    "IntegratedAccount",
    "IntegratedAccounts",
    "Integration",
    "Interaction",
    "Interactions",
    "Issue",
    "ItemStream",
    "Keyed",
    "MemoryCheckpoint",
    "Metrics",
    "MissingExtraError",
    "NdjsonSink",
    "NotFoundError",
    "Number",
    "Pacing",
    "PacingWait",
    "Page",
    "PageDecoded",
    "Paginator",
    "ParquetSink",
    "PermissionDeniedError",
    "Plan",
    "PlannedAccount",
    "Position",
    "Progress",
    "Pull",
    "PullReport",
    "PulledPage",
    "ROW_COLUMNS",
    "Rate",
    "RateLimit",
    "RateLimitError",
    "RawPages",
    "RawResponse",
    "ReconnectRequiredError",
    "RequestSent",
    "Resource",
    "ResponseInfo",
    "ResponseReceived",
    "RetryPolicy",
    "RetryScheduled",
    "SQLiteCheckpoint",
    "Sandbox",
    "ServerError",
    "Sink",
    "StateConflictError",
    "StorageError",
    "Timeouts",
    "TransportError",
    "TruncatedBodyError",
    "TrutoClient",
    "TrutoError",
    "Unit",
    "UsageError",
    "User",
    "Window",
    "__version__",
    "make_sink",
    "quick_retries",
    "run_shard",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
