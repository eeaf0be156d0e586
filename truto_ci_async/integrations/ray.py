"""Pulls a plan on a Ray cluster: a task for each shard, and one budget for all that use the token.

    from truto_ci_async.integrations.ray import pull_to

    async with TrutoClient() as truto:
        plan = await truto.interactions.plan(integration="gong", start_time="-30d", window="day")
    reports = await pull_to(plan, "/shared/data", format="parquet", address="head:6379")

``pull_plan`` does the work of a task, so whatever is killed, run it again and nothing is lost or doubled. Named actors
count the requests of tokens; while one is away, each task goes on at a safe share of the rate. Tokens are read where
the tasks run: none is in the object store, in a log or on the dashboard.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, TypeAlias

from msgspec import Struct

import truto_ci_async as sdk
from truto_ci_async import Coordinator, Grant, Pacing, Plan, ShardReports, TrutoError, UsageError, WorkerFacts

#: The name of the environment variable of the workers that holds the token, or a function that returns the token.
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]

NAMESPACE: Final = "truto_ci_async"
CONNECT_SECONDS: Final = 20.0  # for the cluster to answer
PROBE_SECONDS: Final = 60.0  # for every node to start a worker and answer
TELL_SECONDS: Final = 1.0  # between two reports of a task, and of the driver
LOCK_SECONDS: Final = 180.0  # for an attempt that was believed dead to let go of its shard
STOP_SECONDS: Final = 5.0  # for tasks to commit what they have, when the driver is stopped
ACTORS: Final = 16  # for the budgets of all tokens: each is a process
KEPT: Final = 100  # accounts of a shard that a report names, of each kind
COUNTS: Final = ("accounts", "done", "rows", "pages", "requests", "retries", "windows_done")

_connecting = asyncio.Lock()  # pulls that run side by side share one connection


class Job(Struct, frozen=True):
    """What all tasks of a run are given. It holds no token, and no password."""

    out: str | Callable[[], str]
    options: dict[str, Any]
    token: Token
    base_url: str | None
    pacing: Pacing
    share: float  # of the token's rate, while the budget is away
    probe: str | None
    run: str

    @property
    def budget(self) -> str:
        """Tells the budgets of tokens apart, without knowing the tokens."""
        source = self.token
        named = source if isinstance(source, str) else f"{source.__module__}.{source.__qualname__}"
        return blake2b(f"{named} {self.base_url}".encode(), digest_size=8).hexdigest()

    @property
    def asked_of_workers(self) -> tuple[str | None, str | None]:
        return self.token if isinstance(self.token, str) else None, self.probe


async def pull_to(
    plan: Plan,
    out: str | os.PathLike[str] | Callable[[], str],
    *,
    shards: int = 16,
    address: str | None = None,
    token: Token = "TRUTO_API_TOKEN",
    base_url: str | None = None,
    pacing: Pacing = Pacing(),
    cpus: float = 1.0,
    retries: int = 100,
    on_progress: Callable[[ShardReports], object] | None = None,
    **options: Any,
) -> ShardReports:
    """Pull a plan on Ray. Run it again to go on, also after this process was killed.

    ``out``       a folder that every node sees under this path, or the URL of a PostgreSQL database; one with a
                  password is given as a function that returns it where the tasks run.
    ``shards``    tasks that the plan is split into, some four for each worker; it stays the same for this ``out``.
    ``address``   of the cluster, ``host:port``. None: RAY_ADDRESS, or a cluster of this machine's cores. A process that
                  uses Ray already goes on with that. ``ray.shutdown()`` ends the connection.
    ``token``     the name of the environment variable that the workers have, or a function that returns the token.
    ``cpus``      cores that Ray reserves for a task. ``retries`` of a task whose worker or node died.
    ``on_progress``  is given the reports about once a second. Their totals are Ray metrics: ``truto_pull_rows`` etc.

    The other options are those of ``pull_plan``. Each token has a budget of its own, so plans of several environments
    run side by side: ``asyncio.gather(pull_to(one, ..., token="TOKEN_A"), pull_to(other, ..., token="TOKEN_B"))``.

    :raises MissingExtraError: Ray is not installed.
    :raises ConnectError: the cluster does not answer.
    :raises UsageError: the nodes have another Python or version of this package, lack the token, or do not see the
        folder. Nothing was requested.
    :raises AuthenticationError: the token was rejected. Other errors of shards are raised once all others are done.
    """
    ray, parts = ray_library(), plan.shards(shards)
    refuse_secrets(token, out)
    folder = None if callable(out) or "://" in str(out) else await asyncio.to_thread(Path(out).absolute)
    probe = None if folder is None else str(folder / f".truto-pull.{plan.resource}.probe")
    await _connect(ray, address)
    share = 1 / max(1.0, min(shards, ray.cluster_resources().get("CPU", 1.0) / max(cpus, 0.01)))
    target = out if callable(out) else str(folder or out)
    job = Job(target, options, token, base_url, pacing, share, probe, token_hex(8))
    if probe is not None:
        await asyncio.to_thread(WorkerFacts.write_probe, probe, job.run)
    await _check_nodes(ray, job, cpus)
    try:
        return await _run(ray, job, parts, {"num_cpus": cpus, "max_retries": retries}, on_progress)
    finally:
        if folder is not None:
            with suppress(TrutoError):  # nothing was begun
                await asyncio.to_thread(sdk.merge_manifests, folder)


async def _run(
    ray: Any, job: Job, parts: list[Plan], options: Mapping[str, Any], on_progress: Any
) -> ShardReports:
    reports, errors = ShardReports(len(parts)), dict[int, BaseException]()
    task, gauge = ray.remote(**options)(_pull_shard), import_module("ray.util.metrics").Gauge
    gauges = {name: gauge(f"truto_pull_{name}", f"{name} of pulls", ("resource",)) for name in COUNTS}
    refs = {part.shard[0]: task.remote(job, part) for part in parts if part.shard}
    waiting = {asyncio.wrap_future(ref.future()): number for number, ref in refs.items()}
    try:
        while waiting and not any(isinstance(error, sdk.AuthenticationError) for error in errors.values()):
            done, _ = await asyncio.wait(waiting, timeout=TELL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for number, future in [(waiting.pop(each), each) for each in done]:
                if (error := future.exception()) is None:
                    reports.by_shard[number] = future.result()
                else:
                    errors[number] = getattr(error, "cause", None) or error
            with suppress(ray.exceptions.RayError, TimeoutError):  # it is restarted, and told anew
                told = await asyncio.wait_for(_actor(ray, job).told.remote(job.run), TELL_SECONDS)
                running = set(waiting.values())
                reports.by_shard |= {number: each for number, each in told.items() if number in running}
            for name, each in gauges.items():
                each.set(reports.total(name), {"resource": parts[0].resource})
            if on_progress is not None:
                on_progress(reports)
    finally:
        await _stop(ray, {future: refs[number] for future, number in waiting.items()})
        with suppress(ray.exceptions.RayError):
            _actor(ray, job).forget.remote(job.run)
    for number, error in sorted(errors.items()):
        text = f"{len(errors)} of {len(parts)} shards failed, the first of them {number}. Run again to go on"
        if isinstance(error, TrutoError):
            error.add_note(text)
            raise error
        raise TrutoError(f"{text}: {error}") from error
    return reports


async def _stop(ray: Any, waiting: Mapping[asyncio.Future[Any], Any]) -> None:
    """End tasks: they commit what they have. Those that take too long are killed, which loses and doubles nothing."""
    for force, seconds in ((False, STOP_SECONDS), (True, 2.0)):
        left = {future: ref for future, ref in waiting.items() if not future.done()}
        for ref in left.values():
            ray.cancel(ref, force=force)
        if left:
            await asyncio.wait(left, timeout=seconds)
    for future in waiting:
        if not future.cancel():
            future.exception()  # seen


async def _connect(ray: Any, address: str | None) -> None:
    """Connect to Ray, unless this process is."""
    address = address or os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    own = {} if address else {"include_dashboard": False}
    try:
        async with _connecting, asyncio.timeout(CONNECT_SECONDS):
            if ray.is_initialized():
                return
            if host:
                (await asyncio.open_connection(host, int(port)))[1].close()
            # In a thread that nobody waits for: it may take minutes to find that what answers is no Ray.
            begun, init = Future[Any](), partial(ray.init, address=address, namespace=NAMESPACE, **own)
            threading.Thread(target=_finish, args=(begun, init, not address), daemon=True).start()
            await asyncio.wrap_future(begun)
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        text = f"no Ray cluster: tried {address}: {str(error) or f'no answer in {CONNECT_SECONDS:.0f} s'}"
        raise sdk.ConnectError(f"{text}. Is `ray start --head` running there?", attempts=0) from error


def _finish(begun: Future[Any], job: Callable[[], Any], stays: bool) -> None:
    try:
        begun.set_result(job())
    except BaseException as error:  # noqa: BLE001 - raised where it is awaited
        begun.set_exception(error)
    if stays:  # Linux ends the processes of a cluster of our own with the thread that started them
        threading.Event().wait()


async def _check_nodes(ray: Any, job: Job, cpus: float) -> None:
    """:raises UsageError: a node could not run a task as this process means it."""
    affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    probe = ray.remote(num_cpus=0, max_retries=2)(_facts)
    asked: dict[asyncio.Future[Any], Any] = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus:
            there = probe.options(scheduling_strategy=affinity(node["NodeID"], soft=False))
            asked[asyncio.wrap_future(there.remote(*job.asked_of_workers).future())] = node
    if not asked:
        raise UsageError(f"no node of the cluster has {cpus:g} CPU for a task: lower cpus, or start nodes")
    await asyncio.wait(asked, timeout=PROBE_SECONDS)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    wrong = list[str]()
    for future, node in asked.items():
        error = future.exception() if future.done() else TimeoutError(f"no answer in {PROBE_SECONDS:.0f} s")
        name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        if error is None:
            wrong += [f"{name} {text}" for text in future.result().problems(*job.asked_of_workers, job.run)]
        elif node["NodeID"] in alive and not isinstance(error, ray.exceptions.TaskUnschedulableError):
            wrong.append(f"{name}: {error}")  # a node that is gone does not matter
        future.cancel()
    if wrong:
        raise UsageError("nothing was requested, since the nodes cannot do it:\n  " + "\n  ".join(wrong))


def refuse_secrets(token: object, out: object) -> None:
    """:raises UsageError: Ray would store a token or a password."""
    if isinstance(token, str) and not token.isidentifier():
        raise UsageError("token is not the token, but an environment variable of the workers, or a function")
    if isinstance(out, str) and re.search("://[^:@/]*:.+@|[?&](ssl)?password=.", out):
        raise UsageError("the URL has a password, which Ray would store: pass a function, or set PGPASSWORD")


def ray_library() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise sdk.MissingExtraError("ray", "ray") from None


# --- in the tasks and the actors -----------------------------------------------------------------------------------


def _facts(token: str | None, probe: str | None) -> WorkerFacts:
    return WorkerFacts.here(token, probe)


def _pull_shard(job: Job, part: Plan) -> dict[str, Any]:
    if job.probe is not None and not os.path.exists(job.probe):
        raise UsageError(f"a node that joined later does not see {Path(job.probe).parent}")
    return asyncio.run(_pull(job, part))


async def _pull(job: Job, part: Plan) -> dict[str, Any]:
    budget = RayBudget(job)
    token = os.environ[job.token] if isinstance(job.token, str) else job.token
    out = job.out() if callable(job.out) else job.out
    options: Any = {"max_wait": LOCK_SECONDS, "on_progress": partial(budget.tell, part), **job.options}
    async with sdk.TrutoClient(
        token, base_url=job.base_url, pacing=job.pacing, shared_budget=budget
    ) as client:
        report = await sdk.pull_plan(client, part, out, **options)
    return report.to_dict(most=KEPT)  # a driver holds the reports of all shards


class RayBudget:
    """The budget of a token, as a client asks it. If its actor is gone for good, it is made anew."""

    def __init__(self, job: Job) -> None:
        self.safe_share = job.share
        self._job, self._ray = job, ray_library()
        self._handle: Any = None

    async def take(self, n: int, account: str | None) -> Grant:
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(_actor, self._ray, self._job)
            return Grant(*await self._handle.take.remote(self._job.budget, self._job.pacing, n, account))
        except self._ray.exceptions.RayError:
            self._handle = None
            raise

    def tell(self, part: Plan, report: Any) -> None:
        if self._handle is not None and part.shard is not None:
            counts = {name: getattr(report, name) for name in ("complete", *COUNTS)}
            with suppress(self._ray.exceptions.RayError):
                self._handle.tell.remote(self._job.run, part.shard[0], counts)


def _actor(ray: Any, job: Job) -> Any:
    name = f"truto-budgets-{int(job.budget, 16) % ACTORS}"
    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(Coordinator).options(num_cpus=0, max_restarts=-1, **options).remote()
