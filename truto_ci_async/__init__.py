"""Truto's conversational-intelligence interactions from asyncio: typed, streaming, safe to leave running.

    from truto_ci_async import TrutoClient

    async with TrutoClient() as truto:
        async for interaction in truto.interactions.list(account_id, start_time=start, end_time=end):
            print(interaction)

Names are imported on first use (PEP 562), so importing the package or its models does not import aiohttp. `client` is
where calls start, `errors` lists what they raise, `models` what they return, `events` what they report. Folders and
modules with a leading underscore are internal.
"""

from __future__ import annotations

from importlib import import_module

from ._version import __version__ as __version__

TYPE_CHECKING = False  # importing typing would take ten times as long as all of the rest
if TYPE_CHECKING:  # what type checkers see; at run time, ``_NAMES`` says the same
    from ._http.policy.memory_budget import MemoryBudget as MemoryBudget
    from ._http.policy.rate_limiter import Pacing as Pacing
    from ._http.policy.rate_windows import Rate as Rate
    from ._http.policy.retry import RetryPolicy as RetryPolicy
    from ._http.policy.retry import Timeouts as Timeouts
    from ._http.policy.retry import quick_retries as quick_retries
    from ._http.policy.shared_budget import Grant as Grant
    from ._http.policy.shared_budget import SharedBudget as SharedBudget
    from ._http.stats import ClientStats as ClientStats
    from .client import TrutoClient as TrutoClient
    from .errors import *  # noqa: F403
    from .events import *  # noqa: F403
    from .export.frames import to_arrow as to_arrow
    from .export.frames import to_pandas as to_pandas
    from .export.frames import to_polars as to_polars
    from .export.schema import Column as Column
    from .export.schema import Schema as Schema
    from .export.schema import schema as schema
    from .models import *  # noqa: F403
    from .models.names import with_names as with_names
    from .models.pulls import AccountPage as AccountPage
    from .models.pulls import PlannedAccount as PlannedAccount
    from .models.pulls import Unit as Unit
    from .models.pulls import Window as Window
    from .pagination.paginator import Paginator as Paginator
    from .pagination.paginator import RawPages as RawPages
    from .pagination.stream import ItemStream as ItemStream
    from .pull.checkpoint.base import Checkpoint as Checkpoint
    from .pull.checkpoint.base import Key as Key
    from .pull.checkpoint.base import Progress as Progress
    from .pull.checkpoint.base import plan_in_force as plan_in_force
    from .pull.checkpoint.memory import MemoryCheckpoint as MemoryCheckpoint
    from .pull.checkpoint.sqlite import SQLiteCheckpoint as SQLiteCheckpoint
    from .pull.commits import PulledPage as PulledPage
    from .pull.coordinator import Coordinator as Coordinator
    from .pull.engine import Pull as Pull
    from .pull.plan.plan import Plan as Plan
    from .pull.report import Budget as Budget
    from .pull.report import PullReport as PullReport
    from .pull.report import PullReports as PullReports
    from .pull.report import ShardReports as ShardReports
    from .pull.shard import run_shard as run_shard
    from .pull.shards import pull_plan as pull_plan
    from .pull.stores.base import ReadWindow as ReadWindow
    from .pull.stores.base import SyncChanges as SyncChanges
    from .pull.stores.base import SyncStore as SyncStore
    from .pull.stores.base import TransactionalStore as TransactionalStore
    from .pull.stores.cloud import CloudStore as CloudStore
    from .pull.stores.duckdb import DuckDBStore as DuckDBStore
    from .pull.stores.postgres import PostgresStore as PostgresStore
    from .pull.worker_facts import WorkerFacts as WorkerFacts
    from .reports import charts as charts
    from .reports.read_folder import Folder as Folder
    from .reports.read_folder import read_folder as read_folder
    from .reports.report_page import report as report
    from .resources.activity import Activities as Activities
    from .resources.base import Resource as Resource
    from .resources.integrated_accounts import IntegratedAccounts as IntegratedAccounts
    from .resources.interactions import Interactions as Interactions
    from .resources.keyed import Keyed as Keyed
    from .resources.meetings import Meetings as Meetings
    from .resources.pull_resources import pull_resources as pull_resources
    from .resources.transcripts import Transcripts as Transcripts
    from .resources.users import Users as Users
    from .sandbox import Fault as Fault
    from .sandbox import Sandbox as Sandbox
    from .sinks.base import Sink as Sink
    from .sinks.factory import make_sink as make_sink
    from .sinks.files import FileSink as FileSink
    from .sinks.lines import CsvSink as CsvSink
    from .sinks.lines import NdjsonSink as NdjsonSink
    from .sinks.merge import merge_manifests as merge_manifests
    from .sinks.parquet import ParquetSink as ParquetSink

