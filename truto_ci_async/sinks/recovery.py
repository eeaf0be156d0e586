"""What a sink finds in its folder: whose output that is, and whether it is what was committed.

The manifest lists rows some time after a checkpoint has them, so it cannot tell whether a folder has any of value. But
it has the id of the output, which is in the state of its pull as well. A pull puts the id there before its first row.
From then on, a run with another state, or with none, is refused while there is more in the folder than is listed.
"""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from truto_ci_async._files import Disk
from truto_ci_async.errors import DamagedStateError, StateConflictError
from truto_ci_async.models.row_views import PULL_SCHEMAS

from .layout import MANIFEST, OWN_FOLDER, Layout
from .manifest import EntryHead, LoggedState, SinkState, read_head, read_manifest, read_parts


def read_entries(directory: Path) -> dict[str, Raw]:
    """Return what the manifest says of each resource.

    :raises StateConflictError: no pull wrote it.
    """
    try:
        return read_manifest(directory) or {}
    except ValueError as error:
        raise _foreign(directory) from error


def check_owner(
    directory: Path, resource: str, entry: Raw | None, state: SinkState | None, *, fresh: bool
) -> None:
    """Make sure that a folder has nothing of value to others than ``state``: all but its parts will be removed.

    ``entry`` is what the manifest says of the resource. ``fresh`` removes what a pull wrote.

    :raises StateConflictError: it has.
    """
    names = [name for name in Layout(resource).find(directory) if not name.startswith(".")]
    if entry is None:
        if names and state is None:
            raise conflict(
                directory,
                f"{min(names)} is already there, and no {MANIFEST} says that a pull wrote it. Use another folder",
            )
        return
    try:
        head = read_head(entry)
    except ValueError as error:
        raise _foreign(directory) from error
    if fresh or (state is not None and _is_of(state, head)):
        return
    if head.rows:
        found = f"{head.rows:,} rows"
    elif head.id and sum((directory / name).lstat().st_size for name in names) > head.bytes:
        found = f"more than {MANIFEST} lists, which may be rows"
    else:
        return
    raise conflict(
        directory,
        f"it holds {found} of an earlier pull whose state is not given. "
        "Use another folder, or start over with fresh=True, which removes them",
    )


def _is_of(state: SinkState, head: EntryHead) -> bool:
    # Earlier versions wrote no id.
    return head.id == state.id if head.id and state.id else state.rows > 0


def read_state(text: bytes, directory: Path, layout: Layout, format: str, *, grows: bool) -> SinkState:
    """Read the state of an output.

    :raises DamagedStateError: it is none.
    :raises StateConflictError: it is one of another format.
    """
    try:
        state: SinkState = msgspec.json.decode(text, type=SinkState | LoggedState)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DamagedStateError(
            f"the state of the output in {directory} cannot be read: {error}", path=str(directory)
        ) from error
    if state.logged.count and grows:
        raise damaged(directory, "one file has no parts")
    if state.columns not in PULL_SCHEMAS or (
        state.columns < OWN_FOLDER and layout.resource != "interactions"
    ):
        raise damaged(directory, f"columns of version {state.columns} are not known")
    if not state.count:
        return replace(state, format=format)
    if state.format != format:
        raise conflict(directory, f"it holds {state.format}, not {format}. Use another folder")
    return state


def check_parts(
    disk: Disk, directory: Path, layout: Layout, state: SinkState, *, grows: bool, is_full: bool
) -> set[str]:
    """Make sure that no committed file has changed, and return the names of all that are committed.

    ``grows``: a file may be longer than its committed part. ``is_full`` compares checksums as well.

    :raises DamagedStateError: one has.
    """

    def check(path: Path, size: int, crc32: int, *, grows: bool) -> None:
        try:
            found = path.lstat()
        except FileNotFoundError:
            if not size:
                return
            raise damaged(path, "it is missing") from None
        if not stat.S_ISREG(found.st_mode):
            raise damaged(path, "it is a link or a device")
        if found.st_size < size or (found.st_size > size and not grows):
            raise damaged(path, f"it has {found.st_size:,} bytes instead of {size:,}")
        if is_full and disk.checksum(path, size) != crc32:
            raise damaged(path, f"the checksum of its first {size:,} bytes differs")

    names: set[str] = set()
    log, logged = directory / layout.parts_log, state.logged
    if logged.length:
        check(log, logged.length, logged.crc32, grows=True)
    try:
        parts = [part for some in read_parts(log, state) for part in some]
    except ValueError as error:
        raise damaged(log, str(error)) from error
    for part in parts:
        check(directory / part.name, part.bytes, part.crc32, grows=grows)
        names.add(part.name)
    is_ours = all(layout.is_committed_name(name, state.format) for name in names)
    if len(names) < len(parts) or not is_ours:
        raise damaged(directory, "its parts are not those of one pull")
    return names | ({log.name} if logged.length else set())


def conflict(directory: Path, what: str) -> StateConflictError:
    return StateConflictError(f"cannot write to {directory}: {what}", path=str(directory))


def damaged(path: Path, what: str) -> DamagedStateError:
    return DamagedStateError(
        f"{path} does not match what was committed: {what}. Restore it, or start over with fresh=True",
        path=str(path),
    )


def _foreign(directory: Path) -> StateConflictError:
    return conflict(directory, f"its {MANIFEST} was not written by a pull. Use another folder")
