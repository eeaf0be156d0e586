"""Command lines: what is said about wrong ones, completion, and what a terminal of any width shows."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from truto_ci_async import Fault, Sandbox
from truto_ci_async.cli import kept_files
from truto_ci_async.cli.main import main
from truto_ci_async.cli.messages import CONFLICT, DONE, FAILED, INTERRUPTED, USAGE
from truto_ci_async.cli.output.cells import cell_width
from truto_ci_async.cli.output.streams import interruptible

DEADLINE = 30.0  # seconds for a process to do what it is waited for
WINDOW = "--start-time 2024-01-01 --end-time 2024-02-01"
posix = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals and kills of POSIX")


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Generator[Sandbox]:
    with Sandbox.in_thread(accounts=1, interactions=7, page_size=3) as running:
        monkeypatch.setenv("TRUTO_API_BASE_URL", running.url)
        monkeypatch.setenv("TRUTO_API_TOKEN", running.token)
        yield running


# --- wrong command lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("interaction", ["'interaction'", "did you mean interactions?"]),
        ("acounts --sandbox", ["'acounts'", "did you mean accounts?"]),
        ("xyz", ["'xyz'", "there are interactions, meetings"]),
        ("-a x interactions", ["no option -a", "truto-ci COMMAND -a"]),
        ("interactions --acount x", ["--acount", "did you mean --account?"]),
        ("interactions --start 2024-01-01", ["--start", "did you mean --start-time?"]),
        ("interactions -a", ["-a needs a value: -a ID"]),
        ("interactions -o jsn", ["--output: 'jsn'", "table, json, ndjson, csv, yaml", "did you mean json?"]),
        ("interactions --format stream", ["--format", "-o FORMAT", "--response-format"]),
        ("interactions --response-format unifed", ["'unifed'", "did you mean unified?"]),
        ("interactions --limit many", ["--limit: 'many'", "a whole number of 1 or more"]),
        ("interactions --timeout soon", ["--timeout: 'soon'", "a number of seconds above 0"]),
        ("interactions --start-time yesterday", ["'yesterday' is not a time", "write it like 2024-01-31"]),
        ("interactions --start-time 2024-01-01T09:00:00", ["has no time zone", "2024-01-01T09:00:00"]),
        (
            f"interactions -a x {WINDOW.replace('02-01', '01-01')}",
            ["--end-time 2024-01-01 is not after --start-time"],
        ),
        ("activity -a x", ["activity needs --start-time and --end-time"]),
        ("meetings -a x --columns titel", ["no column 'titel'", "title"]),
        ("interactions -a x -q limit", ["-q takes NAME=VALUE", "'limit'"]),
        ("unified crm", ["RESOURCE is missing", "unified [OPTIONS] MODEL RESOURCE [ID]"]),
        ("unified conversational-intelligence meeting -a x", ["it has meetings"]),
        (
            "export contacts -a x",
            ["MODEL/RESOURCE", "conversational-intelligence/interactions", "'contacts'"],
        ),
        ("accounts a b", ["unexpected extra argument (b)"]),
        ("accounts a -a b", ["'a'", "-a 'b'", "give one"]),
        ("pull --accounts a", ["--out FOLDER", "--to URL"]),
        ("pull --accounts a --out x --to duckdb:///y.db", ["--out and --to", "give one"]),
        ("pull --out x", ["which accounts?", "-a, --accounts-file, or --integration"]),
        ("pull --accounts a --out x --mode merge", ["--mode: for --to only"]),
        ("pull --accounts a --to duckdb:///y.db -o csv", ["-o: for --out only"]),
        (
            "pull --accounts a --out x --window 5x",
            ["--window: '5x'", "day, week, month, or a length such as 6h"],
        ),
        ("pull --accounts a --out x --resource meeting", ["'meeting'", "meetings"]),
        (
            "pull --accounts a --to mysql://u:secret@h/db",
            ["mysql://u:***@h/db", "postgresql://", "duckdb:///", "s3://bucket/prefix", "extra: cloud"],
        ),
        (
            "pull --accounts a --to calls.db",
            ["'calls.db' is no URL", "duckdb:///calls.db", "--out is for a folder"],
        ),
        (
            "pull --accounts a --out x --resource users,meeting",
            ["'meeting' is not one of", "did you mean meetings?"],
        ),
        ("sync --accounts a --to s3:/bucket/x", ["is no URL", "s3://bucket/prefix"]),
        ("sync --accounts a --to duckdb:///x.db --time-zone Europe/Berln", ["did you mean Europe/Berlin?"]),
        ("pull --accounts-file none --out x", ["cannot read accounts from none: No such file"]),
        ("interactions -a x --columns user.emial", ["no column 'user.emial'", "did you mean user_email?"]),
        ("interactions -a x --quiet -v", ["--quiet and --verbose contradict each other"]),
        ("interactions x", ["unexpected extra argument (x)", "write -a ID"]),
        ("interactions -a x --out y.csv.gz", ["no format has the suffix .gz", ".csv", "-o"]),
        ("interactions -a x --out /proc/y.csv", ["--out /proc/y.csv cannot be written there: No such file"]),
        ("interactions -a x --api-url htps://host", ["--api-url 'htps://host'", "https://api.truto.one"]),
        ("interactions -a x --profile p", ["there is no profile 'p'", "`truto-ci login`"]),
        ("report nowhere", ["there is no folder 'nowhere'", "`truto-ci pull --out`"]),
        ("sync --accounts a", ["where to? Give --to URL"]),
        ("sync --accounts a --to duckdb:///y.db --since x", ["no option --since"]),
        ("sync --to duckdb:///x.db --lookback soon", ["--lookback: 'soon' is not a length such as 6h or 2d"]),
        ("completion tcsh", ["'tcsh'", "bash, zsh, fish"]),
        ("interactions -a x --from 2024-01-01", ["--from", "write --start-time TIME"]),
        ("interactions --account-id x", ["--account-id", "write -a ID"]),
        ("interactions -a x --output out.csv", ["'out.csv' is no format", "write --out out.csv"]),
        ("meetings -a x get 1", ["unexpected extra argument (1)", "write -m NAME for a method"]),
        ("transcripts -a x", ["needs --meeting ID", "`truto-ci meetings` lists them"]),
        (
            "sync --accounts a --to duckdb:///y.db --max-history 3months",
            ["neither a length such as 90d nor a time"],
        ),
        ("interactions -a a,b", ["--account: it is one account", "truto-ci pull -a ID,ID --out FOLDER"]),
        ("meetings list -a x", ["'list'", "write -m list"]),
        ("pull x --out y", ["unexpected extra argument (x)", "write -a ID"]),
        ("pull -a x y", ["unexpected extra argument (y)", "write --out FOLDER"]),
        ("transcripts 1 -a x", ["unexpected extra argument (1)", "write --meeting ID"]),
        ("export crm contacts -a x", ["unexpected extra argument (contacts)", "write MODEL/RESOURCE"]),
        ("logout nope", ["unexpected extra argument (nope)", "write --profile NAME"]),
        ("login secret", ["it takes no argument", "--token-stdin"]),
        ("interactions -a x --json", ["there is no option --json", "write -o json"]),
        ("sync -a x --out y", ["there is no option --out", "write --to URL"]),
        ("sync -a x --to duckdb:///y.db --start-time -7d", ["--start-time", "write --max-history TIME"]),
        ("help", ["there is no command 'help'", "write truto-ci --help"]),
        (
            "interactions -a x --start-time -7d --end-time now --next-cursor abc",
            ["--start-time now-7d", "pass what the earlier run printed"],
        ),
        ("--sandbox report x", ["truto-ci report: it takes no --sandbox"]),
        ("--timeout 5 completion bash", ["truto-ci completion: it takes no --timeout"]),
        ("pull --accounts a --to duckdb:///y.db --lookback 2d", ["--lookback is for transcripts"]),
        ("pull --accounts a --out x --resource users --start-time -7d", ["--start-time", "users"]),
        ("pull --accounts a --to duckdb:///y.db --resource users --window day", ["--window", "users"]),
        (
            "sync --accounts a --to duckdb:///y.db --resource users --lookback 2d",
            ["--lookback: for windows", "read whole"],
        ),
    ],
)
def test_a_wrong_command_line_says_what_was_given_and_what_is_right(
    line: str,
    said: Sequence[str],
    sandbox: Sandbox,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == USAGE
    err = capsys.readouterr().err
    for words in said:
        assert words in err
    assert "secret" not in err
    is_of_columns = " column " in err
    assert is_of_columns or not re.search(r"\b[a-z]+_[a-z]+\b", err), "the name of an argument"
    assert sandbox.requests == []
    assert [*tmp_path.iterdir()] == []


def test_the_usage_is_that_of_the_command_at_hand(capsys: pytest.CaptureFixture[str]) -> None:
    main(["meetings", "--nothing"])
    assert "usage: truto-ci meetings [OPTIONS] [ID]" in capsys.readouterr().err


def test_a_pasted_account_may_have_spaces_around_it(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["users", "-a", f" {sandbox.account_ids[0]} "]) == DONE


def test_names_that_match_nothing(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accounts", "--status", "connected"]) == DONE
    assert "no account has the status 'connected'; did you mean" in capsys.readouterr().err
    assert main(["capabilities", sandbox.account_ids[0], "--resource", "meeting"]) == DONE
    assert "no resource meeting; did you mean meetings?" in capsys.readouterr().err


def test_an_integration_that_no_account_has(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accounts", "--integration", "gongg"]) == DONE
    assert "no account has the integration 'gongg'; did you mean gong?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("interactions -a {account} --start-time -7d", FAILED, "add --end-time, such as now"),
        ("interactions --start-time -7d --end-time now", FAILED, "add -a ID (`truto-ci accounts` lists"),
        ("meetings none -a {account}", FAILED, "check the id"),
        (
            "pull --integration gnog --out {folder}",
            USAGE,
            "no account has the integration 'gnog'; the integrations are gong (2), hubspot (1). Did you mean gong? As",
        ),
        (
            "pull --integration gong --status activ --out {folder}",
            USAGE,
            "Did you mean active?",
        ),
    ],
)
def test_what_the_service_refuses_is_mended_by_an_option(
    line: str, code: int, said: str, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    assert main(shlex.split(line.format(account=sandbox.account_ids[0], folder=folder))) == code
    assert said in capsys.readouterr().err
    assert not folder.exists()


def test_a_pull_of_another_question_names_the_option_that_starts_over(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = ["pull", "-a", sandbox.account_ids[0], "--out", str(tmp_path / "x"), *WINDOW.split(), "--quiet"]
    assert main(line) == DONE
    assert main([*line, "--limit", "5"]) == CONFLICT
    err = capsys.readouterr().err
    assert "start over with --fresh" in err
    assert "fresh=True" not in err


# --- completion ------------------------------------------------------------------------------------------------


def completed(words: str, environment: dict[str, str]) -> set[str]:
    """Return what a shell would offer for the last word, which may be empty."""
    given = words.split(" ")
    shell = {"_TRUTO_CI_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(given) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "truto_ci_async"], env={**os.environ, **environment, **shell}, text=True,
        capture_output=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return {line.partition(",")[2] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("truto-ci inter", {"interactions"}),
        ("truto-ci nteractions", set()),
        ("truto-ci interactions --resp", {"--response-format"}),
        ("truto-ci interactions -o ", {"table", "json", "ndjson", "csv", "yaml", "parquet"}),
        ("truto-ci completion f", {"fish"}),
        ("truto-ci users -a 0", {"0123"}),
        ("truto-ci capabilities 0", {"0123"}),
        ("truto-ci pull -a 4", {"4567"}),
        ("truto-ci pull --integration g", {"gong"}),
        ("truto-ci pull --resource meetings,u", {"meetings,users"}),
        ("truto-ci interactions --super-query ", {"apac", "wnam"}),
        ("truto-ci pull -a 0123,", {"0123,4567"}),
        ("truto-ci interactions --columns user.e", {"user.email", "user.emails"}),
        ("truto-ci interactions --columns user_i", {"user_id"}),
        ("truto-ci interactions --columns id,user.email,metrics.p", {"id,user.email,metrics.patience"}),
        ("truto-ci interactions --columns user.email,user.e", {"user.email,user.emails"}),
        ("truto-ci meetings --columns id,ti", {"id,title"}),
        ("truto-ci unified conversational-intelligence users --columns na", {"name"}),
        ("truto-ci export conversational-intelligence/activity --columns calls_h", {"calls_hosted"}),
        ("truto-ci unified crm contacts --columns ", set()),
    ],
)
def test_a_shell_completes_commands_options_choices_and_accounts(
    words: str, offered: set[str], tmp_path: Path
) -> None:
    """Without a token, and without a service."""
    cache = tmp_path / "truto-ci" / "accounts"
    cache.parent.mkdir()
    cache.write_text("0123\n4567\n")
    assert completed(words, {"XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}) == offered


@pytest.mark.parametrize("command", ["logout", "whoami"])
def test_a_shell_completes_profiles(command: str, tmp_path: Path) -> None:
    file = tmp_path / "truto-ci" / "profiles.json"
    file.parent.mkdir()
    file.touch(0o600)
    file.write_text('{"staging": {"base_url": "https://x.example"}}')
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "APPDATA": str(tmp_path)}
    assert completed(f"truto-ci {command} --profile s", environment) == {"staging"}


def test_completing_columns_loads_no_client() -> None:
    program = """
