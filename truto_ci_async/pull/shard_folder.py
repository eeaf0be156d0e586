"""The folder that the shards of a plan are pulled into, each by a process of its own, perhaps on another machine.

    data/
      .truto-pull.interactions.shards.json      their plan without accounts, and how many they are
      shard-00001-of-00008/                     the folder of a pull, with a state of its own
        .truto-pull.interactions.epoch          which attempt at this shard may write

A lock keeps two attempts at a shard apart. Some network file systems lose locks when a machine cannot be reached for
a while, and some have none between machines. So each attempt writes an epoch of its own to the shard's folder, after it
has the locks. An attempt that finds another epoch there stops before it writes, syncs, renames or commits anything.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from truto_ci_async._files import AtomicFile, Disk, Step, link_new, no_step, storage_error
from truto_ci_async._lock import foreign_owner
from truto_ci_async.errors import DamagedStateError, StateConflictError, UsageError
from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.plan.shards import shards_differ, shards_refused
from truto_ci_async.sinks.layout import LOCK, PRIVATE, shard_folder, state_file

MAX_PLAN_BYTES: Final = 2**24
EPOCH_BYTES: Final = 4096


class Epoch:
    """The right to write to the folder of a shard. Whoever takes it later has it instead."""

    def __init__(self, path: Path, step: Step = no_step) -> None:
        self._path = path
        self._step = step
        self._text = b""

    def take(self) -> None:
        """Take it from all attempts before this one."""
        owner = {"epoch": secrets.token_hex(8), "pid": os.getpid(), "host": socket.gethostname()}
        self._text = json.dumps(owner).encode()
        file = AtomicFile(self._path)
        try:
            file.open()
            file.write(self._text)
            file.sync()
            file.publish()
        finally:
            file.discard()

    def step(self, name: str) -> None:
        """Make sure, before a step of the disk, that no later attempt has begun.

        :raises StateConflictError: one has.
        """
        self._step(name)
        if not self._text:
            return
        try:
            with self._path.open("rb") as file:  # opened anew: then a network file system looks again
                found = file.read(EPOCH_BYTES)
        except FileNotFoundError:
            found = b""
        if found != self._text:
            raise StateConflictError(
                f"another attempt has taken over the shard in {self._path.parent}, so this one may not write any more",
                path=str(self._path.parent),
            )


class ShardCheckpoint(SQLiteCheckpoint):
    """The progress of a shard in its folder."""

    def __init__(self, path: Path, epoch: Epoch) -> None:
        super().__init__(path, step=epoch.step)
        self._epoch = epoch

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        stored = await super().hold(fresh=fresh)
        await self._run(self._epoch.take)
        return stored


def open_shard(out: Path, plan: Plan, step: Step = no_step) -> tuple[Plan, Path, Epoch]:
    """Return a shard's plan with the windows and filters of all shards, its folder, and the epoch to be taken.

    :raises StateConflictError: another plan, or another number of shards, is pulled into ``out``.
    :raises StorageError: the folder cannot be written.
    """
    shard = plan.shard
    assert shard is not None
    out = out.absolute()  # the process may change its folder
    try:
        plan = _plan_of_shards(out, plan)
        folder = out / shard_folder(*shard)
        Disk().make_folders(folder)
        _release(folder, plan.resource)
    except OSError as error:
        raise storage_error(error, out, "write") from error
    return plan, folder, Epoch(folder / f"{PRIVATE}.{plan.resource}.epoch", step)


def _plan_of_shards(out: Path, plan: Plan) -> Plan:
    assert plan.shard is not None
    path = out / f"{PRIVATE}.{plan.resource}.shards.json"
    wanted = replace(plan, accounts=(), shard=(0, plan.shard[1]))
    if not path.exists():
        Disk().make_folders(out)
        _publish_new(path, wanted.to_json().encode())
    with path.open("rb") as file:
        text = file.read(MAX_PLAN_BYTES)
    try:
        stored = Plan.from_json(text)
    except UsageError as error:
        raise DamagedStateError(
            f"{path} is damaged: {error}. Restore a copy, or pull into another folder", path=str(path)
        ) from error
    if difference := shards_differ(wanted, stored):
        raise StateConflictError(f"{out} {shards_refused(stored, difference)}", path=str(out))
    return replace(stored, accounts=plan.accounts, shard=plan.shard)


def _publish_new(path: Path, text: bytes) -> None:
    """Make a file that is there with all of its content or not at all, unless another process was quicker."""
    disk = Disk()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = disk.create(temporary)
    try:
        disk.write(file, text)
        disk.fsync(file)
    finally:
        disk.close(file)
    try:
        with suppress(FileExistsError):
            link_new(temporary, path)
        disk.fsync_dir(path.parent)
    finally:
        disk.remove(temporary)


def _release(folder: Path, resource: str) -> None:
    """Remove the locks of other machines where they mean nothing: the epoch keeps those out.

    Otherwise a shard whose machine is gone could never be pulled on another one.
    """
    state = folder / state_file(resource)
    for lock in (folder / LOCK, state.with_name(f"{state.name}.lock")):
        if foreign_owner(lock):
            lock.unlink(missing_ok=True)
