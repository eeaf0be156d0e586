"""Pulls a plan on a Ray cluster: a task for each shard, and one budget for all that use the token.

    from truto_ci_async.integrations.ray import pull_to

    async with TrutoClient() as truto:
        plan = await truto.interactions.plan(integration="gong", start_time="-30d", window="day")
    report = await pull_to(plan, "/shared/data", format="parquet", address="head:6379")

``pull_plan`` does the work of a task, so whatever is killed, run it again and nothing is lost or doubled. Ray runs a
task again, on another node, when its worker dies. A named actor counts the requests of the token; while it is away or
restarted, each task goes on at a safe share of the rate. Tokens are read where the tasks run: none is in the object
store, in a log or on the dashboard.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

import truto_ci_async as sdk
from truto_ci_async import Grant, MemoryBudget, Pacing, Plan, ShardReports, TrutoError, UsageError

#: The name of the environment variable of the workers that holds the token, or a function that returns the token.
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]

NAMESPACE: Final = "truto_ci_async"
CONNECT_SECONDS: Final = 20.0  # for the cluster to answer
PROBE_SECONDS: Final = 60.0  # for every node to start a worker and answer
TELL_SECONDS: Final = 1.0  # between two reports of a task, and of the driver
LOCK_SECONDS: Final = 180.0  # for an attempt that was believed dead to let go of its shard
STOP_SECONDS: Final = 5.0  # for tasks to commit what they have, when the driver is stopped
RUN_SECONDS: Final = 60.0  # a run that reported nothing for so long is over
COUNTS: Final = ("accounts", "done", "rows", "pages", "requests", "retries", "windows_done")


class Job(Struct, frozen=True):
    """What all tasks of a run are given. It holds no token, and no password."""

    run: str
    version: str
    out: str | Callable[[], str]
    options: dict[str, Any]
    token: Token
    base_url: str | None
    pacing: Pacing
    budget: str
    share: float
    probe: str | None


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
    ``address``   of the cluster, ``host:port``. None: Ray as it was started in this process, or RAY_ADDRESS, or a
                  cluster of this machine's cores that ends with the pull.
    ``token``     the name of the environment variable that the workers have, or a function that returns the token.
    ``cpus``      cores that Ray reserves for a task. ``retries`` of a task whose worker or node died.
    ``on_progress``  is given the reports about once a second. Their totals are Ray metrics too, ``truto_pull_rows`` and
                  so on, by ``resource``.

    The other options are those of ``pull_plan``. Each token has a budget of its own, so plans of several environments
    run side by side: ``asyncio.gather(pull_to(one, ..., token="TOKEN_A"), pull_to(other, ..., token="TOKEN_B"))``.

    :raises MissingExtraError: Ray is not installed.
    :raises ConnectError: the cluster does not answer.
    :raises UsageError: the nodes have another Python or version of this package, lack the token, or do not see the
        folder. Nothing was requested.
    :raises AuthenticationError: the token was rejected. Other errors of shards are raised once all others are done.
    """
    ray = _ray()
    parts = plan.shards(shards)
    folder = None if callable(out) or "://" in str(out) else await asyncio.to_thread(Path(out).absolute)
    check(token, out)
    is_opened = await _connect(ray, address)
    try:
        slots = ray.cluster_resources().get("CPU", 1.0) / max(cpus, 0.01)
        job = Job(
            run=secrets.token_hex(8),
            version=sdk.__version__,
            out=out if callable(out) else str(folder or out),
            options=options,
            token=token,
            base_url=base_url,
            pacing=pacing,
            budget=budget_name(token, base_url),
            share=1 / max(1.0, min(shards, slots)),
            probe=None if folder is None else str(folder / f".truto-pull.{plan.resource}.probe"),
        )
        if job.probe is not None:
            await asyncio.to_thread(_write_probe, Path(job.probe), job.run)
        await _check_nodes(ray, job, cpus)
        try:
            return await _run(ray, job, parts, {"num_cpus": cpus, "max_retries": retries}, on_progress)
        finally:
            if folder is not None:
                with suppress(TrutoError):  # nothing was begun
                    await asyncio.to_thread(sdk.merge_manifests, folder)
    finally:
        if is_opened:
            ray.shutdown()


