"""Pulls a plan on a Ray cluster: a task for each shard, and one budget for all that use the token.

``pull_plan`` does the work of a task, so whatever is killed, run it again and nothing is lost or doubled. Named actors
count the requests of tokens. Tokens are read where the tasks run; Ray neither stores nor shows them.
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
from inspect import signature
from logging import ERROR
from pathlib import Path
from secrets import token_hex
from signal import SIGTERM, getsignal, signal
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
READY_SECONDS: Final = 10.0  # for the budget to answer a task the first time
LOCK_SECONDS: Final = 180.0  # for an attempt that was believed dead to let go of its shard
STOP_SECONDS: Final = 5.0  # for tasks to commit what they have, when the driver is stopped
IDLE_SECONDS: Final = 60.0  # until a budget actor that nobody asks ends: its driver was killed
KEPT: Final = 100  # accounts of a shard, of each kind, that its report names to the driver
COUNTS: Final = ("accounts", "done", "rows", "pages", "requests", "retries", "windows_done")

_connecting = threading.Lock()  # pulls that run side by side, in any thread, share one connection


class Job(Struct, frozen=True):
    """What all tasks of a run are given. It holds no token, and no password."""

    out: str | Callable[[], str]
    options: dict[str, Any]
    token: Token
    budget: str  # tells the budgets of tokens apart, without knowing the tokens
    base_url: str | None
    pacing: Pacing
    share: float  # of the token's rate, while the budget is away
    probe: str | None
    run: str


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

    The other options are those of ``pull_plan``. Each token has a budget of its own, so several may run side by side.

    :raises MissingExtraError: Ray is not installed.
    :raises ConnectError: the cluster does not answer.
    :raises UsageError: an argument, or a node of the cluster, can never work. Nothing was requested.
    :raises AuthenticationError: the token was rejected. Other errors of shards are raised once all others are done.
    """
    check_arguments(plan, out, token, address, cpus, retries, on_progress)
    signature(sdk.pull_plan).bind(None, plan, out, **options)
    sdk.TrutoClient("unused", base_url=base_url, pacing=pacing)  # or it says what is wrong with them
    ray, parts = ray_library(), plan.shards(shards)
    folder = None if callable(out) or "://" in str(out) else await asyncio.to_thread(Path(out).absolute)
    probe = None if folder is None else str(folder / f".truto-pull.{plan.resource}.probe")
    await _connect(ray, address)
    share = 1 / max(1.0, min(shards, ray.cluster_resources().get("CPU", 1.0) / max(cpus, 0.01)))
    target = out if callable(out) else str(folder or out)
    source = token.encode() if isinstance(token, str) else ray.cloudpickle.dumps(token)
    budget = blake2b(source + f" {base_url}".encode(), digest_size=8).hexdigest()
    job = Job(target, options, token, budget, base_url, pacing, share, probe, token_hex(8))
    if probe is not None:
        await asyncio.to_thread(WorkerFacts.write_probe, probe, job.run)
    await _check_nodes(ray, job, cpus)
    try:
        return await _run(ray, job, parts, {"num_cpus": cpus, "max_retries": retries}, on_progress or repr)
    finally:
        if folder is not None:
            with suppress(TrutoError):  # nothing was begun
                await asyncio.to_thread(sdk.merge_manifests, folder)


async def _run(ray: Any, job: Job, parts: list[Plan], options: Any, on_progress: Any) -> ShardReports:
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
            on_progress(reports)
    finally:
        await _stop(ray, {future: refs[number] for future, number in waiting.items()})
        with suppress(ray.exceptions.RayError, TimeoutError):  # nothing of ours stays
            if await asyncio.wait_for(_actor(ray, job).forget.remote(job.run), TELL_SECONDS):
                ray.kill(_actor(ray, job))
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
        _ = future.cancel() or future.exception()  # seen


async def _connect(ray: Any, address: str | None) -> None:
    """Connect to Ray, unless this process is."""
    address = address or os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    while not _connecting.acquire(blocking=False):  # noqa: ASYNC110 - another event loop may hold it
        await asyncio.sleep(0.05)
    try:
        async with asyncio.timeout(CONNECT_SECONDS * (1 if address else 3)):
            if ray.is_initialized():
                return
            if host:
                (await asyncio.open_connection(host, int(port)))[1].close()
            # In a thread that nobody waits for: it may take minutes to find that what answers is no Ray.
            begun = Future[Any]()
            threading.Thread(target=_init, args=(begun, ray, address), daemon=True).start()
            await asyncio.wrap_future(begun)
            with suppress(ValueError, TypeError):  # not in the main thread, or set outside of Python
                signal(SIGTERM, getsignal(SIGTERM))  # that of Ray would abort this process 3 s later
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        text = f"no Ray cluster: tried {address or 'to start one here'}: {str(error) or 'no answer in time'}"
        text += ". Is `ray start --head` there? If Ray has a token: RAY_AUTH_MODE=token" if address else ""
        raise sdk.ConnectError(text, attempts=0) from error
    finally:
        _connecting.release()