import json, os, sys
os.environ |= {"_TRUTO_CI_COMPLETE": "bash_complete", "COMP_WORDS": "truto-ci users --columns n", "COMP_CWORD": "3"}
from truto_ci_async.cli.main import main
main([])
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=DEADLINE, check=True)
    offered, loaded = done.stdout.decode().splitlines()
    assert offered == "plain,name"
    assert not {"aiohttp", "anyio", "yaml", "truto_ci_async.client"} & {*json.loads(loaded)}


def test_help_and_completion_load_neither_client_nor_models() -> None:
    """They have to be there in a fraction of a second."""
    program = """
import json, sys
sys.argv[1:] = ["pull", "--help"]
from truto_ci_async.cli.main import main
from contextlib import redirect_stdout
with redirect_stdout(sys.stderr):
    main()
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=DEADLINE, check=True)
    loaded = json.loads(done.stdout)
    assert not {"aiohttp", "rich", "anyio", "yaml", "truto_ci_async.client", "truto_ci_async.models"} & {
        *loaded
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == DONE
    assert f"_TRUTO_CI_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_accounts_are_remembered(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those listed last come first; a sandbox of a command leaves nothing; what cannot be written is no failure."""
    monkeypatch.setattr(kept_files, "cache_file", lambda: tmp_path / "new" / "accounts")
    assert main(["accounts", "--sandbox", "--quiet"]) == DONE
    assert kept_files.cached_accounts() == ()
    assert main(["accounts", "--quiet"]) == DONE
    known = [each["id"] for each in sandbox.accounts]
    assert list(kept_files.cached_accounts()) == known
    assert main(["accounts", known[-1], "--quiet"]) == DONE
    assert list(kept_files.cached_accounts()) == [known[-1], *known[:-1]]
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kept_files, "cache_file", lambda: tmp_path / "file" / "accounts")
    assert main(["accounts", "--quiet"]) == DONE


