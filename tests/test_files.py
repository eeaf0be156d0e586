"""Files that appear whole or not at all, whatever fails or stops half-way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from truto_ci_async._files import AtomicFile, Disk
from truto_ci_async.errors import UsageError

from .support import file_size_limit


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


def test_a_failed_rename_can_be_tried_under_another_name(target: Path) -> None:
    file = opened(target)
    file.write(b"new")
    folder = target.with_name("folder")
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        file.publish(folder)
    file.publish()
    assert target.read_bytes() == b"new"


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


def test_a_link_stays_a_link(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target)
    file = opened(link)
    file.write(b"new")
    file.publish()
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_directory_or_a_device_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="a directory or a device"):
            opened(path)
    assert names(tmp_path) == []
