"""Charts and the report: what they show of any data, and that a page can only contain it as text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from importlib import import_module
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

import truto_ci_async
from tests.report_folders import HOSTILE, WINDOWS, person, write_folder
from tests.support import run
from truto_ci_async import Fault, MissingExtraError, Sandbox, TrutoClient, UsageError, User, charts, report
from truto_ci_async.models import Interaction, Page
from truto_ci_async.reports import report_data, report_page
from truto_ci_async.reports.rows import Rows, rows_of

ITEMS = [person(at) for at in range(12)]
CHARTS: dict[str, Callable[[Any], Any]] = {
    "distribution": lambda data: charts.distribution(data, "patience"),
    "compare": lambda data: charts.compare(data, "patience", "interactivity"),
    "over_time": lambda data: charts.over_time(data, "patience"),
    "groups": lambda data: charts.groups(data, "patience", by="user_id"),
}


def columns(count: int, **others: Any) -> dict[str, Any]:
    """Return columns as a data frame of the caller's own has them."""
    return {
        "integrated_account_id": [f"account-{at % 90}" for at in range(count)],
        "tenant_id": [f"tenant-{at % 40}" for at in range(count)],
        "window_start": [datetime(2024, 1 + at % 4, 1, tzinfo=UTC) for at in range(count)],
        "user_id": [f"u{at}" for at in range(count)],
        "user_name": [f"Person {at}" for at in range(count)],
        "patience": [at % 31 / 10 for at in range(count)],
        "interactivity": [at % 10 + 0.5 for at in range(count)],
        **others,
    }


def frame(count: int, **others: Any) -> Any:
    return import_module("polars").DataFrame(columns(count, **others), strict=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two accounts and two windows, without the state of a pull."""
    path: Path = tmp_path_factory.mktemp("rows")
    pages = [(account, window, ITEMS) for account in ("a-1", "a-2") for window in WINDOWS[:2]]
    run(write_folder(path, pages))
    return path


def points(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the points of each layer of a chart."""
    return [layer["data"]["values"] for layer in spec.get("layer", [spec])]


# --- charts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", CHARTS)
def test_each_chart_takes_each_kind_of_data(chart: str, folder: Path) -> None:
    """People have a page, a list, a frame of some library or a folder: all of these show the same rows."""
    page = Page(items=tuple(ITEMS))
    kinds = {
        "list": ITEMS,
        "page": page,
        "pages": [page],
        "polars": page.to_polars(),
        "lazy": page.to_polars().lazy(),
        "pandas": page.to_pandas(),
        "pyarrow": page.to_arrow(),
    }
    specs = {kind: CHARTS[chart](data).to_dict() for kind, data in kinds.items()}
    assert all(spec == specs["list"] for spec in specs.values()), specs
    assert all(points(specs["list"]))
    for data in (folder, str(folder), truto_ci_async.read_folder(folder)):
        assert all(points(CHARTS[chart](data).to_dict()))


def test_coverage_shows_the_gaps(folder: Path) -> None:
    """A window that an account has no row in is what one looks for, so it is a cell with 0."""
    (cells,) = points(charts.coverage(folder).to_dict())
    assert {(cell["account"], cell["window"], cell["rows"]) for cell in cells} == {
        (account, window, 12) for account in ("a-1", "a-2") for window in ("2024-01-01", "2024-02-01")
    }
    one_is_missing = frame(3, integrated_account_id=["a", "a", "b"])
    (cells,) = points(charts.coverage(one_is_missing).to_dict())
    assert {"account": "b", "window": "2024-01-01", "rows": 0} in cells
    with pytest.raises(UsageError, match="no column integrated_account_id"):
        charts.coverage(ITEMS)


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param([], id="empty list"),
        pytest.param(Page[Interaction](items=(), item_type=Interaction), id="empty page"),
        pytest.param(lambda: frame(0), id="empty frame"),
        pytest.param(lambda: frame(3, patience=[None, None, None]), id="all null"),
        pytest.param(lambda: frame(3, patience=[nan, inf, -inf]), id="no number"),
        pytest.param(lambda: frame(1), id="one row"),
        pytest.param(lambda: frame(2, patience=[5, 5]), id="the same twice"),
        pytest.param(lambda: frame(4, patience=[1e308, -1e308, 1e299, -1e299]), id="huge"),
        pytest.param(lambda: frame(2, patience=[0.0, 5e-324]), id="tiny"),
        pytest.param(lambda: frame(2, user_name=[None, ""], user_id=[None, None]), id="nobody"),
        pytest.param(lambda: frame(2, window_start=[None, None]), id="no window"),
        pytest.param([{"patience": 10**400, "interactivity": True, "user_id": []}] * 2, id="odd JSON"),
    ],
)
def test_a_chart_of_little_or_odd_data_is_valid(chart: str, data: Any) -> None:
    """A notebook runs over accounts without rows as well, and JSON has no NaN."""
    spec = CHARTS[chart](data() if callable(data) else data).to_dict()
    json.dumps(spec, allow_nan=False)
    for layer in points(spec):
        for point in layer:
            assert all(abs(value) < 1e300 for value in point.values() if isinstance(value, float))