async def _run(
    ray: Any,
    job: Job,
    parts: list[Plan],
    options: Mapping[str, Any],
    on_progress: Callable[[ShardReports], object] | None,
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
                reports.by_shard |= {n: each for n, each in told.items() if n in running}
            for name, each in gauges.items():
                each.set(reports.total(name), {"resource": parts[0].resource})
            if on_progress is not None:
                on_progress(reports)
    finally:
        await _stop(ray, {future: refs[number] for future, number in waiting.items()})
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


async def _connect(ray: Any, address: str | None) -> bool:
    """Connect to Ray; return whether this call did."""
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    tried = f"tried {address} for {CONNECT_SECONDS:.0f} s"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while host:
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.close()
                    break
                except OSError as error:
                    tried = f"tried {address} for {CONNECT_SECONDS:.0f} s: {error}"
                    await asyncio.sleep(1.0)
            own = {} if address else {"include_dashboard": False}
            await asyncio.to_thread(ray.init, address=address, namespace=NAMESPACE, **own)
    except (TimeoutError, ValueError, ConnectionError, RuntimeError) as error:
        reason = tried if isinstance(error, TimeoutError) else f"{error} ({tried})"
        raise sdk.ConnectError(
            f"no Ray cluster: {reason}. Is `ray start --head` running there?", attempts=0
        ) from error
    return True


async def _check_nodes(ray: Any, job: Job, cpus: float) -> None:
    """:raises UsageError: a node could not run a task as this process means it."""
    affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    variable = job.token if isinstance(job.token, str) else None
    probe = ray.remote(num_cpus=0, max_retries=2)(_probe(variable, job.probe))
    able = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus]
    if not able:
        raise UsageError(f"no node of the cluster has {cpus:g} CPU for a task: lower cpus, or start nodes")
    asked: dict[asyncio.Future[Any], str] = {}
    for node in able:
        on_node = probe.options(scheduling_strategy=affinity(node["NodeID"], soft=False)).remote()
        name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        asked[asyncio.wrap_future(on_node.future())] = name
    await asyncio.wait(asked, timeout=PROBE_SECONDS)
    wrong = list[str]()
    for future, name in asked.items():
        if not future.done():
            future.cancel()
            wrong.append(f"{name} does not answer within {PROBE_SECONDS:.0f} s")
        elif (error := future.exception()) is not None:
            wrong.append(f"{name}: {error}")
        else:
            wrong += [f"{name} {text}" for text in complaints(future.result(), job)]
    if wrong:
        raise UsageError("nothing was requested, since the nodes cannot do it:\n  " + "\n  ".join(wrong))


def _probe(variable: str | None, path: str | None) -> Callable[[], dict[str, Any]]:
    """Return a function that Ray sends as it is: it needs no package where it runs."""

    def probe() -> dict[str, Any]:
        import importlib.util
        import os
        import platform

        version, content = None, None
        if importlib.util.find_spec("truto_ci_async") is not None:
            version = importlib.import_module("truto_ci_async").__version__
        if path is not None and os.path.exists(path):
            with open(path, encoding="ascii") as file:
                content = file.read()
        has_token = variable is None or bool(os.environ.get(variable))
        return {"python": platform.python_version(), "version": version, "token": has_token, "probe": content}

    return probe


def complaints(found: Mapping[str, Any], job: Job) -> list[str]:
    """Say what is wrong with a node, by what its probe found."""
    python, wrong = platform.python_version(), list[str]()
    if found["python"].split(".")[:2] != python.split(".")[:2]:
        wrong.append(f"has Python {found['python']}, and this is {python}")
    if found["version"] != job.version:
        wrong.append(f"has truto_ci_async {found['version'] or 'not at all'}, and this is {job.version}")
    if not found["token"]:
        wrong.append(f"has no {job.token} in its environment: set it before `ray start`")
    if job.probe is not None and found["probe"] != job.run:
        wrong.append(f"does not see {Path(job.probe).parent}: give a folder that all nodes share")
    return wrong