def test_no_more_accounts_are_remembered_than_a_shell_can_offer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor any whose id would do something to the terminal."""
    file = tmp_path / "accounts"
    monkeypatch.setattr(kept_files, "cache_file", lambda: file)
    kept_files.remember_accounts([None, "", "\x1b[2J", "a\nb", *map(str, range(1_500))])
    assert file.read_text().splitlines() == [str(number) for number in range(1_000)]
    file.write_text("x\n" * 2_000)
    assert len(kept_files.cached_accounts()) == 1_000


# --- terminals -------------------------------------------------------------------------------------------------


# Takes the pseudo-terminal for its own, as a shell's child has it, and becomes the command.
WITH_TERMINAL = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "truto_ci_async", *sys.argv[1:]])
"""


def in_terminal(
    line: str, columns: int, *, interrupt_at: bytes | None = None, code: int = 0, **environment: str
) -> str:
    """Run a command in a pseudo-terminal, and return what it shows; Ctrl-C is pressed at ``interrupt_at``."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "PAGER")}
    with subprocess.Popen(
        [sys.executable, "-c", WITH_TERMINAL, *shlex.split(line)], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**kept, "TERM": "xterm-256color", **environment},
    ) as started:  # fmt: skip
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux's way of saying that the other end is closed
            while piece := os.read(ours, 65_536):
                shown += piece
                if interrupt_at is not None and interrupt_at in shown:
                    os.write(ours, b"\x03")
                    interrupt_at = None
        os.close(ours)
        assert started.wait(DEADLINE) == code, shown
    return shown.decode()


def plain(shown: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", shown).replace("\r\n", "\n").splitlines()


@posix
@pytest.mark.parametrize("columns", [80, 200])
def test_a_table_fits_the_terminal(sandbox: Sandbox, columns: int) -> None:
    """No line wraps, whole ids are there, numbers stand to the right and times are short."""
    account = sandbox.account_ids[0]
    head, *lines = plain(in_terminal(f"interactions -a {account} {WINDOW} --quiet", columns))
    assert max(map(cell_width, [head, *lines])) <= columns
    table = "\n".join(lines)
    assert all(user in table for user in sandbox.user_ids(account))
    end = head.index("monologue") + len("monologue")
    assert all(re.search(r"(\d\.\d\d|-)$", line[:end]) for line in lines if "@" in line)
    assert ("2024-01-01..2024-02-01" in table) is (columns == 200)
    doctor = [each for each in plain(in_terminal("doctor", columns)) if "-> " not in each]
    assert max(map(len, doctor)) <= columns
    meetings = plain(in_terminal(f"meetings -a {account} --max-items 3 --quiet", columns))
    assert max(map(cell_width, meetings)) <= columns
    assert re.search(r"  \d{4}-\d\d-\d\d \d\d:\d\dZ  ", meetings[-1])


@posix
@pytest.mark.parametrize(
    ("option", "environment", "has_colours"),
    [("", {}, True), ("--no-color", {}, False), ("", {"NO_COLOR": "1"}, False)],
)
def test_colours(sandbox: Sandbox, option: str, environment: dict[str, Any], has_colours: bool) -> None:
    shown = in_terminal(f"users -a {sandbox.account_ids[0]} {option}", 100, **environment)
    assert ("\x1b[36m" in shown) is has_colours


@posix
def test_a_table_is_shown_in_the_pager(sandbox: Sandbox) -> None:
    """Only if PAGER names one. Quitting it early is fine."""
    line = f"users -a {sandbox.account_ids[0]} --quiet"
    assert all(
        each.startswith("paged: ") for each in plain(in_terminal(line, 100, PAGER="sed 's/^/paged: /'"))
    )
    assert len(plain(in_terminal(line, 100, PAGER="head -n 2"))) == 2
    missing = plain(in_terminal(line, 100, PAGER="nosuchpager -x"))
    assert missing[0] == "warning: PAGER is nosuchpager, which is not installed"
    assert len(missing) == 1 + 1 + 7
    assert "paged" not in in_terminal(f"{line} --no-pager", 100, PAGER="sed 's/^/paged: /'")


@posix
@pytest.mark.parametrize("columns", [40, pytest.param(80, marks=pytest.mark.long)])
def test_ctrl_c_leaves_only_what_is_said_about_it(sandbox: Sandbox, tmp_path: Path, columns: int) -> None:
    """Neither the line of progress nor the ^C that a terminal shows: both are erased, and have not wrapped."""
    account, out = sandbox.account_ids[0], tmp_path / "x.csv"
    sandbox.script(account, [Fault.ok(), Fault.status(429, retry_after=60)])
    line = f"interactions -a {account} {WINDOW} --out {out}"
    shown = in_terminal(line, columns, interrupt_at=b"wai", code=INTERRUPTED)
    before, _, after = shown.rpartition("^C")
    assert cell_width(before.rpartition("\r\x1b[2K")[2] + "^C") < columns
    assert re.match("(\r\x1b\\[2K)+interrupted\r\n", after)
    assert [each.name for each in sorted(tmp_path.iterdir())] == ["x.csv.partial", "x.csv.partial-state"]
    pull = f"pull -a {account} {WINDOW} --out {tmp_path / 'p'}"
    sandbox.script(account, [Fault.ok(), Fault.status(429, retry_after=60)])
    shown = in_terminal(pull, columns, interrupt_at=b"wai", code=INTERRUPTED)
    assert re.match("(\r\x1b\\[2K)+stopping: ", shown.rpartition("^C")[2])
    assert "run the same command again to continue" in plain(shown)[-1]


@posix
def test_ctrl_c_ends_what_asks_for_a_token(sandbox: Sandbox) -> None:
    """Nothing is typed: a read that goes on after the signal would wait for ever."""
    shown = in_terminal("login", 80, interrupt_at=b"profile default", code=INTERRUPTED)
    assert plain(shown)[-1] == "interrupted"


@posix
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, asyncio.CancelledError)]
)
def test_a_read_of_stdin_ends_at_a_signal(number: signal.Signals, error: type[BaseException]) -> None:
    def cancel(*_: object) -> None:
        pytest.fail("this is what only cancels a task")

    before = signal.signal(number, cancel)
    try:
        with pytest.raises(error), interruptible():
            signal.raise_signal(number)
        assert signal.getsignal(number) is cancel
    finally:
        signal.signal(number, before)


@posix
def test_a_terminal_is_told_how_far_a_list_is_and_what_it_waits_for(sandbox: Sandbox, tmp_path: Path) -> None:
    account = sandbox.account_ids[0]
    sandbox.script(account, [Fault.ok(), Fault.status(429, retry_after=2)])
    shown = in_terminal(f"interactions -a {account} {WINDOW} --out {tmp_path / 'x.csv'}", 80)
    drawn = re.findall(r"\r\x1b\[2K([^\r\n]+)(?=\r\x1b)", shown)
    assert any(
        re.match(r"3 interactions \(\d+/s\) · 1 page · waiting \d\.\d s: status 429", each) for each in drawn
    )
    assert max(map(cell_width, drawn)) < 80
    assert "7 interactions, 3 pages" in plain(shown)[-1]


def test_a_pipe_gets_lines_now_and_then_and_nothing_when_quiet(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("truto_ci_async.cli.activity.LOG_SECONDS", 0.2)
    account = sandbox.account_ids[0]
    line = f"interactions -a {account} {WINDOW} --out {tmp_path / 'x.csv'}"
    sandbox.script(account, [Fault.ok(), Fault.status(429, retry_after=1)])
    assert main(shlex.split(line)) == DONE
    err = capsys.readouterr().err
    assert re.search(r"^3 interactions \(\d+/s\), 1 page, waiting 0\.\d s: status 429", err, re.MULTILINE)
    assert "\x1b" not in err
    sandbox.script(account, [Fault.ok(), Fault.status(429, retry_after=1)])
    assert main([*shlex.split(line), "--quiet"]) == DONE
    assert capsys.readouterr().err == ""


# --- kills -----------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    ("format", "killed"),
    [
        ("ndjson", (1, 3)),
        *(
            pytest.param(format, (1, 2, 3, 4), marks=pytest.mark.long)
            for format in ("ndjson", "csv", "json", "yaml", "table", "text", "parquet")
        ),
    ],
)
def test_transcripts_of_several_meetings_go_on_with_the_next_one(
    format: str,
    killed: Sequence[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "x"
    with Sandbox.in_thread(accounts=1, meetings=60) as sandbox:
        monkeypatch.setenv("TRUTO_API_BASE_URL", sandbox.url)
        monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
        account = sandbox.account_ids[0]
        ids = sandbox.meeting_ids(account)[:4]
        asked = [
            "transcripts",
            "-a",
            account,
            "-o",
            format,
            *(word for id in ids for word in ("--meeting", id)),
        ]
        assert main([*asked, "--out", str(out)]) == DONE
        whole = out.read_bytes()
        out.unlink()
        line = [*asked, "--out", str(out)]
        for number in killed:
            sandbox.fault(Fault.hang().on(number), account)
            with subprocess.Popen(
                [sys.executable, "-m", "truto_ci_async", *line, "-v"], stderr=subprocess.PIPE, text=True
            ) as started:
                assert started.stderr is not None
                assert any(f"call {number}: GET" in said for said in started.stderr)
                started.kill()
            sandbox.clear_faults()
            sandbox.clear()
            capsys.readouterr()
            assert main(line) == DONE
            assert [id for id in ids if any(id in each.target for each in sandbox.requests)] == ids[
                number - 1 :
            ]
            assert (f"going on behind {number - 1} transcript" in capsys.readouterr().err) is (number > 1)
            assert out.read_bytes() == whole
            assert [each.name for each in tmp_path.iterdir()] == [out.name]
            out.unlink()


def test_a_part_that_no_cursor_continues_offers_none(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = ["interactions", "-a", sandbox.account_ids[0], *WINDOW.split(), "--key-by", "id"]
    assert main([*line, "--max-pages", "1"]) == DONE
    err = capsys.readouterr().err
    assert "3 interactions, 1 page\nthere is more; raise --max-pages" in err
    sandbox.fault(Fault.status(422).on(2), sandbox.account_ids[0])
    assert main([*line, "--out", str(tmp_path / "x.json")]) == FAILED
    err += capsys.readouterr().err
    assert "3 interactions, 1 page, in " in err
    assert "run the same command again to continue" in err
    assert "--next-cursor" not in err


@posix
@pytest.mark.long
@pytest.mark.parametrize(
    ("format", "more"),
    [
        ("ndjson", ""),
        ("csv", ""),
        ("json", ""),
        ("parquet", ""),
        ("json", "--key-by id"),
    ],
)
def test_a_list_that_is_killed_at_any_moment_is_whole_in_the_end(
    format: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten runs for each format, each killed once, and run again."""
    chance = random.Random(7)
    with Sandbox.in_thread(accounts=1, interactions=600, page_size=15, account_rate=None) as sandbox:
        monkeypatch.setenv("TRUTO_API_BASE_URL", sandbox.url)
        monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
        asked = f"interactions -a {sandbox.account_ids[0]} {WINDOW} --quiet {more}"
        out = tmp_path / f"x.{format}"
        assert main(shlex.split(f"{asked} --out {out}")) == DONE
        whole = out.read_bytes()
        out.unlink()
        line = [sys.executable, "-m", "truto_ci_async", *shlex.split(f"{asked} --out {out}")]
        begun = 0
        partial = tmp_path / f"x.{format}.partial"
        for turn in range(10):
            with subprocess.Popen(line) as started:
                deadline = time.monotonic() + DEADLINE
                while not (partial.exists() and (turn % 2 == 0 or partial.stat().st_size)):
                    assert time.monotonic() < deadline
                    time.sleep(0.001)
                time.sleep(chance.random() * 0.4)
                started.kill()
            begun += not out.exists() and partial.stat().st_size > 0
            subprocess.run(line, timeout=DEADLINE, check=True)
            assert out.read_bytes() == whole
            assert [each.name for each in tmp_path.iterdir()] == [out.name]
            out.unlink()
    assert begun > 3
