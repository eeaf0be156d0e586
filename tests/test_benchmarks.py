"""The benchmarks: their figures are the ones that both README show, and a table names what is not met."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _turns, tables
from benchmarks.__main__ import MODULES, QUICK, chosen, parser
from benchmarks._turns import OURS, Goal, Measured, Turn

FOUND = _turns.records(
    "walk",
    True,
    {
        OURS: Measured([Turn(2.0, 1.0), Turn(3.0, 1.5)], 10_000_000),
        "bare": Measured([Turn(1.0, 0.5), Turn(2.0, 1.0)], 5_000_000),
    },
    per=100,
)
GOALS = [Goal("walk", "bare", "speed", least=0.5), Goal("walk", "bare", "more_us", most=50)]
ABOUT = {"python": "3.12.1", "cpus": 2}


def test_both_readme_show_the_kept_figures() -> None:
    for path, updated in ((tables.HERE, tables.with_table), (tables.README, tables.with_cells)):
        text = path.read_text(encoding="utf-8")
        assert updated(text) == text, f"{path} is not up to date: run `python -m benchmarks.tables`"


def test_a_readme_has_each_cell_once() -> None:
    text = tables.README.read_text(encoding="utf-8")
    for template, _ in tables.CELLS:
        assert text.count(template.rpartition("{}")[2]) == 1


def test_a_ratio_is_the_median_of_the_turns_and_is_held_against_the_goal() -> None:
    rows = {row.what: row for row in _turns.rows(FOUND, GOALS)}
    assert (rows["speed"].ratio, rows["speed"].verdict) == ("0.583", "met")
    assert (rows["more_us"].ratio, rows["more_us"].asked, rows["more_us"].verdict) == (
        "5,000",
        "<= 50",
        "NOT MET",
    )
    assert rows["cpu"].ours == "12.5 CPU ms"
    assert "memory" not in rows


def test_a_run_takes_the_place_of_the_same_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    other = [record | {"question": "pull"} for record in FOUND]
    tables.keep([*FOUND, *other], GOALS, ABOUT)
    tables.keep(FOUND, GOALS, ABOUT | {"load": 7})
    (kept,) = tables.runs().values()
    assert [{record["question"] for record in run["records"]} for run in kept] == [{"pull"}, {"walk"}]
    text = tables.with_table(f"before\n{tables.BEGIN}stale\n{tables.END}after\n")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert "| walk | bare | speed | 25 ms / 15 ms | 0.583 | >= 0.5 |" in text
    assert "| **5,000** | <= 50 |" in text
    assert "load 7" in (tmp_path / "3.12.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_each_benchmark_can_be_part_of_a_run(name: str) -> None:
    try:
        module: Any = importlib.import_module(f"benchmarks.{MODULES[name]}")
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed")
    options = chosen(module, name, parser().parse_args(["--quick"]))
    assert options.contenders == ""
    assert callable(module.run)
    assert all(isinstance(goal, Goal) for goal in module.GOALS)
    assert set(QUICK) <= set(MODULES)
