"""What a pull leaves in its folder: one call reads it, whatever the reader, the format and the number of parts."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tests.support import run
from tests.test_sinks import (
    FORMATS,
    ITEMS,
    MEMORY,
    PAGES,
    PLAN,
    build,
    contents,
    expected_rows,
    manifest,
    pull,
    tmp_path,
)
from truto_ci_async import Folder, TrutoClient, read_folder, schema
from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async.errors import DamagedStateError, MissingExtraError, StateConflictError, UsageError
from truto_ci_async.models import Interaction, Meeting, Page, User
from truto_ci_async.models.pulls import AccountPage, PlannedAccount, Window
from truto_ci_async.models.row_views import PULL_COLUMNS
from truto_ci_async.pull.checkpoint.base import Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.reports import committed_file
from truto_ci_async.reports import read_folder as reading
from truto_ci_async.sandbox import Fault, Sandbox
from truto_ci_async.sinks.rows import csv_line, unescape_formula

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


# --- one call reads it -------------------------------------------------------------------------------------------

PULLED_AT = datetime(2024, 2, 1, 12, 30, 0, 500, tzinfo=UTC)
WINDOW = Window("2024-01-01T00:00:00Z", "2024-01-02")
# What readers get wrong when they guess: ids, whole numbers first, None first, times of other offsets, empty text.
ITEMS_SENT: list[dict[str, Any]] = [
    {"id": "007", "user": {"id": "9" * 20, "name": ""}, "metrics": {"patience": 1}},
    {"id": "1e5", "start_time": "2024-01-01T02:00:00+02:00", "metrics": {"patience": 2}},
    {"id": "", "user": {"id": "0", "name": '=1+1,"x"\r\n'}, "metrics": {"patience": 1.5}},
    {"id": "ü\U0001f600", "user": {"name": "'=x", "emails": []}, "metrics": {"interactivity": 1e400}},
    {
        "id": "true",
        "user": {"name": "-5", "emails": [{"email": "a@b"}]},
        "additional_metrics": [{"name": "Calls", "value": 3}, {"name": "a.b", "value": None}],
        "created_at": "2024-01-01T00:00:00.123456Z",
        "remote_data": {"n": 1.50, "t": "\\u00fc"},
    },
]
COUNTS = {"none": 0, "one": 1, "many": 60}


def sent(count: int) -> list[bytes]:
    return [
        json.dumps(ITEMS_SENT[at % len(ITEMS_SENT)]).replace("Infinity", "1e400").encode()
        for at in range(count)
    ]


def typed(texts: list[bytes]) -> list[Any]:
    items, _ = item_reader(Interaction).read_array(b"[" + b",".join(texts) + b"]")
    return items


def pulled_folder(format: str, folder: Path, count: int, **options: Any) -> Path:
    """Write rows in pages of six, and parts of some pages."""

    async def scenario() -> None:
        if format == "parquet":
            options.setdefault("part_rows", 15)
        async with build(format, folder, **options) as sink:
            await sink.open(None)
            raw = sent(count)
            for start in range(0, count, 6):
                items: list[Any] = [Raw(each) for each in raw[start : start + 6]]
                if format != "ndjson":
                    items = typed(raw[start : start + 6])
                account = PlannedAccount(f"a{start}", "t")
                await sink.write(AccountPage(account, WINDOW, Page(items), PULLED_AT))
                await sink.commit()
            await sink.commit(final=True)
            await sink.committed()
            sink.note_complete()

    run(scenario())
    return folder


def expected(count: int) -> list[dict[str, Any]]:
    lead = {
        "tenant_id": "t",
        "window_start": datetime(2024, 1, 1, tzinfo=UTC),
        "window_end": datetime(2024, 1, 2, tzinfo=UTC),
        "pulled_at": PULLED_AT,
    }
    return [
        {"integrated_account_id": f"a{at // 6 * 6}"} | lead | item.row()
        for at, item in enumerate(typed(sent(count)))
    ]


def of_polars(frame: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = frame.to_dicts()
    return rows


def of_pandas(frame: Any) -> list[dict[str, Any]]:
    pandas = pytest.importorskip("pandas")
    columns = {
        name: [
            None if value is None or value is pandas.NA or value != value else value
            for value in frame[name].tolist()
        ]
        for name in frame.columns
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def of_arrow(table: Any) -> list[dict[str, Any]]:
    table.validate(full=True)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def of_duckdb(folder: Folder) -> list[dict[str, Any]]:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as con:
        assert folder.to_duckdb(con, "calls") == len(folder)
        first = of_arrow(con.sql("from calls").to_arrow_table())
        assert of_arrow(con.sql("from folder").to_arrow_table()) == first  # by its capsule
        return first


def of_batches(folder: Folder) -> list[dict[str, Any]]:
    return [
        dict(zip(batch.schema.names, row, strict=True))
        for batch in folder.batches()
        for row in zip(*batch.values, strict=True)
    ]


READERS: dict[str, Callable[[Folder], list[dict[str, Any]]]] = {
    "to_polars": lambda folder: of_polars(folder.to_polars()),
    "to_pandas": lambda folder: of_pandas(folder.to_pandas()),
    "to_arrow": lambda folder: of_arrow(folder.to_arrow()),
    "duckdb": of_duckdb,
    "batches": of_batches,
    "capsule": lambda folder: of_polars(pytest.importorskip("polars").DataFrame(folder)),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_the_same_values_and_types_in_every_library(
    format: str, count: str, tmp_path: Path
) -> None:
    rows = expected(COUNTS[count])
    folder = read_folder(pulled_folder(format, tmp_path, len(rows)))
    assert (len(folder), folder.complete, folder.format) == (len(rows), True, format)
    assert folder.schema.names == PULL_COLUMNS + schema(Interaction).names
    for name, read in READERS.items():
        assert read(folder) == rows, name
        assert read(folder) == rows  # as often as one likes
    types = {field.name: str(field.type) for field in folder.to_arrow().schema}
    assert (types["patience"], types["pulled_at"], types["id"]) == (
        "double",
        "timestamp[us, tz=UTC]",
        "string",
    )
    assert set(map(str, folder.to_pandas().dtypes)) == {"str", "float64", "datetime64[us, UTC]"}
    assert len(folder.files) == {"none": 1, "one": 1, "many": 4 if format == "parquet" else 1}[count]


@pytest.mark.parametrize("format", FORMATS)
def test_columns_can_be_picked(format: str, tmp_path: Path) -> None:
    folder = read_folder(pulled_folder(format, tmp_path, 5))
    names = ["additional_metrics.Calls", "id", "additional_metrics.a.b"]
    assert folder.to_polars(names).rows() == [(None, each["id"], None) for each in ITEMS_SENT[:4]] + [
        (3.0, "true", None)
    ]
    assert folder.data(["-remote_data"]).schema.names == folder.schema.names[:-1]
    for wrong in (["nothing"], ["unknown"], ["additional_metrics.*"]):
        with pytest.raises(UsageError):
            folder.data(wrong)


@pytest.mark.parametrize("format", FORMATS)
def test_a_metric_that_no_float_can_hold_is_infinite(format: str, tmp_path: Path) -> None:
    """As in a page: one absurd number must not keep anybody from reading the folder."""
    huge = json.dumps({"id": "1", "additional_metrics": [{"name": "Calls", "value": -(10**400)}]}).encode()
    items: list[Any] = [Raw(huge)] if format == "ndjson" else typed([huge])

    async def scenario() -> None:
        async with build(format, tmp_path) as sink:
            await sink.open(None)
            await sink.write(AccountPage(PlannedAccount("a"), WINDOW, Page(items)))
            await sink.commit(final=True)
            await sink.committed()

    run(scenario())
    assert read_folder(tmp_path).to_polars(["additional_metrics.Calls"]).rows() == [(-math.inf,)]


def test_other_readers_take_the_folder_of_parts_in_one_call(tmp_path: Path) -> None:
    """Also while a pull is running: what it writes is elsewhere."""
    polars, pandas, duckdb = map(pytest.importorskip, ("polars", "pandas", "duckdb"))
    dataset = pytest.importorskip("pyarrow.dataset")

    for count in COUNTS.values():
        parent = tmp_path / f"{count}"
        rows = expected(count)
        folder = pulled_folder("parquet", parent, count) / "interactions"
        (parent / ".interactions.part-000099.parquet.tmp").write_bytes(b"being written")
        assert of_polars(polars.read_parquet(folder)) == rows
        assert of_polars(polars.scan_parquet(folder).collect()) == rows
        assert of_pandas(pandas.read_parquet(folder)) == rows
        assert of_arrow(dataset.dataset(folder).to_table()) == rows
        assert of_arrow(duckdb.sql(f"from '{folder}/*.parquet'").to_arrow_table()) == rows


# --- what is there, and what is not ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_resources_lie_beside_each_other(format: str, tmp_path: Path) -> None:
    """Each sink keeps what the manifest says of the others."""

    async def write(resource: str, items: list[Any], *, complete: bool) -> None:
        async with build(format, tmp_path, resource=resource) as sink:
            await sink.open(None)
            if format == "ndjson":
                items = [Raw(msgspec.json.encode(item)) for item in items]
            await sink.write(AccountPage(PlannedAccount("a"), WINDOW, Page(items), PULLED_AT))
            await sink.commit(final=True)
            await sink.committed()
            if complete:
                sink.note_complete()

    def is_complete() -> bool:
        content: dict[str, Any] = json.loads((tmp_path / "manifest.json").read_bytes())
        return bool(content["complete"])

    pulled_folder(format, tmp_path, 20)
    assert is_complete()
    entry = manifest(tmp_path)
    run(write("users", [User(id="1", name="Ann"), User(id="2")], complete=False))
    assert not is_complete()
    run(write("meetings", [Meeting(id="m", title="Hello")], complete=True))
    assert manifest(tmp_path) == entry
    assert of_batches(read_folder(tmp_path)) == expected(20)
    users = read_folder(tmp_path, "users")
    assert users.data(["id", "name"]).values == [["1", "2"], ["Ann", None]]
    assert (users.complete, read_folder(tmp_path, "meetings").complete) == (False, True)
    with pytest.raises(UsageError, match="has no 'activity': it holds interactions, users, meetings"):
        read_folder(tmp_path, "activity")
    before = contents(tmp_path)
    with pytest.raises(StateConflictError, match="2 rows"):
        run(write("users", [User(id="1")], complete=True))
    assert contents(tmp_path) == before


def test_rows_that_are_no_interactions_have_the_columns_of_the_pull(tmp_path: Path) -> None:
    """NDJSON passes on what was sent."""
    texts = [
        b'{"id":"1"}',
        b"[1]",
        b'{"their":"row","pulled_at":"x"}',
        b'{"id":"\\ud83d\\ude00"}',
        b'{"id":7}',
    ]

    async def scenario() -> None:
        async with build("ndjson", tmp_path) as sink:
            await sink.open(None)
            for items in (texts, texts[:1]):
                page = Page([Raw(each) for each in items])
                await sink.write(AccountPage(PlannedAccount("a"), WINDOW, page, PULLED_AT))
            await sink.commit(final=True)
            await sink.committed()

    run(scenario())
    folder = read_folder(tmp_path)
    accounts, ids = folder.data(["integrated_account_id", "id"]).values
    assert len(folder) == 6 == len(accounts)
    assert ids == ["1", None, None, "\U0001f600", "7", "1"]
    assert list(folder.data(["pulled_at"]).values[0]) == [PULLED_AT] * 6


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _lose_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"007", b"008", 1))


def _quote(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"007", b'"07', 1))


def _replace_by_noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * (path.stat().st_size // 256 + 1))


@pytest.mark.parametrize("harm", [Path.unlink, _cut, _lose_half, _change, _quote, _replace_by_noise])
@pytest.mark.parametrize("format", FORMATS)
def test_committed_rows_that_were_changed_are_told(
    format: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    """And never read as fewer rows, or as others."""
    path = read_folder(pulled_folder(format, tmp_path, 30)).files[0]
    if harm in (_change, _quote) and format == "parquet":
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    else:
        harm(path)
    folder = read_folder(tmp_path)
    for read in READERS.values():
        with pytest.raises(DamagedStateError) as caught:
            read(folder)
        assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"kind":"truto-manifest-2"}',
        b'{"kind":"truto-manifest-2","resources":{"interactions":{"format":"csv"}}}',
        b'{"kind":"truto-manifest-3","resources":{}}',
        b"[" * 100_000,
    ],
)
def test_a_manifest_that_was_changed_is_told(text: bytes, tmp_path: Path) -> None:
    path = pulled_folder("csv", tmp_path, 1) / "manifest.json"
    path.write_bytes(text)
    with pytest.raises(DamagedStateError) as caught:
        read_folder(tmp_path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "name", ["../x.ndjson", "users.ndjson", "interactions.csv", "interactions/part-000001.parquet"]
)
def test_a_manifest_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    path = pulled_folder("ndjson", tmp_path, 1) / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"interactions.ndjson"', json.dumps(name).encode()))
    with pytest.raises(DamagedStateError):
        read_folder(tmp_path)


def test_a_folder_of_something_else_is_no_pull(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (("", "has no manifest"), ("missing", "has no manifest"), ("file", "is not a folder")):
        with pytest.raises(UsageError, match=why):
            read_folder(tmp_path / path)


def test_rows_behind_the_committed_ones_are_not_read(tmp_path: Path) -> None:
    for format in ("ndjson", "csv"):
        folder = pulled_folder(format, tmp_path / format, 20)
        with read_folder(folder).files[0].open("ab") as file:
            file.write(b'{"half a "row')
        assert of_batches(read_folder(folder)) == expected(20)


def test_large_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed_file, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(reading, "BATCH_ROWS", 7)
    for format in FORMATS:
        folder = read_folder(pulled_folder(format, tmp_path / format, 60))
        assert of_batches(folder) == expected(60)
        assert max(batch.num_rows for batch in folder.batches()) <= 7


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for format in FORMATS:
        pulled_folder(format, tmp_path / format, 3)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert len(read_folder(tmp_path / "parquet")) == 3
    with pytest.raises(MissingExtraError, match="parquet"):
        read_folder(tmp_path / "parquet").to_polars()
    for format in ("ndjson", "csv"):
        assert len(read_folder(tmp_path / format).to_polars()) == 3


# --- CSV ---------------------------------------------------------------------------------------------------------


def test_null_is_nothing_and_empty_text_is_quoted(tmp_path: Path) -> None:
    text = (pulled_folder("csv", tmp_path, 1) / "interactions.csv").read_text()
    assert text.splitlines()[1].startswith(
        f'a0,t,2024-01-01T00:00:00Z,2024-01-02,{PULLED_AT.isoformat()},007,{"9" * 20},"",,,'
    )


def test_formulas_are_escaped_on_request_and_read_back(tmp_path: Path) -> None:
    folder = pulled_folder("csv", tmp_path, 5, csv_formulas="escape")
    text = (folder / "interactions.csv").read_text()
    assert all(cell in text for cell in ('"\'=1+1,""x""', "''=x,", "'-5,"))
    assert of_batches(read_folder(folder)) == expected(5)
    plain = pulled_folder("csv", tmp_path / "plain", 5) / "interactions.csv"
    assert "'-5" not in plain.read_text()


def test_a_folder_keeps_what_it_does_with_formulas(tmp_path: Path) -> None:
    checkpoint = MemoryCheckpoint()
    run(pull(build("csv", tmp_path, csv_formulas="escape"), checkpoint))
    with pytest.raises(StateConflictError, match="begun with csv_formulas='escape'"):
        run(pull(build("csv", tmp_path), checkpoint))
    run(pull(build("csv", tmp_path, csv_formulas="escape"), checkpoint))


@given(texts=st.lists(st.text("'=+-@\t\r\n\uff1da1\",", max_size=4), min_size=2, max_size=4))
def test_escaped_cells_are_read_back_and_none_is_a_formula(texts: list[str]) -> None:
    line = csv_line(texts, True)
    (cells,) = csv.reader(io.StringIO(line, newline=""))
    assert [unescape_formula(cell) for cell in cells] == texts
    assert not any(cell[:1] in set("=+-@\t\r\n\uff1d") - {""} for cell in cells)


# --- with the service --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_two_pulls_of_one_window_can_be_put_in_order(format: Any, tmp_path: Path) -> None:
    """The later row of a person and window is the one that counts."""
    asked = {"start_time": "2024-01-01", "end_time": "2024-01-03", "window": "day"}

    async def scenario() -> None:
        async with Sandbox(accounts=2) as sandbox, TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            for night in ("first", "second"):
                report = await truto.interactions.pull_to(
                    tmp_path / night, sandbox.account_ids, format=format, **asked
                )
                assert report.complete

    begun = datetime.now(UTC)
    run(scenario())
    first, second = (
        read_folder(tmp_path / night).data(["pulled_at"]).values[0] for night in ("first", "second")
    )
    assert begun <= min(first) <= max(first) < min(second) <= max(second) <= datetime.now(UTC)


def test_a_pull_is_complete_once_every_account_is_done(tmp_path: Path) -> None:
    """And is no longer while it goes on with more accounts."""
    asked = {"start_time": "2024-01-01", "end_time": "2024-01-03"}

    async def scenario() -> None:
        async with Sandbox(accounts=2) as sandbox, TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            first, second = sandbox.account_ids

            async def pull_to(accounts: list[str], **options: Any) -> tuple[bool, bool]:
                report = await truto.interactions.pull_to(
                    tmp_path, accounts, format="csv", **options, **asked
                )
                return report.complete, read_folder(tmp_path).complete

            assert await pull_to([first]) == (True, True)
            sandbox.script(second, [Fault.status(403)] * 9)
            assert await pull_to([first, second], grow=True) == (False, False)
            sandbox.clear_faults()
            for _ in range(2):
                assert await pull_to([first, second], grow=True) == (True, True)

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_a_pull_without_rows_leaves_the_columns(format: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Sandbox(accounts=1) as sandbox, TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            for _ in range(2):
                report = await truto.interactions.pull_to(
                    tmp_path, [], allow_empty=True, format=format, start_time="2024-01-01"
                )
                assert report.complete

    run(scenario())
    folder = read_folder(tmp_path)
    assert (len(folder), folder.complete) == (0, True)
    (path,) = folder.files
    if format == "csv":
        assert path.read_text() == ",".join(folder.schema.names) + "\n"
    elif format == "ndjson":
        assert path.read_bytes() == b""
    else:
        assert pytest.importorskip("pyarrow.parquet").read_schema(path).names == list(folder.schema.names)


# --- the documentation -------------------------------------------------------------------------------------------

GUIDE = (Path(__file__).parents[1] / "docs" / "reference" / "output-folder.md").read_text(encoding="utf-8")
BLOCKS = [
    (info.split(), code) for info, code in re.findall(r"```python ?([^\n]*)\n(.*?)```", GUIDE, re.DOTALL)
]


@pytest.fixture(scope="module")
def documented() -> Iterator[Path]:
    """Pull into `data` in each format, with what readers get wrong."""

    async def scenario(folder: Path) -> None:
        async with (
            Sandbox(accounts=1) as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url) as truto,
        ):
            for format in cast("list[Any]", FORMATS):
                report = await truto.interactions.pull_to(
                    folder / format / "data",
                    sandbox.account_ids,
                    format=format,
                    start_time="2024-01-01",
                    end_time="2024-01-03",
                    window="day",
                )
                assert report.complete

    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        run(scenario(Path(name)))
        yield Path(name)


def rows_of(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of whatever a reader made."""
    if hasattr(frame, "collect") and hasattr(frame, "sparkSession"):
        return [row.asDict() for row in frame.collect()]
    if hasattr(frame, "to_arrow_table"):
        frame = frame.to_arrow_table()
    if hasattr(frame, "to_pylist"):
        return of_arrow(frame)
    return of_polars(frame) if hasattr(frame, "to_dicts") else of_pandas(frame)


