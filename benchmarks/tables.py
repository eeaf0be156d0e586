"""Keep the figures of runs in ``results/``, and write them into both README: ``python -m benchmarks.tables``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Record, Row

RESULTS = Path(__file__).with_name("results")
HERE = Path(__file__).with_name("README.md")
README = _harness.ROOT / "README.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
# Cells of README.md, and what stands in for each {}: the question, the contender, the key of its record, and the Python
# if it is not the newest that has it.
CELLS: list[tuple[str, list[tuple[str, ...]]]] = [
    ("| {} times as fast as truto-python-sdk |", [("walk plain", "truto-python-sdk", "speed")]),
    (
        "| speed in ratio to a bare aiohttp and msgspec loop: {} on Python 3.11, {} on 3.12 |",
        [("walk plain", "bare aiohttp + msgspec", "speed", version) for version in ("3.11", "3.12")],
    ),
    ("| {} times as fast as ijson with converted items |", [("stream 90 MB", "ijson + convert", "speed")]),
    ("| {} of a buffered body |", [("stream 90 MB", "msgspec, buffered", "memory")]),
    (
        "| {} bytes each | {} as dicts, {} as pydantic models |",
        [
            ("memory, each of 1,000,000 kept items", contender, "item_bytes")
            for contender in (OURS, "json.loads (dicts)", "pydantic")
        ],
    ),
]


def keep(found: Sequence[Record], goals: Sequence[Goal], about: dict[str, Any]) -> None:
    """Put the figures in place of those that an earlier run on this Python had for the same questions."""
    version = ".".join(about["python"].split(".")[:2])
    path = RESULTS / f"{version}.json"
    kept: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    anew = {record["question"] for record in found}
    for run in kept:
        run["records"] = [record for record in run["records"] if record["question"] not in anew]
    asked = [{**goal._asdict(), "most": min(goal.most, 1e9)} for goal in goals]  # JSON has no infinity
    kept = [run for run in kept if run["records"]] + [{"about": about, "records": found, "goals": asked}]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    texts = [f"{_turns.heading(run['about'])}\n\n{_turns.table(rows(run))}\n" for run in kept]
    path.with_suffix(".txt").write_text("\n".join(texts), encoding="utf-8")


def rows(run: dict[str, Any]) -> list[Row]:
    goals = [
        Goal(**(goal | ({"most": float("inf")} if goal["most"] == 1e9 else {}))) for goal in run["goals"]
    ]
    return _turns.rows(run["records"], goals)


def runs() -> dict[str, list[dict[str, Any]]]:
    """The kept runs of each version of Python, the oldest version first."""
    paths = sorted(RESULTS.glob("3.*.json"), key=lambda path: int(path.stem.partition(".")[2]))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def update() -> None:
    """Bring both README up to date."""
    for path, updated in ((HERE, with_table), (README, with_cells)):
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_table(text: str) -> str:
    """Return the text with the table of all kept runs between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    found = runs()
    lines = [f"- Python {_turns.heading(run['about'])}" for kept in found.values() for run in kept]
    lines = [line.replace("Python python ", "Python ") for line in lines]
    answers = {
        version: {row.key: row for run in kept for row in rows(run)} for version, kept in found.items()
    }
    keys = dict.fromkeys(key for of_version in answers.values() for key in of_version)
    heads = ["question", "against", "", *(f"{version}: ours / its" for version in answers), *answers, "asked"]
    table = [heads, ["---"] * len(heads)]
    for key in shortened(keys, answers):
        mine = [of_version.get(key) for of_version in answers.values()]
        figures = [f"{row.ours} / {row.its}".strip(" /") if row else "" for row in mine]
        ratios = [
            f"**{row.ratio}**" if row and row.verdict == "NOT MET" else row.ratio if row else ""
            for row in mine
        ]
        asked = " or ".join(dict.fromkeys(row.asked for row in mine if row and row.asked))
        table.append([*key, *figures, *ratios, asked])
    marked = "\n".join(f"| {' | '.join(line)} |" for line in table)
    heading = "\n".join(lines)
    return f"{before}{BEGIN}\n{heading}\n\nWhat is asked and not met is **bold**.\n\n{marked}\n\n{END}{after}"


def shortened(
    keys: Iterable[tuple[str, str, str]], answers: Mapping[str, Mapping[tuple[str, str, str], Row]]
) -> Iterator[tuple[str, str, str]]:
    """Of two that nothing is asked of, leave one row; ``results/`` has all."""
    rows = [row for of_version in answers.values() for row in of_version.values()]
    asked = {(row.question, row.against) for row in rows if row.asked}
    compared: set[tuple[str, str]] = set()
    for key in keys:
        question, against, what = key
        if what == "resident" or (question, against) in asked or (question, against) not in compared:
            compared.add((question, against))
            yield key


def with_cells(text: str) -> str:
    """Return the text with the figures of ``CELLS``."""
    for template, wanted in CELLS:
        pattern = re.escape(template).replace(r"\{\}", r"[\d.,]+")
        figures = [figure(*each) for each in wanted]
        if None not in figures:
            text = re.sub(pattern, template.format(*figures), text)
    return text


def figure(question: str, contender: str, key: str, version: str = "3.") -> str | None:
    for python, kept in reversed(runs().items()):
        for run in kept if python.startswith(version) else ():
            for record in run["records"]:
                if (record["question"], record["contender"]) == (question, contender) and key in record:
                    return f"{record[key]:,.2g}" if record[key] < 100 else f"{record[key]:,}"
    return None


if __name__ == "__main__":
    update()
