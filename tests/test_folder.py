"""What a pull leaves in its folder: one call reads it, whatever the reader, the format and the number of parts."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import run
from tests.test_sinks import (
    FORMATS,
    ITEMS,
    PAGES,
    PLAN,
    build,
    contents,
    expected_rows,
    manifest,
    pull,
    tmp_path,
)
from truto_ci_async import read_folder, schema
from truto_ci_async.models import Interaction
from truto_ci_async.models.row_views import PULL_COLUMNS
from truto_ci_async.pull.checkpoint.base import Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint

__all__ = ["tmp_path"]

# --- folders that earlier versions began -------------------------------------------------------------------------

# What earlier versions had written when account "a" was done; their states say which columns a folder has.
EARLIER: dict[str, Any] = json.loads((Path(__file__).parent / "old_folders.json").read_text())
EARLIER_COLUMNS = PULL_COLUMNS[:4]


def earlier_folder(name: str, folder: Path) -> MemoryCheckpoint:
    for file, data in EARLIER[name]["files"].items():
        (folder / file).write_bytes(base64.b64decode(data))
    checkpoint = MemoryCheckpoint()
    done = Progress(rows=PAGES * ITEMS, pages=PAGES, outcome="done")

    async def store() -> None:
        await checkpoint.open(PLAN)
        state = EARLIER[name]["state"].encode()
        await checkpoint.commit({("a", 0): done, ("a", 1): done}, state)
        await checkpoint.aclose()

    run(store())
    return checkpoint


def ids(folder: Path) -> list[tuple[Any, ...]]:
    data = read_folder(folder).data(["integrated_account_id", "window_start", "id"])
    assert len(read_folder(folder)) == data.num_rows
    starts = [each[:10] if isinstance(each, str) else each.date().isoformat() for each in data.values[1]]
    return sorted(zip(data.values[0], starts, data.values[2], strict=True))


@pytest.mark.parametrize("name", EARLIER)
def test_a_folder_of_an_earlier_version_is_finished_as_it_was_begun(name: str, tmp_path: Path) -> None:
    """Its readers know its names, columns and types. A reader takes all parts as one table."""
    format, _, version = name.partition("-")
    checkpoint = earlier_folder(name, tmp_path)
    before = read_folder(tmp_path)
    assert ids(tmp_path) == [row for row in expected_rows() if row[0] == "a"]
    types = before.schema.types
    assert tuple(types) == EARLIER_COLUMNS + schema(Interaction).names
    assert types["window_start"] == ("text" if version == "1" else "timestamp")
    old = contents(tmp_path)
    run(pull(build(format, tmp_path), checkpoint))
    new = contents(tmp_path)
    assert ids(tmp_path) == expected_rows()
    assert read_folder(tmp_path).schema.types == manifest(tmp_path)["columns"] == types
    assert not any("/" in file for file in new)
    for file, data in old.items():
        assert file == "manifest.json" or new[file].startswith(data)
    if format == "parquet":
        from pyarrow import parquet

        schemas = {parquet.read_schema(path) for path in tmp_path.glob("part-*.parquet")}
        assert len(schemas) == 1
    else:
        assert b"pulled_at" not in new[f"interactions.{format}"]


@pytest.mark.parametrize("name", EARLIER)
@pytest.mark.parametrize("format", FORMATS)
def test_a_fresh_pull_clears_a_folder_of_an_earlier_version(name: str, format: str, tmp_path: Path) -> None:
    earlier_folder(name, tmp_path)
    run(pull(build(format, tmp_path, fresh=True), MemoryCheckpoint()))
    assert ids(tmp_path) == expected_rows()
    assert not any(file.startswith(("part-", "_parts")) for file in contents(tmp_path))
    assert read_folder(tmp_path).schema.names == PULL_COLUMNS + schema(Interaction).names


@pytest.mark.parametrize("name", EARLIER)
def test_what_an_earlier_version_left_uncommitted_goes(name: str, tmp_path: Path) -> None:
    format = name.partition("-")[0]
    checkpoint = earlier_folder(name, tmp_path)
    for stray in (".part-000009.parquet.tmp", "part-000008.parquet") if format == "parquet" else ():
        (tmp_path / stray).write_bytes(b"half")
    if format != "parquet":
        with (tmp_path / f"interactions.{format}").open("ab") as file:
            file.write(b'half a "row')
        assert ids(tmp_path)
    run(pull(build(format, tmp_path), checkpoint))
    assert ids(tmp_path) == expected_rows()
    assert not contents(tmp_path).keys() & {".part-000009.parquet.tmp", "part-000008.parquet"}
    if format == "parquet":  # a number is used once
        assert {"part-000009.parquet", "part-000010.parquet"} & contents(tmp_path).keys()


def test_another_resource_beside_an_earlier_folder_keeps_it(tmp_path: Path) -> None:
    checkpoint = earlier_folder("parquet-2", tmp_path)
    parts = {name: data for name, data in contents(tmp_path).items() if name.endswith(".parquet")}

    async def scenario() -> None:
        async with build("csv", tmp_path, resource="users") as sink:
            await sink.open(None)
            assert await sink.commit(final=True)
            await sink.committed()

    run(scenario())
    assert contents(tmp_path).items() >= parts.items()
    assert ids(tmp_path) == [row for row in expected_rows() if row[0] == "a"]
    assert len(read_folder(tmp_path, "users")) == 0
    run(pull(build("parquet", tmp_path), checkpoint))
    assert ids(tmp_path) == expected_rows()
