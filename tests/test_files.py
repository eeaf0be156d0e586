"""Files that appear whole or not at all, whatever fails or stops half-way."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from truto_ci_async import _files
from truto_ci_async._files import AtomicFile, Disk, Worker, beside, is_in_use, unfinished
from truto_ci_async.errors import UsageError

from .support import file_size_limit

posix = pytest.mark.skipif(os.name == "nt", reason="links and permissions of POSIX")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The path of a file that exists already."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def opened(path: Path) -> AtomicFile:
    file = AtomicFile(path)
    file.open()
    return file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stays_until_the_new_one_is_published(target: Path) -> None:
    file = opened(target)
    file.write(b"one ")
    file.write(b"two")
    file.sync()
    assert target.read_bytes() == b"old"
    file.publish()
    assert target.read_bytes() == b"one two"
    assert names(target.parent) == ["file"]


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any other order a power cut could leave an empty file under the name."""
    steps: list[str] = []
    for step in ("write", "fsync", "rename", "fsync_dir"):
        real: Callable[..., None] = getattr(Disk, step)

        def noted(*args: object, step: str = step, real: Callable[..., None] = real) -> None:
            steps.append(step)
            real(*args)

        monkeypatch.setattr(Disk, step, noted)
    file = opened(target)
    file.write(b"new")
    file.sync()
    file.publish()
    assert steps == ["write", "fsync", "rename", "fsync_dir"]


def test_a_write_that_fails_half_way_leaves_the_writes_before_it(target: Path) -> None:
    """What is kept after a failure must end with a complete page."""
    file = opened(target)
    file.write(b"one ")
    with file_size_limit(6), pytest.raises(OSError, match="too large"):
        file.write(b"two")
    assert file.size == 4
    file.write(b"three")
    file.publish()
    assert target.read_bytes() == b"one three"


def test_a_file_can_be_published_under_another_name(target: Path) -> None:
    file = opened(target)
    file.write(b"half")
    file.publish(target.with_name("kept"))
    assert target.read_bytes() == b"old"
    assert target.with_name("kept").read_bytes() == b"half"


