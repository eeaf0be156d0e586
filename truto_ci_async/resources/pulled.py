"""``PulledResource``: the methods of a resource that pull many accounts at once.

The code of pulls is imported when one is started: it brings sqlite3, and many callers never need it.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from truto_ci_async._checks import brief
from truto_ci_async._wire.filters import UserFilter
from truto_ci_async._wire.item_reader import OnInvalid
from truto_ci_async._wire.query_string import ObjectArrays
from truto_ci_async._wire.times import When
from truto_ci_async.errors import UsageError
from truto_ci_async.pagination.progress import show_progress

from .base import Resource

if TYPE_CHECKING:
    from truto_ci_async._progress import Counts, Progress
    from truto_ci_async.pull.checkpoint.base import Checkpoint
    from truto_ci_async.pull.engine import CommitMode, Pull
    from truto_ci_async.pull.plan.accounts import Accounts
    from truto_ci_async.pull.plan.bounds import WindowLength
    from truto_ci_async.pull.plan.plan import Plan, PlanFormat, PlanOptions
    from truto_ci_async.pull.report import Budget, PullReport
    from truto_ci_async.pull.stores.base import TransactionalStore
    from truto_ci_async.pull.stores.landing import LandingMode, OnRejected
    from truto_ci_async.pull.sync.options import Since, SyncOptions, TimeZone
    from truto_ci_async.sinks.base import Sink
    from truto_ci_async.sinks.factory import OutputFormat
    from truto_ci_async.sinks.rows import CsvFormulas


T = TypeVar("T")
S = TypeVar("S")


class PulledResource(Resource[T]):
    """A resource with plans and pulls. Its items are of type ``T``."""

    async def plan(
        self,
        accounts: Accounts | None = None,
        *,
        start_time: When | None = None,
        end_time: When | None = None,
        window: WindowLength | None = None,
        integration: str | None = None,
        status: str | None = None,
        users: Iterable[UserFilter] | None = None,
        limit: int | None = None,
        response_format: PlanFormat | None = None,
        ignore_limit: bool | None = None,
        ignore_remote_data: bool | None = None,
        exclude_fields: Iterable[str] | None = None,
        super_query: str | None = None,
        skip_api_call: bool | None = None,
        remote_query: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays | None = None,
        now: datetime | None = None,
        allow_empty: bool = False,
    ) -> Plan:
        """Fix what a pull asks for: accounts, absolute times, windows and filters.

            plan = await truto.interactions.plan(integration="gong", start_time="-30d", window="day")

        ``accounts``             ids, IntegratedAccounts or dicts with an ``id``, in any iterable or async iterable;
                                 or a ``Path`` to a file with one id, or one JSON object, per line. None: discover
                                 them by ``integration`` and ``status``.
        ``allow_empty``          True: a plan without accounts is fine. Otherwise it is an error, which names the
                                 integrations and statuses there are.
        ``start_time, end_time`` as for ``list``. ``end_time`` defaults to now. The clock is read once.
        ``window``               ``day``, ``week``, ``month`` or a timedelta: ask for a series of windows, oldest first,
                                 whose rows are never merged. None: one window.

        ``integration, status``  look up the accounts that have these, instead of passing some.
        ``now``                  replaces the clock, and its time zone is that of ``today``.

        The filters are those of ``list``: ``users``, ``limit``, ``response_format``, ``ignore_limit``,
        ``ignore_remote_data``, ``exclude_fields``, ``super_query``, ``skip_api_call``, ``remote_query``,
        ``extra_query`` and ``object_arrays``. None: not given.

        :raises UsageError: an argument that can never be right, or no account.
        """
        options = plan_options(locals())
        from truto_ci_async.pull.plan.resolve import resolve

        from .integrated_accounts import IntegratedAccounts

        discover = IntegratedAccounts(self._client).list
        return await resolve(discover, accounts, resource=self._resource, **options)

    # fmt: off
    @overload
    def pull(
        self, plan_or_accounts: Plan | Accounts | None = None, *, start_time: When | None = None,
        end_time: When | None = None, window: WindowLength | None = None, integration: str | None = None,
        status: str | None = None, users: Iterable[UserFilter] | None = None,
        checkpoint: Checkpoint | None = None, commit: CommitMode = "auto",
        lookback: timedelta | str | None = None, on_invalid: OnInvalid = "repair", grow: bool = False,
        fresh: bool = False, budget: Budget | None = None, max_accounts: int = 32, limit: int | None = None,
        response_format: PlanFormat | None = None, ignore_limit: bool | None = None,
        ignore_remote_data: bool | None = None, exclude_fields: Iterable[str] | None = None,
        super_query: str | None = None, skip_api_call: bool | None = None,
        remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays | None = None, now: datetime | None = None, allow_empty: bool = False,
    ) -> Pull[T]: ...
    @overload
    def pull(
        self, plan_or_accounts: Plan | Accounts | None = None, *, item_type: type[S],
        start_time: When | None = None, end_time: When | None = None, window: WindowLength | None = None,
        integration: str | None = None, status: str | None = None, users: Iterable[UserFilter] | None = None,
        checkpoint: Checkpoint | None = None, commit: CommitMode = "auto",
        lookback: timedelta | str | None = None, on_invalid: OnInvalid = "repair", grow: bool = False,
        fresh: bool = False, budget: Budget | None = None, max_accounts: int = 32, limit: int | None = None,
        response_format: PlanFormat | None = None, ignore_limit: bool | None = None,
        ignore_remote_data: bool | None = None, exclude_fields: Iterable[str] | None = None,
        super_query: str | None = None, skip_api_call: bool | None = None,
        remote_query: Mapping[str, Any] | None = None, extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays | None = None, now: datetime | None = None, allow_empty: bool = False,
    ) -> Pull[S]: ...
    # fmt: on
    def pull(
        self,
        plan_or_accounts: Plan | Accounts | None = None,
        *,
        start_time: When | None = None,
        end_time: When | None = None,
        window: WindowLength | None = None,
        integration: str | None = None,
        status: str | None = None,
        users: Iterable[UserFilter] | None = None,
        item_type: Any = None,
        checkpoint: Checkpoint | None = None,
        commit: CommitMode = "auto",
        lookback: timedelta | str | None = None,
        on_invalid: OnInvalid = "repair",
        grow: bool = False,
        fresh: bool = False,
        budget: Budget | None = None,
        max_accounts: int = 32,
        limit: int | None = None,
        response_format: PlanFormat | None = None,
        ignore_limit: bool | None = None,
        ignore_remote_data: bool | None = None,
        exclude_fields: Iterable[str] | None = None,
        super_query: str | None = None,
        skip_api_call: bool | None = None,
        remote_query: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays | None = None,
        now: datetime | None = None,
        allow_empty: bool = False,
    ) -> Pull[Any]:
        """Pull many accounts at once. Returns an async context manager that gives a bounded stream of AccountPages.

            async with truto.interactions.pull(account_ids, start_time="-7d") as pages:
                async for page in pages:
                    store(page.account.id, page.page.items)
            print(pages.report)

        ``checkpoint``    where progress is kept, such as ``SQLiteCheckpoint(path)``; None keeps it in memory.
        ``max_accounts``  accounts fetched at once; ``budget`` sets this and how long to wait during an outage.
        ``commit``        ``auto``: asking for the next page marks the previous one as done (one consumer);
                          ``manual``: call ``commit()`` on each page (any number of consumers), which waits for the
                          earlier pages of its account.
        ``grow``          add accounts that are new since the stored plan; ``fresh`` discards stored progress.
        ``lookback``      of transcripts: see ``truto.transcripts``.

        ``item_type, on_invalid`` are those of ``list``.

        ``plan_or_accounts`` is a Plan, or accounts as for ``plan``, whose options then go here.
        """
        options = plan_options(locals())
        from truto_ci_async.pull.engine import Pull
        from truto_ci_async.pull.report import Budget

        return Pull(
            self._client,
            self.planned(plan_or_accounts, options),
            checkpoint=checkpoint,
            budget=Budget.of(budget, max_accounts),
            commit=commit,
            item_type=item_type or self._item_type,
            on_invalid=on_invalid,
            grow=grow,
            fresh=fresh,
            lookback=lookback,
        )

    async def pull_to(
        self,
        out: str | os.PathLike[str] | TransactionalStore,
        plan_or_accounts: Plan | Accounts | None = None,
        *,
        start_time: When | None = None,
        end_time: When | None = None,
        window: WindowLength | None = None,
        integration: str | None = None,
        status: str | None = None,
        users: Iterable[UserFilter] | None = None,
        format: OutputFormat = "ndjson",
        csv_formulas: CsvFormulas = "keep",
        table: str | None = None,
        mode: LandingMode | None = None,
        add_columns: bool = False,
        on_rejected: OnRejected = "stop",
        since: Since | None = None,
        max_history: When | None = None,
        keep_missing: bool = False,
        time_zone: TimeZone | None = None,
        lookback: timedelta | str | None = None,
        on_invalid: OnInvalid = "repair",
        grow: bool = False,
        fresh: bool = False,
        budget: Budget | None = None,
        max_accounts: int = 32,
        on_start: Callable[[Pull[Any]], None] | None = None,
        progress: bool | None = None,
        limit: int | None = None,
        response_format: PlanFormat | None = None,
        ignore_limit: bool | None = None,
        ignore_remote_data: bool | None = None,
        exclude_fields: Iterable[str] | None = None,
        super_query: str | None = None,
        skip_api_call: bool | None = None,
        remote_query: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        object_arrays: ObjectArrays | None = None,
        now: datetime | None = None,
        allow_empty: bool = False,
    ) -> PullReport:
        """Pull many accounts into a folder, a database or object storage. Run it again to continue where it stopped.

            report = await truto.interactions.pull_to("data/", account_ids, start_time="-7d", format="ndjson")
            report = await truto.interactions.pull_to("postgresql://user@host/db", account_ids, start_time="-7d")

        ``out`` is the path of a folder, a URL (``postgresql://...``, ``duckdb:///file.db``,
        ``s3://bucket/prefix``), or a ``TransactionalStore``;
        ``plan_or_accounts`` is a Plan, or accounts as for ``plan``, with its options.

        ``format`` is ``ndjson``, ``csv`` or ``parquet``. Each row has its account, the account's tenant, the window and
        when it was pulled; ``read_folder`` reads them. ``csv_formulas="escape"`` puts ``'`` before text in CSV that a
        spreadsheet would take for a formula. Output and progress are committed together. If the process is killed, run
        it again until ``report.complete``: nothing is lost or written twice. NDJSON writes items as received, so
        ``on_invalid`` has no effect there; those of another kind are counted in ``report.issues``. ``on_start`` is
        called with the running pull: watch its ``report``, or end it with ``stop()``. ``progress`` shows a line that
        says how far it is: None in a notebook only, True always, False never. The rest is as for ``pull``.

        Into a database go the rows of ``table``, by default the name of the resource. ``mode="append"``, the default,
        adds rows; ``"merge"`` replaces those with the same key. ``add_columns`` and ``on_rejected`` are those of
        ``PostgresStore``.

        ``since="last"`` syncs a table of a database, or a prefix of object storage: ask what is new since the last
        sync, and again the windows that ended up to ``lookback`` (``2d``) before. A window that was read to its end
        takes the place of what is there of it, so rows that are gone at the provider go there too, unless
        ``keep_missing``. ``window`` is ``day``, ``week`` or ``month`` in the ``time_zone`` of the account: a name, a
        dict by account id, or a function of the account; UTC if it is not known. ``max_history`` is how far back a new
        account begins: a length or a time. Users have no windows: they are read whole, whatever those say.

        :raises UsageError: an option that ``out`` does not have, a URL that nothing is known of, or a file in the place
            of the folder.
        :raises StateConflictError: another run holds ``out``, it belongs to another plan, or the table does not fit.
        :raises StorageError: the disk or the database failed; a later run continues.
        :raises AuthenticationError: the token was rejected.
        """
        options = plan_options(locals())
        from truto_ci_async.pull.plan.plan import Plan
        from truto_ci_async.pull.plan.resolve import draft_plan
        from truto_ci_async.pull.report import Budget
        from truto_ci_async.pull.shard import run_shard
        from truto_ci_async.pull.stores.base import TransactionalStore
        from truto_ci_async.pull.stores.targets import is_url, store_for

        store: Checkpoint | TransactionalStore
        sink: Sink | None = None
        sync = self._sync_of(
            since,
            plan_or_accounts,
            options,
            grow=grow,
            lookback=lookback,
            max_history=max_history,
            keep_missing=keep_missing,
            time_zone=time_zone,
        )
        if sync is not None:
            lookback = None
            if mode is None and is_url(out):
                mode = "merge"
        landing: dict[str, Any] = {
            name: value
            for name, value, default in (
                ("table", table, None),
                ("mode", mode, None),
                ("add_columns", add_columns, False),
                ("on_rejected", on_rejected, "stop"),
            )
            if value != default
        }
        is_folder = isinstance(out, str | os.PathLike) and not is_url(out)
        if sync is not None and is_folder:
            raise UsageError("since is for a database or object storage: a folder has no rows to replace")
        if not is_folder and (format != "ndjson" or csv_formulas != "keep"):
            raise UsageError("format and csv_formulas are for a folder")
        planned = self.planned(plan_or_accounts, options)
        if not isinstance(planned, Plan):  # what can never be right is told before a database is made
            of_accounts = ("integration", "status", "allow_empty")
            others: Any = {name: value for name, value in options.items() if name not in of_accounts}
            draft_plan(self._resource, **others)
        if is_url(out):
            store = store_for(out, resource=self._resource, is_sync=sync is not None, **landing)
        elif landing:
            raise UsageError(
                f"{', '.join(landing)}: for the URL of a database; a folder or a store has no such option"
            )
        elif isinstance(out, str | os.PathLike):
            store, sink = self._folder(
                out, plan_or_accounts, format=format, fresh=fresh, csv_formulas=csv_formulas
            )
        elif isinstance(out, TransactionalStore):
            store = out
        else:
            raise UsageError(f"{brief(out)} is neither a folder, a URL nor a TransactionalStore")
        with show_progress(progress, self._client.emitter, what="rows") as line:
            return await run_shard(
                self._client,
                planned,
                store,
                sink,
                Budget.of(budget, max_accounts),
                on_invalid=on_invalid,
                grow=grow,
                fresh=fresh,
                lookback=lookback,
                on_start=on_start if line is None else _follow(line, on_start),
                sync=sync,
            )

    def _folder(
        self,
        out: str | os.PathLike[str],
        plan_or_accounts: Plan | Accounts | None,
        *,
        format: OutputFormat,
        fresh: bool,
        csv_formulas: CsvFormulas,
    ) -> tuple[Checkpoint, Sink]:
        """Return what keeps progress and rows in a folder."""
        from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
        from truto_ci_async.sinks.factory import make_sink
        from truto_ci_async.sinks.layout import state_file

        folder = checked_folder(out, plan_or_accounts)
        sink = make_sink(format, folder, resource=self._resource, fresh=fresh, csv_formulas=csv_formulas)
        return SQLiteCheckpoint(folder / state_file(self._resource)), sink

    def _sync_of(
        self, since: object, plan_or_accounts: object, options: PlanOptions, *, grow: bool, **given: Any
    ) -> SyncOptions | None:
        """Return the options of a sync, and leave in ``options`` what is for the plan; None: it is none.

        :raises UsageError: an option is for the other.
        """
        from truto_ci_async.pull.plan.plan import Plan
        from truto_ci_async.pull.sync.options import sync_options
        from truto_ci_async.pull.walks import walk_of

        if since is None:
            if others := [name for name in ("max_history", "keep_missing", "time_zone") if given[name]]:
                raise UsageError(f"{', '.join(others)}: for a sync, with since='last'")
            return None
        if isinstance(plan_or_accounts, Plan):
            raise UsageError("a plan has its windows, and a sync finds out which: pass accounts instead")
        if times := [name for name in ("start_time", "end_time") if options.get(name) is not None]:
            raise UsageError(
                f"{', '.join(times)}: a sync goes on where the last one ended; max_history says how far back it begins"
            )
        if grow:
            raise UsageError("grow: a sync looks accounts up anew each time")
        now = options["now"] = options.get("now") or datetime.now(UTC)
        if not walk_of(self._resource).takes_window:
            return sync_options(since=since, now=now, **given)  # and a window is refused by the plan
        options["start_time"] = now - timedelta(days=1)  # filters are checked by a window like those to come
        return sync_options(since=since, window=options.pop("window", None), now=now, **given)

    def planned(
        self, plan_or_accounts: Plan | Accounts | None, options: PlanOptions
    ) -> Plan | Callable[[Plan | None], Awaitable[Plan]]:
        """Return the plan, or what makes one once the stored plan is known."""
        from truto_ci_async.pull.plan.plan import Plan
        from truto_ci_async.pull.plan.resolve import resolve

        from .integrated_accounts import IntegratedAccounts

        if isinstance(plan_or_accounts, Plan):
            if given := sorted(options.keys() - {"allow_empty"}):
                raise UsageError(f"a plan fixes all filters: {', '.join(given)} cannot be given as well")
            if plan_or_accounts.resource != self._resource:
                raise UsageError(
                    f"this is a plan of {plan_or_accounts.resource}: pull it with truto.{plan_or_accounts.resource}"
                )
            return plan_or_accounts

        async def make(stored: Plan | None) -> Plan:
            known = None if stored is None else stored.accounts
            return await resolve(
                IntegratedAccounts(self._client).list,
                plan_or_accounts,
                resource=self._resource,
                known=known,
                **options,
            )

        return make


def plan_options(given: Mapping[str, Any]) -> PlanOptions:
    """Return those of the arguments of a method that are options of a plan, and were given."""
    from truto_ci_async.pull.plan.plan import PLAN_OPTIONS

    return cast("PlanOptions", {name: given[name] for name in PLAN_OPTIONS if given[name] is not None})


def _follow(line: Progress, on_start: Callable[[Pull[Any]], None] | None) -> Callable[[Pull[Any]], None]:
    """Have the line say what the report of a pull says, from its start on."""
    from truto_ci_async._progress import Counts

    def start(pull: Pull[Any]) -> None:
        report = pull.report

        def counts() -> Counts:
            failed = f", {len(report.failed):,} failed" if report.failed else ""
            parked = f", {len(report.parked):,} parked" if report.parked else ""
            accounts = f"{report.done:,} of {report.accounts:,} accounts{failed}{parked}"
            return Counts(report.rows, report.pages, accounts)

        line.follow(counts)
        if on_start is not None:
            on_start(pull)

    return start


def checked_folder(out: str | os.PathLike[str], accounts: object) -> pathlib.Path:
    """Return the folder of a pull.

    :raises UsageError: a file has its name, or that of a folder above it; or a pull into it may replace or remove the
        file of ``accounts``.
    """
    from truto_ci_async.sinks.layout import is_used_by_pulls

    if not os.fspath(out):
        raise UsageError("the name of the folder is empty")
    folder = pathlib.Path(out)
    for path in (folder, *folder.parents):
        if os.path.exists(path) and not os.path.isdir(path):
            raise UsageError(f"{path} is a file, and a pull needs a folder: use another name")
    if isinstance(accounts, pathlib.Path) and is_used_by_pulls(accounts.resolve(), folder.resolve()):
        raise UsageError(f"{accounts} has a name that the pull into {folder} uses itself: move it elsewhere")
    return folder