def test_a_hundred_thousand_people_are_a_bounded_chart_that_says_so() -> None:
    """A browser draws some thousands of points; a chart that silently leaves out the others would mislead."""
    data = rows_of(frame(100_000), *columns(0))  # read once for all of them
    expected = {
        "distribution": (lambda data: charts.distribution(data, "patience"), "100,000 rows have it"),
        "compare": (CHARTS["compare"], "a random 2,000 of 100,000 points"),
        "over_time": (CHARTS["over_time"], "8 of 100,000 people"),
        "groups": (
            lambda data: charts.groups(data, "patience", most=100),
            "median; a random 100 of 75,000 points",
        ),
        "coverage": (charts.coverage, "60 of 90 accounts"),
    }
    for name, (make, says) in expected.items():
        spec = make(data).to_dict(validate=False)
        assert sum(map(len, points(spec))) <= 2 * charts.POINTS, name
        assert says in spec["title"]["subtitle"]


def test_a_sample_is_the_same_each_time() -> None:
    """Otherwise a notebook that is run again shows another picture."""
    data = frame(5_000)
    first, second = (CHARTS["compare"](data).to_dict(validate=False) for _ in range(2))
    assert first == second


def test_a_distribution_counts_every_row_once() -> None:
    """The largest value belongs to the last bar."""
    bars, middle = points(charts.distribution(frame(1_000), "patience", bins=7).to_dict())
    assert sum(bar["rows"] for bar in bars) == 1_000
    assert (bars[0]["from"], round(bars[-1]["to"], 9)) == (0.0, 3.0)
    assert middle == [{"median": 1.5}]


def test_numbers_of_a_database_are_drawn() -> None:
    """``numeric`` of PostgreSQL and DuckDB comes as Decimal: left out, a chart would be empty without a word."""
    pandas, polars = import_module("pandas"), import_module("polars")
    odd = [Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("1e400"), None, True]
    assert Rows({"patience": [Decimal("1.5"), *odd, import_module("numpy").float32(2.5)]}).numbers(
        "patience"
    ) == [
        1.5,
        2.5,
    ]
    values = {"patience": [Decimal("1.5"), None, Decimal("2.25")]}
    for data in (polars.DataFrame(values), pandas.DataFrame(values)):
        assert "2 rows have it" in charts.distribution(data, "patience").to_dict()["title"]["subtitle"]


def test_people_who_share_a_name_are_told_apart() -> None:
    """Two people called Kim are two lines; one person whose name changed is one."""
    data = {
        "integrated_account_id": ["a", "a", "b", "a"],
        "user_id": ["1", "2", "1", "3"],
        "user_name": ["Kim"] * 3 + ["Lee"],
    }
    assert Rows(data).people == ["Kim (1) (a)", "Kim (2)", "Kim (1) (b)", "Lee"]
    renamed = {"integrated_account_id": ["a", "a"], "user_id": ["1", "1"], "user_name": ["Kim", "Kim-Lee"]}
    assert Rows(renamed).people == ["Kim", "Kim"]
    assert Rows(renamed, {("a", "1"): "From users"}).people == ["From users"] * 2
    assert Rows({"user_name": [None, ""], "user_email": ["a@b.example", None]}).people == ["a@b.example", "?"]