@pytest.mark.parametrize("has_links", [True, False])
def test_another_name_is_not_taken_from_anything_that_has_it(
    has_links: bool, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file can be published under a third name then, on file systems without hard links as well."""
    if not has_links:

        def refuse(*_: object) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr("os.link", refuse)
    file = opened(target)
    file.write(b"new")
    folder = target.with_name("folder")
    folder.mkdir()
    for taken in (folder, target):
        with pytest.raises(FileExistsError):
            file.publish(taken)
    assert target.read_bytes() == b"old"
    file.publish(target.with_name("kept"))
    assert sorted(each.name for each in target.parent.iterdir()) == sorted({"folder", "kept", target.name})
    assert target.with_name("kept").read_bytes() == b"new"


@pytest.mark.parametrize("steps", range(5))
def test_discard_removes_what_is_not_published(target: Path, steps: int) -> None:
    """Before the file is opened too, and a second time."""
    file = AtomicFile(target)
    for step in [file.open, lambda: file.write(b"new"), file.sync, file.publish][:steps]:
        step()
    file.discard()
    file.discard()
    assert target.read_bytes() == (b"new" if steps == 4 else b"old")
    assert names(target.parent) == ["file"]


@posix
def test_what_a_killed_process_left_is_found_again(target: Path) -> None:
    """Under the name of the file, however long or odd that is, and under no other."""
    for name in ("file", "é" * 127, "a" * 255, os.fsdecode(b"caf\xe9*[x]"), "-", "f.0000000000000000"):
        path = target.with_name(name)
        assert unfinished(path) is None
        file = opened(path)
        left = unfinished(path)
        assert left is not None
        assert left.exists()
        assert unfinished(path.with_name("f")) is None
        file.discard()
        assert unfinished(path) is None


@posix
@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_a_file_that_has_its_name_is_published_whatever_comes_after(
    target: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """Some may write to a folder and not read it, so that it cannot be synced."""

    def refuse(self: Disk, path: Path) -> None:
        raise error(f"{path} cannot be synced")

    monkeypatch.setattr(Disk, "fsync_dir", refuse)
    file = opened(target)
    file.write(b"new")
    if error is PermissionError:
        file.publish()
    else:
        with pytest.raises(OSError, match="cannot be synced"):
            file.publish()
    assert file.is_published
    file.discard()
    assert target.read_bytes() == b"new"


def test_a_link_that_leads_back_to_itself_is_refused(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(link)
    file = AtomicFile(link)
    with pytest.raises(UsageError, match="leads back to itself"):
        file.open()
    assert link.is_symlink()


def test_a_link_stays_a_link(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target)
    file = opened(link)
    file.write(b"new")
    file.publish()
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@posix
def test_a_file_keeps_its_permissions(target: Path) -> None:
    """What was private must not become readable by being written again, not even while it is written."""
    target.chmod(0o600)
    file = opened(target)
    (temporary,) = [each for each in target.parent.iterdir() if each != target]
    assert temporary.stat().st_mode & 0o777 == 0o600
    file.publish()
    assert target.stat().st_mode & 0o777 == 0o600
    target.chmod(0o640)
    opened(target).publish()
    assert target.stat().st_mode & 0o777 == 0o640


@posix
def test_a_planted_link_is_not_followed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write to the folder could otherwise have us overwrite a file elsewhere."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    for path in (target, target.with_name("new")):
        path.with_name(f".{path.name}.guessed.part").symlink_to(target)
        with pytest.raises(FileExistsError):
            opened(path)
    disk = Disk()
    link = target.with_name("link")
    link.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        disk.open(link)
    with pytest.raises(FileExistsError):
        disk.create(link)
    assert target.read_bytes() == b"old"


def test_the_longest_name_works(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127)
    file = opened(target)
    file.write(b"new")
    file.publish()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a", "é" * 127, "a" * 255, "a" * 248])
def test_a_name_with_a_suffix_is_never_too_long(tmp_path: Path, name: str) -> None:
    path = beside(tmp_path / name, ".partial")
    path.write_bytes(b"")
    assert path.name.endswith(".partial")
    assert path.name.startswith(name[:120])


def test_a_directory_or_a_device_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="a directory or a device"):
            opened(path)
    assert names(tmp_path) == []


# --- platforms -------------------------------------------------------------------------------------------------

FULL_SYNC = 51  # F_FULLFSYNC of macOS


class MacFcntl:
    """Stands in for the module ``fcntl`` of macOS."""

    F_FULLFSYNC = FULL_SYNC

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.synced: list[int] = []

    def fcntl(self, file: int, command: int) -> int:
        assert command == FULL_SYNC
        if self.number:
            raise OSError(self.number, os.strerror(self.number))
        self.synced.append(os.fstat(file).st_ino)
        return 0


@posix
@pytest.mark.parametrize("number", [0, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY, errno.EIO])
def test_a_sync_reaches_the_medium_on_macos(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, ``fsync`` leaves the data in the cache of the drive. Some file systems cannot do better, though."""
    fcntl, plain = MacFcntl(number), list[int]()
    monkeypatch.setattr(_files, "fcntl", fcntl)
    monkeypatch.setattr(os, "fsync", lambda file: plain.append(os.fstat(file).st_ino))
    disk = Disk()
    file = disk.open(tmp_path / "file")
    inodes = [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.fsync(file)
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.fsync_dir(tmp_path)
    else:
        disk.fsync(file)
        disk.fsync_dir(tmp_path)
    disk.close(file)
    assert (fcntl.synced, plain) == (
        (inodes, []) if not number else ([], [] if number == errno.EIO else inodes)
    )


@posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_synced_is_no_failure_of_the_disk(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems refuse, and keep names by themselves. A file has to be synced everywhere."""

    def refuse(file: int) -> None:
        raise OSError(number, os.strerror(number))

    disk = Disk()
    file = disk.open(tmp_path / "file")
    monkeypatch.setattr(os, "fsync", refuse)
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.fsync_dir(tmp_path)
    else:
        disk.fsync_dir(tmp_path)
    with pytest.raises(OSError, match=os.strerror(number)):
        disk.fsync(file)
    disk.close(file)


class Reader:
    """Has a file open for so many attempts to replace it, as Windows tells it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, attempts: float, code: int | None = 5) -> None:
        self.left = attempts
        self._code = code
        self._replace = os.replace
        monkeypatch.setattr(os, "replace", self.replace)

    def replace(self, source: Path, target: Path) -> None:
        if self.left and target.exists():
            self.left -= 1
            error = PermissionError(errno.EACCES, "Access is denied", str(source))
            if self._code is not None:
                error.winerror = self._code  # type: ignore[attr-defined]
            raise error
        self._replace(source, target)


@pytest.mark.parametrize("code", [5, 32])
def test_a_reader_on_windows_is_waited_for(code: int, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps a file from being replaced for as long as it reads."""
    target.write_bytes(b"old")
    reader = Reader(monkeypatch, 3, code)
    file = opened(target)
    file.write(b"new")
    file.publish()
    assert (target.read_bytes(), reader.left) == (b"new", 0)
    reader.left = math.inf
    monkeypatch.setattr(_files, "IN_USE_SECONDS", 0.05)
    file = opened(target)
    started = time.monotonic()
    with pytest.raises(PermissionError) as caught:
        file.publish()
    assert 0.05 <= time.monotonic() - started < 1.0
    assert is_in_use(caught.value)
    file.discard()


def test_other_refusals_are_told_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.write_bytes(b"old")
    reader = Reader(monkeypatch, 1, None)
    file = opened(target)
    with pytest.raises(PermissionError) as caught:
        file.publish()
    assert (reader.left, is_in_use(caught.value)) == (0, False)
    file.discard()


def test_new_folders_are_synced_into_those_above_them(tmp_path: Path) -> None:
    """Or a power failure takes the whole folder away, whatever was synced in it."""

    class Recording(Disk):
        def fsync_dir(self, path: Path) -> None:
            super().fsync_dir(path)
            synced.append((path, sorted(names(path))))

    synced: list[tuple[Path, list[str]]] = []
    made = [tmp_path / "a" / "b" / "c", tmp_path / "a" / "b", tmp_path / "a"]
    assert Recording().make_folders(made[0]) == made
    assert synced == [(tmp_path, ["a"]), (tmp_path / "a", ["b"]), (tmp_path / "a" / "b", ["c"])]
    assert Recording().make_folders(made[0]) == []
    assert len(synced) == 3
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        Disk().make_folders(tmp_path / "file")


def test_a_folder_that_cannot_be_read_can_hold_another(tmp_path: Path) -> None:
    """It cannot be opened to be synced, as that of the users on some systems."""

    class Closed(Disk):
        def fsync_dir(self, path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    assert Closed().make_folders(tmp_path / "a") == [tmp_path / "a"]


def test_a_busy_loop_lets_the_thread_go_on_that_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the loop may keep the interpreter's lock from it for seconds."""
    gave_way = threading.Event()

    def sleep(seconds: float) -> None:
        gave_way.set()

    monkeypatch.setattr(_files.time, "sleep", sleep)

    async def main() -> bool:
        worker = Worker("test")
        try:
            return await worker.run(gave_way.wait, 10)
        finally:
            worker.close()

    assert asyncio.run(main())
