"""The image of the nightly job: small, without root, and each step does what it says, also where there is no Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from truto_ci_async import Fault, Sandbox

ROOT = Path(__file__).parent.parent
FILE = ROOT / "examples/Dockerfile"
FOLDERS = ("/src", "/venv", "/app", "/data")


class Step(NamedTuple):
    stage: int
    word: str
    rest: str


def steps() -> list[Step]:
    found: list[Step] = []
    stage = -1
    for line in FILE.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            stage += word == "FROM"
            found.append(Step(stage, word, rest))
    return found


def one(word: str) -> str:
    [rest] = [step.rest for step in steps() if step.word == word]
    return rest


def test_it_has_two_stages_is_slim_and_does_not_run_as_root() -> None:
    images = [step.rest.split()[0] for step in steps() if step.word == "FROM"]
    assert len(images) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim", image) for image in images)
    last = [step for step in steps() if step.stage == 1]
    assert not any("pip" in step.rest for step in last), "nothing is installed in the image itself"
    names = [step.word for step in last]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert one("USER") not in ("root", "0")
    assert one("STOPSIGNAL") == "SIGTERM"


def test_what_it_copies_is_there_and_not_ignored() -> None:
    allowed = {
        line[1:]
        for line in Path(f"{FILE}.dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for step in steps()
        if step.word == "COPY" and "--from" not in step.rest
        for source in step.rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def build(root: Path) -> None:
    """Take the steps below a folder that stands for the root of both stages, with the Python that runs this."""

    def inside(text: str) -> str:
        return re.sub(rf"(?<![\w.])({'|'.join(FOLDERS)})\b", rf"{root}\1", text)

    here = root
    for step in steps():
        if step.word == "WORKDIR":
            here = Path(inside(step.rest))
            here.mkdir(parents=True)
        elif step.word == "COPY" and "--from" not in step.rest:
            *sources, target = step.rest.split()
            for source in sources:
                to = Path(inside(target)) if target.startswith("/") else here / target
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    to = to / Path(source).name if target.endswith("/") else to
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, to)
        elif step.word == "RUN" and "useradd" not in step.rest:  # it takes root, and is about the image
            command = re.sub(r"^python\b", sys.executable, inside(step.rest))
            done = subprocess.run(
                ["sh", "-ec", command], cwd=here, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stderr
    (root / "data").mkdir()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image")
    build(root)
    return root


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.in_thread(accounts=3, others=0, interactions=60, page_size=10, token_rate=None) as running:
        yield running


def start(image: Path, sandbox: Sandbox) -> subprocess.Popen[bytes]:
    line = [
        re.sub(r"^/", f"{image}/", part) for part in json.loads(one("ENTRYPOINT")) + json.loads(one("CMD"))
    ]
    name, _, value = one("ENV").partition("=")
    service = {"TRUTO_API_TOKEN": sandbox.token, "TRUTO_API_BASE_URL": sandbox.url, name: value}
    return subprocess.Popen(
        line,
        cwd=image,
        env={"PATH": os.environ["PATH"], **service},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.services
def test_the_image_pulls_stops_in_order_and_goes_on(image: Path, sandbox: Sandbox) -> None:
    """What ``docker stop`` does after ten seconds loses nothing; here nothing is killed at all."""
    for account in sandbox.account_ids:
        sandbox.script(account, [Fault.ok().times(2), Fault.hang().forever()])
    running = start(image, sandbox)
    deadline = time.monotonic() + 60
    while sandbox.stats.requests < 9 and time.monotonic() < deadline:
        time.sleep(0.05)
    began = time.monotonic()
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert (running.returncode, b"Traceback" in err) == (1, False), (out, err)
    sandbox.clear_faults()
    again = start(image, sandbox)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert b"3 of 3 accounts done" in out
    [rows] = (image / "data").glob("*/interactions.ndjson")
    lines = rows.read_bytes().splitlines()
    assert len(lines) == len(set(lines))
    assert len(lines) >= 30