def test_missing_values_of_pandas_are_nobody_and_no_window() -> None:
    """There they are NaN, NaT or NA, which are true and have names."""
    pandas = import_module("pandas")
    data = pandas.DataFrame(
        {
            "user_name": pandas.array([None, "Kim"], dtype="string"),
            "user_id": [nan, 7.0],
            "window_start": [pandas.NaT, pandas.Timestamp("2024-01-01", tz="UTC")],
            "patience": pandas.array([None, 1.5], dtype="Float64"),
        }
    )
    rows = rows_of(data, "patience", optional=tuple(data))
    assert (rows.people, rows.windows) == (["?", "Kim"], ["", "2024-01-01T00:00+00:00"])
    assert rows.numbers("patience") == [1.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: charts.distribution(ITEMS, "patients"), "no column patients; there are id,"),
        (lambda: charts.compare(frame(1), "patience", "none"), "no column none"),
        (lambda: charts.distribution(ITEMS, "id"), "the column id has text, not numbers"),
        (lambda: charts.compare(ITEMS, "patience", "id"), "the column id has text, not numbers"),
        (lambda: charts.over_time(ITEMS, "id"), "the column id has text, not numbers"),
        (lambda: charts.groups(ITEMS, "id", by="user_id"), "the column id has text, not numbers"),
        (lambda: charts.distribution(7, "patience"), "pass a data frame, a page"),
        (lambda: charts.distribution("/nowhere", "patience"), "has no manifest.json"),
        (lambda: charts.distribution(ITEMS, "patience", bins=0), "bins is a number from 1"),
        (lambda: charts.distribution(ITEMS, "patience", bins=10**6), "bins is a number from 1"),
        (lambda: charts.over_time(ITEMS, "patience", most=-1), "most is a number of people"),
        (lambda: charts.groups(ITEMS, "patience", by="id", most=10**6), "most is a number of people"),
    ],
)
def test_a_call_that_can_never_be_right_is_told(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize("chart", [*CHARTS, "coverage"])
def test_without_altair_the_error_has_the_line_to_type(chart: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars

    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.setitem(sys.modules, "narwhals", None)  # comes with altair
    for data in (ITEMS, polars.DataFrame(columns(1))):
        with pytest.raises(MissingExtraError, match=r"pip install 'truto-ci-async\[charts\]'"):
            (CHARTS | {"coverage": charts.coverage})[chart](data)


def test_charts_say_which_unit_is_not_promised() -> None:
    """Providers differ in their units, and a bare number invites a comparison that means nothing."""
    for make in CHARTS.values():
        assert "the service promises none" in json.dumps(make(ITEMS).to_dict())


# --- the report ------------------------------------------------------------------------------------------------


class Seen(HTMLParser):
    """The elements of a page, its text, and the scripts in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.lasttag == "script" and self.cdata_elem:
            self.scripts[-1] += data
        else:
            self.text += f" {data.strip()}"

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out Vega, which takes seconds to build; the tests in a browser have it."""
    monkeypatch.setattr(report_page, "_library", lambda: "/* vega */")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.in_thread(accounts=4, interactions=30) as running:
        yield running


@pytest.fixture(autouse=True)
def without_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "sandbox" in request.fixturenames:
        request.getfixturevalue("sandbox").clear_faults()


def pull(sandbox: Sandbox, folder: Path, **options: Any) -> Any:
    async def scenario() -> Any:
        async with TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            times = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-01-15T00:00:00Z"}
            return await truto.interactions.pull_to(folder, sandbox.account_ids, **{**times, **options})

    return run(scenario())


def seen(folder: Path, **options: Any) -> Seen:
    path = report(folder, folder.parent / "report.html", **options)
    return Seen(path.read_text("utf-8"))


@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_a_report_on_a_complete_pull(format: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """What was asked, that it is all there, and everybody with the means of their metrics."""
    pulled = pull(sandbox, tmp_path / "out", format=format, window="week")
    page = seen(tmp_path / "out", title="<b>January</b>")
    assert "Complete. All 4 accounts were pulled to the end." in re.sub(r"\s+", " ", page.text)
    assert "<b>January</b>" in page.text
    assert "b" in page.tags  # of "Complete", not of the title
    assert "2024-01-01T00:00:00Z" in page.text
    people = page.data["people"]
    assert people["columns"] == ["person", "account", "rows", *charts.METRICS]
    assert sum(row[2] for row in people["rows"]) == pulled.rows
    assert {"coverage", "compare", "distribution patience", "over_time patience", "groups patience"} <= set(
        page.data["charts"]
    )
    assert page.data["problems"]["rows"] == []


def test_a_report_on_a_pull_with_only_failures(sandbox: Sandbox, tmp_path: Path) -> None:
    """There is no row, and the page has to say why, and what to do about each account."""
    first, second, *others = sandbox.account_ids
    sandbox.script(first, [Fault.status(403, message="<img onerror=x> missing scope").forever()])
    sandbox.script(second, [Fault.status(429, retry_after=86400).forever()])
    for account in others:
        sandbox.script(account, [Fault.status(404, message="no such thing").forever()])
    pull(sandbox, tmp_path / "out")
    page = seen(tmp_path / "out")
    text = re.sub(r"\s+", " ", page.text)
    assert "Not complete. 0 of 4 accounts are done, 3 failed, 1 are parked." in text
    assert "No row has a metric." in text
    rows = {row[0]: row[2:] for row in page.data["problems"]["rows"]}
    assert rows[first][0] == "failed"
    assert "<img onerror=x> missing scope" in rows[first][1]
    assert rows[second][0] == "parked"
    assert rows[second][2].startswith("run the pull again after 20")
    assert rows[others[0]][2] == "check the account's id, and what the account supports"
    assert "img" not in page.tags
    (cells,) = points(page.data["charts"]["coverage"]["spec"])
    assert {cell["rows"] for cell in cells} == {0}
    assert {cell["account"] for cell in cells} == set(sandbox.account_ids)


def test_a_report_on_an_empty_pull(sandbox: Sandbox, tmp_path: Path) -> None:
    """Done, and nothing found: no chart and no row, but a page."""
    for account in sandbox.account_ids:
        sandbox.script(account, [Fault.items([]).forever()])
    pull(sandbox, tmp_path / "out")
    page = seen(tmp_path / "out")
    assert "Complete." in page.text
    assert page.data["people"]["rows"] == []
    assert page.data["metrics"] == []


def test_a_report_on_a_folder_without_its_state(folder: Path, tmp_path: Path) -> None:
    """A copy of the rows alone is still worth looking at, but nobody can say whether it is all."""
    page = Seen(report(folder, tmp_path / "report.html").read_text("utf-8"))
    assert "cannot tell whether the pull is complete" in page.text
    assert len(page.data["people"]["rows"]) == 24


def test_a_report_while_the_pull_is_running(sandbox: Sandbox, tmp_path: Path) -> None:
    """The state is locked and the files grow; the page is on what was committed."""

    async def scenario() -> None:
        async with TrutoClient(sandbox.token, base_url=sandbox.url) as truto:

            def look(running: Any) -> None:
                page = seen(tmp_path / "out")
                assert "Not complete. 1 of 4 accounts are done, 3 failed." in re.sub(r"\s+", " ", page.text)
                looked.append(len(page.data["people"]["rows"]))

            looked: list[int] = []
            times = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-01-15T00:00:00Z"}
            for account in sandbox.account_ids[1:]:
                sandbox.script(account, [Fault.status(403).forever()])
            await truto.interactions.pull_to(tmp_path / "out", sandbox.account_ids, **times)
            sandbox.clear_faults()
            await truto.interactions.pull_to(tmp_path / "out", sandbox.account_ids, **times, on_start=look)
            assert looked == [30]

    run(scenario())


def test_a_page_contains_what_people_are_called_as_text_only(tmp_path: Path) -> None:
    """Names come from outside, and a page from disk has the rights of its reader."""
    items = [person(at, name) for at, name in enumerate(HOSTILE)]
    run(write_folder(tmp_path / "out", [("a-1", WINDOWS[0], items), ("a-2", WINDOWS[1], items)]))
    page = seen(tmp_path / "out", title=HOSTILE[0])
    assert page.tags.count("script") == 3
    assert not {"img", "iframe", "a"} & set(page.tags)
    assert not {name for name in page.attributes if name.startswith("on")}
    assert "<" not in page.scripts[0]
    assert page.scripts[1] == "/* vega */"
    names = {row[0] for row in page.data["people"]["rows"]}
    assert len(names) == len(HOSTILE) * 2  # the same people in two accounts
    assert not [name for name in names if re.search("[\u202a-\u202e\u2066-\u2069\u0000\n\r]", name)]


def test_a_hundred_thousand_people_are_a_page_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has a part of them and says so; here, with smaller bounds."""
    monkeypatch.setattr(report_data, "PEOPLE", 20)
    monkeypatch.setattr(report_data, "POINTS", 30)
    items = [person(at) for at in range(50)]
    run(
        write_folder(
            tmp_path / "out", [("a-1", window, items) for window in WINDOWS] + [("a-2", WINDOWS[0], items)]
        )
    )
    data = seen(tmp_path / "out").data
    assert len(data["people"]["rows"]) == 20
    assert "100 people" in data["people"]["note"]
    assert "The 20 with the most rows are shown and downloaded." in data["people"]["note"]
    assert "a random 30 of" in data["charts"]["groups patience"]["caption"]["note"]


def test_a_report_never_replaces_the_output_it_is_about(sandbox: Sandbox, tmp_path: Path) -> None:
    pull(sandbox, tmp_path)
    rows = truto_ci_async.read_folder(tmp_path).files[0]
    before = rows.read_bytes()
    with pytest.raises(UsageError, match="write the report elsewhere"):
        report(tmp_path, rows)
    assert rows.read_bytes() == before
    with pytest.raises(UsageError, match=r"has no manifest\.json"):
        report(tmp_path / "elsewhere", tmp_path / "report.html")


def test_a_report_is_of_interactions(sandbox: Sandbox, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with truto_ci_async.TrutoClient(sandbox.token, base_url=sandbox.url) as client:
            await client.users.pull_to(tmp_path, sandbox.account_ids[:1])

    run(scenario())
    with pytest.raises(UsageError, match="made of interactions .* has no 'interactions': it holds users"):
        report(tmp_path, tmp_path / "report.html")


def test_without_the_extra_a_report_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "find_spec", lambda name: None if name == "vl_convert" else name)
    with pytest.raises(MissingExtraError, match=r"vl-convert-python is not installed.*\[charts\]"):
        report(folder, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_policy_of_a_page_names_its_two_scripts(folder: Path, tmp_path: Path) -> None:
    """It allows them by their hashes, so each must be exactly what was hashed."""
    text = report(folder, tmp_path / "report.html").read_text("utf-8")
    policy = re.search('Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe-eval" not in policy[1]
    assert re.findall("'sha256-[^']*'", policy[1]) == list(map(report_page.hash_of, Seen(text).scripts[1:]))


def test_people_have_the_names_that_the_folder_has_of_users(tmp_path: Path) -> None:
    """A provider such as Gong sends no name with the metrics, but the list of its users has them."""
    nameless = [person(at, "") for at in range(3)]
    run(write_folder(tmp_path / "out", [(account, WINDOWS[0], nameless) for account in ("a-1", "a-2")]))
    users = [User(id="u0", name="Ada"), User(id="u1", name="Bo"), User(id="u2")]
    run(write_folder(tmp_path / "out", [("a-1", WINDOWS[0], users)], resource="users"))
    people = {(row[1], row[0]) for row in seen(tmp_path / "out").data["people"]["rows"]}
    assert people == {
        ("a-1", "Ada"),
        ("a-1", "Bo"),
        ("a-1", "p2@team.example (u2) (a-1)"),
        ("a-2", "p0@team.example"),
        ("a-2", "p1@team.example"),
        ("a-2", "p2@team.example (u2) (a-2)"),
    }


def test_the_command_line_makes_a_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says in one line why it cannot."""
    from truto_ci_async.cli.main import main

    out = tmp_path / "report.html"
    assert main(["report", str(folder), "-o", str(out), "--title", "January"]) == 0
    assert "<h1>January</h1>" in out.read_text("utf-8")
    assert f"the report is in {out}" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "-o", str(out)]) != 0
    assert "has no manifest.json: pass the folder that a pull wrote to" in capsys.readouterr().err