def check_blocks(format: str, folder: Path, *, globals: dict[str, Any] | None = None) -> int:
    """Run the code for a format, and compare what it reads with what ``read_folder`` does."""
    kind = "spark" if globals else format
    names = {**(globals or {})}
    want = of_batches(read_folder(folder / format / "data"))
    frames = 0
    for info, code in BLOCKS:
        if format not in info or (("spark" in info) != (kind == "spark") and "frame" in code):
            continue
        names.pop("frame", None)
        exec(code, names)
        if "frame" not in names:
            continue
        frames += 1
        got = rows_of(names["frame"])
        assert len(got) == len(want)
        key = "integrated_account_id"
        got.sort(key=lambda row: (row[key], row["id"] or ""))
        want.sort(key=lambda row: (row[key], row["id"] or ""))
        for name, wanted in ((name, [row[name] for row in want]) for name in want[0]):
            source = "metrics.patience" if name == "patience" and "metrics.patience" in got[0] else name
            if source in got[0] and (format != "ndjson" or name in ("id", "patience", "pulled_at")):
                found = [plain(row[source], name) for row in got]
                assert found == [None if each == "" and "pandas" in code else each for each in wanted], (
                    code,
                    name,
                )
    return frames


def plain(value: Any, name: str) -> Any:
    if name.endswith(("_at", "_time", "_start", "_end")) and value is not None:
        value = datetime.fromisoformat(value) if isinstance(value, str) else value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return value


@pytest.mark.parametrize("format", FORMATS)
def test_the_lines_of_the_documentation_read_a_folder(
    format: str, documented: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("polars", "pandas", "pyarrow", "duckdb"):
        pytest.importorskip(library)
    monkeypatch.chdir(documented / format)
    assert check_blocks(format, documented) == 5


@pytest.mark.services
def test_spark_reads_a_folder(documented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the JVM starts, and stays
    sql = import_module("pyspark.sql")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.sql.session.timeZone", "UTC")
    spark = builder.config("spark.ui.enabled", "false").getOrCreate()
    try:
        for format in FORMATS:
            (tmp_path / "data").unlink(missing_ok=True)
            (tmp_path / "data").symlink_to(documented / format / "data")
            assert check_blocks(format, documented, globals={"spark": spark}) == 1
    finally:
        spark.stop()