def _init(begun: Future[Any], ray: Any, address: str | None) -> None:
    begun.set_running_or_notify_cancel()  # a result is taken although nobody waits for it any more
    try:
        options = {"namespace": NAMESPACE, "include_dashboard": None if address else False}
        begun.set_result(ray.init(address, logging_level=ERROR, **options))
    except BaseException as error:  # noqa: BLE001 - raised where it is awaited
        begun.set_exception(error)
    if not address:  # Linux ends the processes of a cluster of our own with the thread that started them
        threading.Event().wait()


async def _check_nodes(ray: Any, job: Job, cpus: float) -> None:
    """:raises UsageError: a node could not run a task as this process means it."""
    affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    facts = (job.token if isinstance(job.token, str) else None), job.probe
    probe = ray.remote(num_cpus=0, max_retries=2)(lambda: WorkerFacts.here(*facts))
    asked: dict[asyncio.Future[Any], Any] = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus:
            there = probe.options(scheduling_strategy=affinity(node["NodeID"], soft=False))
            asked[asyncio.wrap_future(there.remote().future())] = node
    if not asked:
        raise UsageError(f"no node of the cluster has {cpus:g} CPU for a task: lower cpus, or start nodes")
    await asyncio.wait(asked, timeout=PROBE_SECONDS)
    alive, wrong = {node["NodeID"] for node in ray.nodes() if node["Alive"]}, list[str]()
    for future, node in asked.items():
        error = future.exception() if future.done() else TimeoutError(f"no answer in {PROBE_SECONDS:.0f} s")
        name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        if error is None:
            wrong += [f"{name} {text}" for text in future.result().problems(*facts, job.run)]
        elif node["NodeID"] in alive and not isinstance(error, ray.exceptions.TaskUnschedulableError):
            wrong.append(f"{name}: {error}")  # a node that is gone does not matter
        future.cancel()
    if wrong:
        raise UsageError("nothing was requested, since the nodes cannot do it:\n  " + "\n  ".join(wrong))


def check_arguments(
    plan: Any, out: Any, token: Any, address: Any, cpus: Any, retries: Any, on_progress: Any
) -> None:
    """:raises UsageError: a value can never work, or Ray would store a token or a password."""
    is_place = callable(out) or hasattr(out, "__fspath__") or (isinstance(out, str) and out != "")
    is_cpus = type(cpus) in (int, float) and (0 <= cpus <= 1 or cpus in range(1_000_000))
    for name, value, is_right, expected in (
        ("plan", plan, isinstance(plan, Plan), "a Plan, such as truto.interactions.plan(...) makes"),
        ("out", out, is_place, "a folder, a URL, or a function that returns one"),
        ("address", address, isinstance(address, str | None), "the host:port of a cluster"),
        ("cpus", cpus, is_cpus, "a number from 0 to 1, or a whole number"),
        ("retries", retries, type(retries) is int and retries >= -1, "a whole number, or -1 for no limit"),
        ("on_progress", on_progress, on_progress is None or callable(on_progress), "a function"),
    ):
        if not is_right:
            raise UsageError(f"{name} takes {expected}, not {value!r:.80}")
    if not callable(token) and not (isinstance(token, str) and token.isidentifier()):
        raise UsageError("token is not the token, but an environment variable of the workers, or a function")
    if isinstance(out, str) and re.search("://[^:@/]*:.+@|[?&](ssl)?password=.", out):
        raise UsageError("the URL has a password, which Ray would store: pass a function, or set PGPASSWORD")


def ray_library() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise sdk.MissingExtraError("ray", "ray") from None


def _pull_shard(job: Job, part: Plan) -> dict[str, Any]:
    if job.probe is not None and not os.path.exists(job.probe):
        raise UsageError(f"a node that joined later does not see {Path(job.probe).parent}")
    return asyncio.run(_pull(job, part))


async def _pull(job: Job, part: Plan) -> dict[str, Any]:
    budget = RayBudget(job)
    with suppress(Exception):  # the first answer takes longest: a client would not wait for it
        await asyncio.wait_for(budget.take(0, None), READY_SECONDS)
    token = os.environ[job.token] if isinstance(job.token, str) else job.token
    out = job.out() if callable(job.out) else job.out
    options: Any = {"max_wait": LOCK_SECONDS, "on_progress": partial(budget.tell, part), **job.options}
    client = sdk.TrutoClient(token, base_url=job.base_url, pacing=job.pacing, shared_budget=budget)
    async with client:
        return (await sdk.pull_plan(client, part, out, **options)).to_dict(most=KEPT)


class RayBudget:
    """The budget of a token, as a client asks it. If its actor is gone for good, it is made anew."""

    def __init__(self, job: Job) -> None:
        self.safe_share, self._job, self._ray = job.share, job, ray_library()
        self._handle: Any = None

    async def take(self, n: int, account: str | None) -> Grant:
        try:
            self._handle = self._handle or await asyncio.to_thread(_actor, self._ray, self._job)
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
    name = f"truto-budgets-{int(job.budget, 16) % 16}"  # so many for all tokens: each is a process
    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    made = ray.remote(Coordinator).options(num_cpus=0, max_restarts=-1, **options)
    return made.remote(lambda: ray.kill(ray.get_actor(name, namespace=NAMESPACE)), IDLE_SECONDS)
