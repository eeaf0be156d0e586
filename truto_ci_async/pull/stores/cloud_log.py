"""Commits to object storage: what is named by the manifest, from one epoch on.

A part that is given to ``commit`` is uploaded under ``_truto/``, then the manifest that names it replaces the one
before, then the part is copied to the folder of its resource. The manifest is a redo log: ``begin`` copies what a run
that was killed did not.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from truto_ci_async._files import Step, Worker
from truto_ci_async.errors import DamagedStateError, StateConflictError, StorageError, UsageError
from truto_ci_async.export.schema import ColumnType, to_utc
from truto_ci_async.pull.checkpoint.base import plan_in_force
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.stored import StoredRows
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.sync.plan import is_sync, sync_difference

from .cloud_parts import CloudParts, damaged
from .cloud_state import (
    LISTED_PARTS,
    TAIL_BYTES,
    Changes,
    CloudPart,
    EarlierPlan,
    Manifest,
    Named,
    Names,
    encode_manifest,
    packed,
    read_manifest,
    read_parts,
    read_progress,
)
from .object_storage import Bucket, ConditionFailedError, Version

R = TypeVar("R")

logger = logging.getLogger("truto_ci_async")

# How often a put of the manifest is tried whose answer was lost, and an opening that another run got ahead of.
ATTEMPTS: Final = 5


class Stored(NamedTuple):
    """A manifest that was read, and what it names. All None: there is none yet."""

    manifest: Manifest | None = None
    version: Version | None = None
    plan: Plan | None = None
    progress: MemoryCheckpoint | None = None


class CloudLog:
    """What one run knows of a resource in a bucket. ``begin`` comes first, and ``publish`` last."""

    def __init__(
        self, bucket: Bucket, resource: str, columns: dict[str, ColumnType], worker: Worker, step: Step
    ) -> None:
        self.progress = MemoryCheckpoint()
        self._lists: dict[str, tuple[CloudPart, ...]] = {}  # in a sync
        self._bucket = bucket
        self._resource = resource
        self._columns = columns
        self._worker = worker
        self._step = step
        self._names = Names(resource)
        self.files = CloudParts(bucket, self._names, step)
        self._version: Version = {}

    @property
    def has_parts(self) -> bool:
        return bool(self._manifest.lists or self._manifest.parts)

    # --- beginning ---------------------------------------------------------------------------------------

    async def begin(self, plan: Plan | None, *, grow: bool, fresh: bool) -> Plan:
        """Begin an epoch, finish what earlier runs have left, and return the plan in force.

        :raises StateConflictError: it belongs to another plan.
        """
        for _ in range(ATTEMPTS):
            chosen = await self._begin(plan, grow=grow, fresh=fresh)
            if chosen is not None:
                if is_sync(chosen):
                    lists = self._manifest.lists
                    self._lists = {named.name: await self._listed(named) for named in lists}
                await self.files.tidy_up(self._manifest.named(), await self.parts())
                return chosen
        raise StateConflictError(f"other runs begin to write to {self} all the time", path=str(self))

    async def _begin(self, plan: Plan | None, *, grow: bool, fresh: bool) -> Plan | None:
        """Begin an epoch. Return None if another run did so meanwhile."""
        found = await (self._read_manifest() if fresh else self.read(with_progress=True))
        base = found.manifest
        epoch = await self._first_epoch(fresh=fresh) if base is None else base.epoch + 1
        if not epoch:
            return None
        if base is None:
            await self._bucket.check_conditions(self._names.object("probe", 0, _random()))
        chosen, earlier, is_new = self._choose(found, plan, grow=grow, fresh=fresh)
        name = "" if base is None or is_new or chosen != found.plan else base.plan
        if not name:
            await self._check_overlap(chosen, earlier)
            name = self._names.object("plan", epoch, _random())  # another run may begin the same epoch
            await self._bucket.put(name, chosen.to_json().encode())
        manifest = Manifest(
            resource=self._resource,
            epoch=epoch,
            stamp=_stamp(),
            owner=f"{socket.gethostname()}:{os.getpid()}",
            begun_at=datetime.now(UTC).isoformat(timespec="seconds"),
            columns=self._columns,
            plan=name,
            earlier=earlier,
        )
        if base is not None and (is_sync(chosen) or not fresh):  # a sync that starts over keeps the rows
            manifest = self._continue(base, manifest, is_new=is_new)
        self._step("begin")
        if await self._replace(manifest, None if base is None else base.stamp, found.version) is not None:
            return None
        self.files.epoch = epoch
        if not is_new and found.progress is not None:
            self.progress = found.progress
        self._plan = await self.progress.open(chosen)
        self._stored_rows = StoredRows(chosen)
        return chosen

    async def _first_epoch(self, *, fresh: bool) -> int:
        """Return the epoch of a run that found no manifest; 0 if there is one meanwhile.

        :raises StateConflictError: there are parts, so somebody removed the manifest.
        """
        found = [name async for name, _ in self._bucket.list(self._names.parts)]
        found += [name async for name, _ in self._bucket.list(self._names.state)]
        # A staged part may be committed: a run puts the manifest first.
        where = self._names.parts, self._names.staged("")
        parts = sum(name.startswith(where) and self._names.epoch(name) is not None for name in found)
        if parts and not fresh:
            if await self._bucket.get(self._names.manifest) is not None:
                return 0
            raise StateConflictError(
                f"{self} has {parts} parts of {self._resource}, but no manifest: use another prefix, or start "
                "over with fresh=True, which removes them",
                path=str(self),
            )
        return 1 + max((self._names.epoch(name) or 0 for name in found), default=0)

    def _continue(self, base: Manifest, manifest: Manifest, *, is_new: bool) -> Manifest:
        """Return the new manifest with the rows of the one before, and its progress unless the plan is new."""
        if base.columns != self._columns:
            raise StateConflictError(
                f"{self} has other columns of {self._resource} than this version of the package writes: use another "
                "prefix, or start over with fresh=True",
                path=str(self),
            )
        kept: tuple[str, ...] = ("commits", "rows", "bytes", "lists", "parts")
        if not is_new:
            kept += ("snapshot", "logs", "tail", "complete")
        return replace(manifest, **{name: getattr(base, name) for name in kept})

    def _choose(
        self, found: Stored, plan: Plan | None, *, grow: bool, fresh: bool
    ) -> tuple[Plan, tuple[EarlierPlan, ...], bool]:
        """Return the plan to run, those before it, and whether it begins anew: another may follow one that is done."""
        stored = None if fresh else found.plan
        if stored is not None and plan is not None:
            if difference := sync_difference(plan, stored):
                raise StateConflictError(
                    f"{self} {difference}: use another prefix, or start over with fresh=True", path=str(self)
                )
            if is_sync(plan):
                return plan, (), False
        if stored is None or found.manifest is None or found.progress is None:
            return plan_in_force(None, plan, grow=grow, path=str(self)), (), True
        is_done = found.progress.windows_over() == len(stored)
        if plan is not None and is_done and plan.difference(stored, grow=grow):
            bounds = stored.windows[0].start, stored.windows[-1].end
            return plan, (*found.manifest.earlier, EarlierPlan(found.manifest.plan, *bounds)), True
        return plan_in_force(stored, plan, grow=grow, path=str(self)), found.manifest.earlier, False

    async def _check_overlap(self, plan: Plan, earlier: tuple[EarlierPlan, ...]) -> None:
        """:raises StateConflictError: rows of accounts and windows of this plan are there."""
        ids = {account.id for account in plan.accounts}
        start, end = plan.windows[0].start, plan.windows[-1].end
        for each in earlier:
            if _is_before(each.end, start) or _is_before(end, each.start):
                continue
            other = await self._bucket.get(each.name)
            if other is None or not ids.isdisjoint(
                account.id for account in self._plan_of(other.data).accounts
            ):
                raise StateConflictError(
                    f"{self} has rows of this plan's accounts and windows already, from another plan: they would be "
                    "there twice. Use another prefix, or start over with fresh=True, which removes all of "
                    f"{self._resource} there",
                    path=str(self),
                )

    async def read(self, *, with_progress: bool) -> Stored:
        """Return what is stored. A run that is still going on may replace it meanwhile; then it is read again."""
        for _ in range(ATTEMPTS):
            found = await self._bucket.get(self._names.manifest)
            if found is None:
                return Stored()
            manifest = self._decode(found.data)
            state = [await self._bucket.get(named.name) for named in manifest.state() if with_progress]
            plan = await self._bucket.get(manifest.plan)
            if plan is None or None in state:
                continue
            stored = self._plan_of(plan.data)
            if not with_progress:
                return Stored(manifest, found.version, stored)
            progress = await self._worker.run(
                self._guard, partial(read_progress, stored, manifest, [each.data for each in state if each])
            )
            return Stored(manifest, found.version, stored, progress)
        raise self._damaged("an object that the manifest names is missing")

    async def _read_manifest(self) -> Stored:
        """Return the manifest that is to be replaced, without a plan; without a manifest if it cannot be read."""
        found = await self._bucket.get(self._names.manifest)
        if found is None:
            return Stored()
        with suppress(DamagedStateError):
            return Stored(self._decode(found.data), found.version)
        return Stored(version=found.version)

    def _decode(self, data: bytes) -> Manifest:
        return self._guard(partial(read_manifest, data))

    def _plan_of(self, data: bytes) -> Plan:
        return self._guard(partial(Plan.from_json, data))

    def _guard(self, job: Callable[[], R]) -> R:
        try:
            return job()
        except (ValueError, UsageError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> DamagedStateError:
        return damaged(self._bucket, what)

    # --- a commit --------------------------------------------------------------------------------------

    async def commit(
        self,
        parts: Sequence[CloudPart],
        changes: Changes,
        *,
        final: bool,
        replaced: Collection[CloudPart] = (),
    ) -> None:
        """Make parts that were uploaded, and changes, visible in one put, and let ``replaced`` parts go.

        :raises StateConflictError: a later run has begun.
        :raises StorageError: the bucket failed. Whether this was committed is known to the next run.
        """
        before = self._manifest
        await self.files.publish()  # what a failure kept from it
        after = await self._without(before, replaced) if replaced else before
        after = await self._apply(after, parts, changes, final=final)
        if after is before:
            return
        await self._put_commit(after)
        self._step("committed")
        self.files.committed(parts, replaced)
        await self.files.publish()
        gone = before.named() - after.named()
        with suppress(StorageError):  # the next run removes them
            await self._bucket.delete(sorted(gone))
        for name in gone:
            self._lists.pop(name, None)

    async def _without(self, manifest: Manifest, replaced: Collection[CloudPart]) -> Manifest:
        """Return the manifest without some parts."""
        lists: list[Named] = []
        for named in manifest.lists:
            kept = tuple(part for part in self._lists[named.name] if part not in replaced)
            if len(kept) == len(self._lists[named.name]):
                lists.append(named)
            elif kept:
                lists.append(await self._put_list(kept))
        return replace(
            manifest,
            lists=tuple(lists),
            parts=tuple(part for part in manifest.parts if part not in replaced),
            rows=manifest.rows - sum(part.rows for part in replaced),
            bytes=manifest.bytes - sum(part.bytes for part in replaced),
        )

    async def _apply(
        self, manifest: Manifest, parts: Sequence[CloudPart], changes: Changes, *, final: bool
    ) -> Manifest:
        """Return the manifest after a commit; the same one if there is nothing to commit."""
        if changes.walks or changes.fingerprints:
            changes.apply(self.progress, self._stored_rows)
            manifest = replace(manifest, tail=(*manifest.tail, changes))
        if parts:
            manifest = replace(
                manifest,
                parts=(*manifest.parts, *parts),
                rows=manifest.rows + sum(part.rows for part in parts),
                bytes=manifest.bytes + sum(part.bytes for part in parts),
            )
        is_complete = manifest.complete
        if final and not is_sync(self._plan):  # a sync has no end
            is_complete = self.progress.windows_over() == len(self._plan)
        if is_complete != manifest.complete:
            manifest = replace(manifest, complete=is_complete)
        if manifest is not self._manifest:
            manifest = replace(await self._shorten(manifest), commits=manifest.commits + 1)
        return manifest

    async def _shorten(self, manifest: Manifest) -> Manifest:
        """Move what has become too long for the manifest to objects of their own."""
        if len(manifest.parts) > LISTED_PARTS:
            # The later half stays: a sync replaces what is young.
            middle = len(manifest.parts) // 2
            named = await self._put_list(manifest.parts[:middle])
            manifest = replace(manifest, lists=(*manifest.lists, named), parts=manifest.parts[middle:])
        if len(msgspec.json.encode(manifest.tail)) > TAIL_BYTES:
            named = await self._put_named("log", manifest.tail)
            manifest = replace(manifest, logs=(*manifest.logs, named), tail=())
        if manifest.wants_snapshot:
            named = await self._put_named("state", self.progress.dump())
            manifest = replace(manifest, snapshot=named, logs=(), tail=())
        return manifest

    async def _put_list(self, parts: tuple[CloudPart, ...]) -> Named:
        named = await self._put_named("parts", parts)
        if is_sync(self._plan):
            self._lists[named.name] = parts
        return named

    async def _put_named(self, kind: str, value: Any) -> Named:
        self._step("state")
        data = await self._worker.run(packed, value)
        name = self._names.object(kind, self._manifest.epoch, self.files.number())
        await self._bucket.put(name, data)
        return Named(name, len(data), zlib.crc32(data))

    async def _put_commit(self, after: Manifest) -> None:
        before = self._manifest
        after = replace(after, stamp=_stamp())
        self._step("manifest")
        found = await self._replace(after, before.stamp, self._version)
        if found is not None:
            raise StateConflictError(
                f"another run has taken over the pull into {self}"
                f"{f' ({found.owner}, begun at {found.begun_at})' if found.epoch else ''}, so this one may not write "
                "any more",
                path=str(self),
            )

    async def _replace(
        self, manifest: Manifest, before: str | None, version: Version | None
    ) -> Manifest | None:
        """Replace the manifest with the stamp ``before``, None if there is none. Return another one that is there now.

        Where the answer was lost, the stamp of the manifest that is there tells whether it was stored. If not, the
        same put is repeated: of two that arrive, the second fails.
        """
        failure: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                stored = await self._bucket.put(
                    self._names.manifest, encode_manifest(manifest), version or "create"
                )
            except (ConditionFailedError, StorageError) as error:
                failure = error
            else:
                self._manifest, self._version = manifest, stored
                return None
            found = await self._bucket.get(self._names.manifest)
            there = None if found is None else self._decode(found.data)
            if found is not None and there is not None and there.stamp == manifest.stamp:
                self._manifest, self._version = manifest, found.version
                return None
            if there is not None and there.stamp != before:
                return there
            if there is None and before is not None:
                raise self._damaged("its manifest was removed")
        raise StorageError(f"cannot replace the manifest of {self}: {failure}", path=str(self)) from None

    # --- parts -------------------------------------------------------------------------------------------

    async def parts(self) -> list[CloudPart]:
        """Return all parts that are committed."""
        lists = [self._lists.get(named.name) or await self._listed(named) for named in self._manifest.lists]
        return [*chain.from_iterable(lists), *self._manifest.parts]

    async def _listed(self, named: Named) -> tuple[CloudPart, ...]:
        data = await self._bucket.get(named.name)
        if data is None:
            raise self._damaged(f"{named.name} is missing")
        return self._guard(partial(read_parts, named, data.data))

    def __str__(self) -> str:
        return str(self._bucket)


def _stamp() -> str:
    return secrets.token_hex(8)


def _random() -> int:
    return secrets.randbelow(10**12)


def _is_before(end: str | None, start: str | None) -> bool:
    if end is None or start is None:
        return False
    one, other = to_utc(end), to_utc(start)
    return one is not None and other is not None and one <= other
