"""A data source for Spark 4: resources of many accounts as typed data frames, a partition for each shard of the plan.

    from truto_ci_async.integrations.spark import register

    register(spark)
    frame = spark.read.format("truto").options(resource="meetings", integration="gong", start_time="-7d").load()

How it works. The plan is made once, when Spark plans the query: accounts are looked up and relative times resolved.
Each partition is a shard of it, read whole by one task. A task that fails, or whose Python worker is killed, is run
again by Spark from the start of its shard, and its rows count only once it has ended.

The token is the option ``token``, or ``TRUTO_API_TOKEN`` where the tasks run; it is not part of the plan. The classes
of Spark are made in a function, so that nothing but ``register`` needs pyspark.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from importlib import import_module
from typing import Any, Final

from anyio.from_thread import start_blocking_portal

from truto_ci_async import (
    MissingExtraError,
    Pacing,
    Plan,
    Rate,
    TrutoClient,
    TrutoError,
    UsageError,
    schema,
)

logger = logging.getLogger("truto_ci_async")

#: Names as Spark gives them, in small letters, and what is meant by those that are missing.
OPTIONS: Final = {
    "resource": "interactions",
    "accounts": "",  # ids, with commas between them
    "integration": "",
    "status": "",
    "start_time": "",
    "end_time": "",
    "window": "",
    "ignore_remote_data": "false",
    "shards": "4",
    "max_accounts": "32",
    "on_failed": "raise",  # or skip
    "token": "",
    "base_url": "",
}
_LEAD: Final = {
    "integrated_account_id": "STRING",
    "tenant_id": "STRING",
    "window_start": "TIMESTAMP",
    "window_end": "TIMESTAMP",
    "pulled_at": "TIMESTAMP",
}
_TYPES: Final = {
    "text": "STRING",
    "json": "STRING",
    "float64": "DOUBLE",
    "int64": "BIGINT",
    "timestamp": "TIMESTAMP",
    "bool": "BOOLEAN",
}


def register(spark: Any) -> None:
    """Make ``spark.read.format("truto")`` known to a session.

    ``resource``       interactions, meetings, users, transcripts or activity.
    ``accounts``       ids, with commas between them; or ``integration`` and ``status``, to look them up.
    ``start_time, end_time, window``  as for ``plan``; ``window`` is day, week or month.
    ``ignore_remote_data``  true leaves out the provider's own record.
    ``shards``         into how many partitions the accounts are put, 4 by default.
    ``max_accounts``   how many accounts a task asks at the same time, 32 by default.
    ``on_failed``      for accounts that cannot be read: ``raise``, or ``skip``, which logs them.
    ``token, base_url``  by default those of the environment of the tasks.

    Each shard keeps to its part of the token's rate, so that all of them may run at once.

    :raises MissingExtraError: pyspark is not installed.
    """
    source = data_source()
    spark.dataSource.register(source)


def data_source() -> type[Any]:
    """Return the class that ``spark.dataSource.register`` takes.

    :raises MissingExtraError: pyspark, or pyarrow, is not installed.
    """
    try:
        base: Any = import_module("pyspark.sql.datasource")
        import_module("pyarrow")
    except ImportError:
        raise MissingExtraError("pyspark", "spark") from None

    class TrutoReader(base.DataSourceReader):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self, options: dict[str, str]) -> None:
            self.options = options

        def partitions(self) -> list[Any]:
            return [base.InputPartition(shard) for shard in plan_shards(self.options)]

        def read(self, partition: Any) -> Iterator[Any]:
            return read_shard(self.options, partition.value)

    class TrutoDataSource(base.DataSource):  # type: ignore[misc, name-defined, unused-ignore]
        @classmethod
        def name(cls) -> str:
            return "truto"

        def schema(self) -> str:
            return columns_of(checked(self.options)["resource"])

        def reader(self, schema: Any) -> TrutoReader:
            return TrutoReader(checked(self.options))

    return TrutoDataSource


def checked(given: Mapping[str, str]) -> dict[str, str]:
    """Return all options.

    :raises UsageError: there is no such option, or it can never be right.
    """
    if unknown := given.keys() - OPTIONS.keys():
        raise UsageError(f"unknown options: {', '.join(sorted(unknown))}; there are {', '.join(OPTIONS)}")
    options = {**OPTIONS, **given}
    for name in ("shards", "max_accounts"):
        if not re.fullmatch("0*[1-9][0-9]{0,8}", options[name]):
            raise UsageError(f"{name} is a whole number of at least 1, not {options[name]!r}")
    for name, values in (("ignore_remote_data", ("true", "false")), ("on_failed", ("raise", "skip"))):
        if options[name] not in values:
            raise UsageError(f"{name} is {' or '.join(values)}, not {options[name]!r}")
    return options


def columns_of(resource: str) -> str:
    """Return the columns of a resource as Spark's DDL, led by those of a pull.

    :raises UsageError: there is no such resource.
    """
    own = {
        each.name: _TYPES[each.type] for each in schema(Plan(accounts=(), resource=resource).walk.item_type)
    }
    return ", ".join(f"{name} {type}" for name, type in {**_LEAD, **own}.items())


def plan_shards(options: Mapping[str, str]) -> list[str]:
    """Return the shards that have accounts, as JSON."""
    asked: dict[str, Any] = {
        name: options[name]
        for name in ("integration", "status", "start_time", "end_time", "window")
        if options[name]
    }
    if options["ignore_remote_data"] == "true":
        asked["ignore_remote_data"] = True
    accounts = [each.strip() for each in options["accounts"].split(",") if each.strip()]

    async def make() -> Plan:
        async with _client(options) as truto:
            plan: Plan = await getattr(truto, options["resource"]).plan(accounts or None, **asked)
            return plan

    with start_blocking_portal() as portal:
        plan = portal.call(make)
    return [shard.to_json() for shard in plan.shards(int(options["shards"])) if shard.accounts]


def read_shard(options: Mapping[str, str], text: str | None) -> Iterator[Any]:
    """Read one shard to its end, as batches of pyarrow.

    The event loop runs in a thread of its own: requests go on while Spark works on a batch.

    :raises TrutoError: an account failed, so Spark is to run this task again.
    """
    if text is None:  # no shard has accounts
        return
    plan = Plan.from_json(text)
    with start_blocking_portal() as portal:
        batches = _batches(options, plan)

        async def following() -> Any:
            return await anext(batches, None)

        try:
            while (batch := portal.call(following)) is not None:
                yield batch
        finally:
            portal.call(batches.aclose)


async def _batches(options: Mapping[str, str], plan: Plan) -> AsyncGenerator[Any]:
    record_batch = import_module("pyarrow").record_batch
    async with _client(options, shards=plan.shard[1] if plan.shard else 1) as truto:
        api = getattr(truto, plan.resource)
        async with api.pull(plan, max_accounts=int(options["max_accounts"])) as pull:
            async for batch in pull.arrow_batches():
                yield record_batch(batch)
    report = pull.report
    unread: dict[str, Any] = {**report.parked, **report.failed}
    if unread and options["on_failed"] == "skip":
        logger.error("left out %s accounts: %s", f"{len(unread):,}", ", ".join(list(unread)[:5]))
    elif unread:
        account, error = next(reversed(unread.items()))
        why = error if isinstance(error, Exception) else "the service was away"
        raise TrutoError(f"{len(unread):,} accounts of this shard cannot be read; {account}: {why}")


def _client(options: Mapping[str, str], *, shards: int = 1) -> TrutoClient:
    rate = Pacing().token
    assert rate is not None
    return TrutoClient(
        options["token"] or None,
        base_url=options["base_url"] or None,
        pacing=Pacing(token=Rate(max(1, rate.limit // shards), rate.window)),
    )