_NAMES = {
    "_http.policy.memory_budget": "MemoryBudget",
    "_http.policy.rate_limiter": "Pacing",
    "_http.policy.rate_windows": "Rate",
    "_http.policy.retry": "RetryPolicy Timeouts quick_retries",
    "_http.policy.shared_budget": "Grant SharedBudget",
    "_http.stats": "ClientStats",
    "client": "TrutoClient",
    "errors": "APIError AccountBlockedError AuthenticationError BadRequestError BodyTooLargeError ConfigurationError "
    "ConnectError CursorExpiredError CursorLoopError DamagedStateError DeadlineError DecodeError MissingExtraError "
    "NotFoundError PermissionDeniedError RateLimitError ReconnectRequiredError ServerError StateConflictError "
    "StorageError TransportError TruncatedBodyError TrutoError UsageError",
    "events": "CallEnded CallStarted Event EventHook FieldRepaired PacingWait PageDecoded PullCommitted PullEnded "
    "PullStarted RequestSent ResponseReceived RetryScheduled UnknownFields WindowDiffers",
    "export.frames": "to_arrow to_pandas to_polars",
    "export.schema": "Column Schema schema",
    "models": "ROW_COLUMNS Activity ActivityMetrics AdditionalMetric Attendee Capabilities Capability DebugInfo Email "
    "IntegratedAccount Integration Interaction Issue Meeting MeetingRef MethodSchema Metrics Number Page Person "
    "Position ProxyCapability ProxyMethod RateLimit RawResponse ResponseInfo Sentence SentenceRow Transcript "
    "User",
    "models.names": "with_names",
    "models.pulls": "AccountPage PlannedAccount Unit Window",
    "pagination.paginator": "Paginator RawPages",
    "pagination.stream": "ItemStream",
    "pull.checkpoint.base": "Checkpoint Key Progress plan_in_force",
    "pull.checkpoint.memory": "MemoryCheckpoint",
    "pull.checkpoint.sqlite": "SQLiteCheckpoint",
    "pull.commits": "PulledPage",
    "pull.coordinator": "Coordinator",
    "pull.engine": "Pull",
    "pull.plan.plan": "Plan",
    "pull.report": "Budget PullReport PullReports ShardReports",
    "pull.shard": "run_shard",
    "pull.shards": "pull_plan",
    "pull.stores.base": "ReadWindow SyncChanges SyncStore TransactionalStore",
    "pull.stores.cloud": "CloudStore",
    "pull.stores.duckdb": "DuckDBStore",
    "pull.stores.postgres": "PostgresStore",
    "pull.worker_facts": "WorkerFacts",
    "reports": "charts",
    "reports.read_folder": "Folder read_folder",
    "reports.report_page": "report",
    "resources.activity": "Activities",
    "resources.base": "Resource",
    "resources.integrated_accounts": "IntegratedAccounts",
    "resources.interactions": "Interactions",
    "resources.keyed": "Keyed",
    "resources.meetings": "Meetings",
    "resources.pull_resources": "pull_resources",
    "resources.transcripts": "Transcripts",
    "resources.users": "Users",
    "sandbox": "Fault Sandbox",
    "sinks.base": "Sink",
    "sinks.factory": "make_sink",
    "sinks.files": "FileSink",
    "sinks.lines": "CsvSink NdjsonSink",
    "sinks.merge": "merge_manifests",
    "sinks.parquet": "ParquetSink",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

if (
    not TYPE_CHECKING
):  # type checkers cannot follow a computed ``__all__``, and with ``__getattr__`` accept any name
    __all__ = sorted([*_MODULES, "__version__"])

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