def _write_probe(path: Path, run: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run, encoding="ascii")


def check(token: object, out: object) -> None:
    """:raises UsageError: Ray would store a secret."""
    if isinstance(token, str) and not token.isidentifier():
        raise UsageError(
            "token is the name of an environment variable of the workers, or a function; not the token"
        )
    if isinstance(out, str) and "://" in out and urlsplit(out).password:
        raise UsageError(
            "the URL has a password, which Ray would store: pass a function that returns the URL, or leave the "
            "password to PGPASSWORD or ~/.pgpass on the workers"
        )


def budget_name(token: Token, base_url: str | None) -> str:
    """Return the name of the actor that counts the requests of a token, without knowing the token."""
    source = token if isinstance(token, str) else f"{token.__module__}.{token.__qualname__}"
    return "truto-budget-" + blake2b(f"{source} {base_url}".encode(), digest_size=8).hexdigest()


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise sdk.MissingExtraError("ray", "ray") from None


# --- in the tasks and the actor ------------------------------------------------------------------------------------


def _pull_shard(job: Job, part: Plan) -> dict[str, Any]:
    if job.probe is not None and not os.path.exists(job.probe):
        raise UsageError(f"a node that joined later does not see {Path(job.probe).parent}")
    return asyncio.run(_pull(job, part))


async def _pull(job: Job, part: Plan) -> dict[str, Any]:
    budget = RayBudget(job)
    source = os.environ[job.token] if isinstance(job.token, str) else job.token
    out = job.out() if callable(job.out) else job.out
    client = sdk.TrutoClient(source, base_url=job.base_url, pacing=job.pacing, shared_budget=budget)
    telling = list[asyncio.Task[None]]()
    async with client:
        try:
            report = await sdk.pull_plan(
                client,
                part,
                out,
                max_wait=LOCK_SECONDS,
                on_start=lambda pull: telling.append(asyncio.create_task(budget.tell(part, pull.report))),
                **job.options,
            )
        finally:
            for each in telling:
                each.cancel()
            await asyncio.gather(*telling, return_exceptions=True)
    return report.to_dict()


class RayBudget:
    """The budget actor, as a client asks it. If it is gone for good, it is made anew."""

    def __init__(self, job: Job) -> None:
        self.safe_share = job.share
        self._job, self._ray = job, _ray()
        self._handle: Any = None

    async def take(self, n: int, account: str | None) -> Grant:
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(_actor, self._ray, self._job)
            return Grant(*await self._handle.take.remote(n, account))
        except self._ray.exceptions.RayError:
            self._handle = None
            raise

    async def tell(self, part: Plan, report: Any) -> None:
        """Tell how a shard goes, again and again."""
        while True:
            if self._handle is not None and part.shard is not None:
                counts = {name: getattr(report, name) for name in ("complete", *COUNTS)}
                with suppress(self._ray.exceptions.RayError):
                    self._handle.tell.remote(self._job.run, part.shard[0], counts)
            await asyncio.sleep(TELL_SECONDS)


def _actor(ray: Any, job: Job) -> Any:
    names = {"name": job.budget, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(BudgetActor).options(num_cpus=0, max_restarts=-1, **names).remote(job.pacing)


class BudgetActor:
    """The budget of all tasks that use one token, and how far each of them is."""

    def __init__(self, pacing: Pacing) -> None:
        self._budget = MemoryBudget(pacing)
        self._told: dict[str, tuple[float, dict[int, Any]]] = {}

    async def take(self, n: int, account: str | None) -> tuple[int, float, str]:
        grant = self._budget.take_now(n, account)
        return grant.count, grant.retry_after, grant.level

    async def tell(self, run: str, number: int, counts: dict[str, Any]) -> None:
        now = monotonic()
        self._told = {each: told for each, told in self._told.items() if now - told[0] < RUN_SECONDS}
        self._told[run] = (now, self._told.get(run, (now, {}))[1] | {number: counts})

    async def told(self, run: str) -> dict[int, Any]:
        return self._told.get(run, (0.0, {}))[1]
