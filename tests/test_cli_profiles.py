"""Profiles and ``doctor``: which token a command uses, where it is kept, and what is said about what is wrong."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.test_cli import TOKEN, Ran, Run, run, sandbox
from truto_ci_async import ConfigurationError, Fault, Sandbox, UsageError
from truto_ci_async.cli import doctor, profiles
from truto_ci_async.cli.doctor import clock
from truto_ci_async.cli.messages import DONE, FAILED, REFUSED, USAGE
from truto_ci_async.cli.profiles import Profile, credentials, profiles_file, store, stored_profiles

__all__ = ["run", "sandbox"]  # fixtures
OTHER = "https://other.example"


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CONFIG_HOME", "APPDATA", "HOME"):  # Linux, Windows and macOS
        monkeypatch.setenv(name, str(tmp_path / "config"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")  # for child processes
    monkeypatch.setattr(profiles, "_with_keyring", lambda *_: None)


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], str]:
    """A keyring that works."""
    kept: dict[tuple[str, str], str] = {}

    def call(action: str, service: str, name: str, *secret: str) -> Any:
        if action == "set_password":
            kept[service, name] = secret[0]
        elif action == "get_password":
            return kept.get((service, name))
        else:
            del kept[service, name]
        return True

    monkeypatch.setattr(profiles, "_with_keyring", call)
    return kept


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch, run: Run, sandbox: Sandbox) -> Any:
    """Log in with a token from stdin, and leave no token in the environment."""

    def call(*options: str, token: str = TOKEN) -> Ran:
        monkeypatch.delenv("TRUTO_API_TOKEN", raising=False)
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{token}\n"))
        return run("login", "--token-stdin", *options)

    return call


def options(**given: str) -> dict[str, str | None]:
    return {"token": None, "profile": None, "api_url": None, **given}


# --- login and the rest ----------------------------------------------------------------------------------------


def test_after_login_no_other_token_is_needed(log_in: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = log_in()
    assert done.code == DONE, done.err
    assert TOKEN not in done.err + done.out
    monkeypatch.delenv("TRUTO_API_BASE_URL")  # the profile has it
    assert run("accounts", "-o", "ndjson").code == DONE
    assert json.loads(run("whoami", "-o", "json").out)["token from"] == "profile 'default' (login)"


def test_the_options_of_the_connection_are_those_of_login_too(log_in: Any, sandbox: Sandbox) -> None:
    assert "- call " in log_in("-v").err
    sandbox.fault(Fault.hang())
    done = log_in("--timeout", "0.1", "--profile", "staging")
    assert (done.code, "--timeout SECONDS allows more time" in done.err) == (FAILED, True)
    assert [*stored_profiles()] == ["default"]


def test_the_rows_of_one_profile_are_not_continued_with_those_of_another(
    log_in: Any, run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    log_in("--profile", "one")
    log_in("--profile", "other")
    out = ("-a", sandbox.account_ids[0], "--out", str(tmp_path / "users.csv"))
    sandbox.fault(Fault.status(400).on(2), sandbox.account_ids[0])
    assert run("users", *out, "--profile", "one").code == FAILED
    done = run("users", *out, "--profile", "other")
    assert (done.code, "has rows of another command" in done.err) == (USAGE, True)
    assert run("users", *out, "--profile", "one").code == DONE


def test_a_token_that_the_service_refuses_is_not_kept(log_in: Any) -> None:
    done = log_in(token="another-token")
    assert done.code == REFUSED
    assert not profiles_file().exists()


@pytest.mark.parametrize("token", ["", "two words", "x" * 20_000, "\x00 x"])
def test_what_is_no_token_is_refused_before_a_request(log_in: Any, sandbox: Sandbox, token: str) -> None:
    asked = len(sandbox.requests)
    assert log_in(token=token).code == USAGE
    assert len(sandbox.requests) == asked


def test_an_accounts_own_token_logs_in_too(log_in: Any, sandbox: Sandbox) -> None:
    sandbox.fault(Fault.status(403))
    assert "account" in log_in(token=TOKEN).err


@pytest.mark.skipif(os.name == "nt", reason="file modes of POSIX")
def test_without_a_keyring_the_token_is_in_a_file_for_its_owner_alone(log_in: Any) -> None:
    """And it is said, since whoever copies the file has the token."""
    assert "no keyring" in log_in().err
    assert stat.S_IMODE(profiles_file().stat().st_mode) == 0o600
    assert not list(profiles_file().parent.glob("*.json.*"))


@pytest.mark.skipif(os.name == "nt", reason="file modes of POSIX")
def test_a_file_that_others_may_read_is_refused(log_in: Any, run: Run) -> None:
    log_in()
    profiles_file().chmod(0o644)
    done = run("accounts")
    assert done.code == USAGE
    assert "chmod 600" in done.err


def test_a_user_without_a_home_directory(
    log_in: Any, run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in some containers: such a user has no profiles, and cannot store one."""

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    assert run("accounts").code == DONE
    done = log_in()
    assert (done.code, "no home directory: set HOME" in done.err) == (FAILED, True)
    done = run("accounts")
    assert (done.code, "no API token" in done.err) == (USAGE, True)


def test_a_keyring_that_works_has_the_token(log_in: Any, run: Run, keyring: dict[Any, str]) -> None:
    assert "keyring" in log_in("--profile", "staging").err
    assert keyring == {("truto-ci", "staging"): TOKEN}
    assert TOKEN not in profiles_file().read_text()
    assert run("accounts", "--profile", "staging").code == DONE
    assert run("logout", "--profile", "staging").code == DONE
    assert not keyring
    assert not stored_profiles()


def test_a_token_that_moves_to_a_file_leaves_the_keyring(
    log_in: Any, run: Run, keyring: dict[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would lie there for ever, since logout looks into the file."""
    log_in()
    assert keyring
    with monkeypatch.context() as patch:
        patch.setattr(profiles, "keyring_works", lambda: False)
        assert str(profiles_file()) in log_in().err
    assert not keyring
    assert run("logout").code == DONE


def test_a_keyring_that_does_not_remove_a_token_is_said(
    log_in: Any, run: Run, keyring: dict[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in()
    monkeypatch.setattr(profiles, "_with_keyring", lambda *_: None)
    done = run("logout")
    assert (done.code, "may still have it" in done.err) == (DONE, True)


def test_a_token_that_the_keyring_lost_is_said(log_in: Any, run: Run, keyring: dict[Any, str]) -> None:
    log_in()
    keyring.clear()
    done = run("accounts")
    assert done.code == USAGE
    assert "truto-ci login --profile default" in done.err


def test_profiles_are_listed_without_their_tokens(
    log_in: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in()
    log_in("--profile", "staging")
    monkeypatch.setenv("TRUTO_PROFILE", "staging")
    done = run("profiles", "-o", "json")
    assert [(row["profile"], row["used"]) for row in json.loads(done.out)] == [
        ("default", False),
        ("staging", True),
    ]
    assert TOKEN not in done.out + run("profiles").out + repr(stored_profiles())


def test_a_profile_that_is_not_there_is_named_with_the_nearest(log_in: Any, run: Run) -> None:
    log_in("--profile", "staging")
    for command in ("accounts", "logout", "whoami"):
        done = run(command, "--profile", "stagin")
        assert done.code == USAGE
        assert "staging" in done.err


def test_without_a_terminal_login_says_how_to_pass_the_token(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    done = run("login")
    assert done.code == USAGE
    assert "--token-stdin" in done.err


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
def test_a_token_that_is_typed_is_not_shown(sandbox: Sandbox) -> None:
    import pty

    here, there = pty.openpty()
    environment = {**os.environ, "TRUTO_API_BASE_URL": sandbox.url}
    environment.pop("TRUTO_API_TOKEN", None)
    child = subprocess.Popen(
        [sys.executable, "-m", "truto_ci_async", "login"],
        stdin=there, stdout=there, stderr=there, env=environment, start_new_session=True,
        preexec_fn=lambda: _take_terminal(there),
    )  # fmt: skip
    os.close(there)
    shown = b""
    watchdog = threading.Timer(20, child.kill)  # reading ends then
    watchdog.start()
    try:
        while b":" not in shown.rpartition(b"profile default")[2]:
            shown += os.read(here, 1024)
        os.write(here, f"{TOKEN}\n".encode())
        with suppress(OSError):  # so Linux ends a terminal that nobody holds open
            while chunk := os.read(here, 1024):
                shown += chunk
        assert child.wait(20) == DONE, shown
    finally:
        watchdog.cancel()
        child.kill()
        child.wait(20)
        os.close(here)
    assert TOKEN.encode() not in shown
    assert b"logged in" in shown


def _take_terminal(file: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(file, termios.TIOCSCTTY, 0)


# --- which token -----------------------------------------------------------------------------------------------


def test_the_first_of_these_says_which_token_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("default", "staging", "other"):
        store(name, OTHER, f"token-of-{name}")
    assert credentials(**options()).token == "token-of-default"
    monkeypatch.setenv("TRUTO_PROFILE", "other")
    assert credentials(**options()).token == "token-of-other"
    monkeypatch.setenv("TRUTO_API_TOKEN", "x")
    assert credentials(**options()).token is None, "the client reads it"
    assert credentials(**options(profile="staging"))[:2] == ("token-of-staging", OTHER)
    assert credentials(**options(token="given")).token == "given"
    with pytest.raises(UsageError, match="give one"):
        credentials(**options(token="given", profile="staging"))


def test_the_token_of_a_profile_goes_to_no_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    store("default", OTHER, "secret")
    monkeypatch.setenv("TRUTO_API_BASE_URL", "https://evil.example")
    assert credentials(**options()).base_url == OTHER
    for other in ("https://evil.example", f"{OTHER}.evil.example", f"{OTHER}:8443", "http://other.example"):
        with pytest.raises(UsageError, match=f"is not sent to {other}"):
            credentials(**options(api_url=other))
    assert credentials(**options(api_url=f"{OTHER}/")).base_url == OTHER


def test_a_token_is_in_no_repr() -> None:
    store("default", OTHER, "secret")
    assert "secret" not in repr(Profile(OTHER, "secret")) + repr(credentials(**options()))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"default": {}}', '{"default": {"base_url": 1}}'])
def test_a_damaged_file_is_said(text: str) -> None:
    profiles_file().parent.mkdir(parents=True)
    profiles_file().touch(0o600)
    profiles_file().write_text(text)
    with pytest.raises(ConfigurationError, match="damaged"):
        stored_profiles()


def test_a_keyring_that_hangs_or_fails_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nobody is there to unlock it."""
    monkeypatch.undo()
    monkeypatch.setattr(profiles, "KEYRING_SECONDS", 0.05)
    monkeypatch.setitem(sys.modules, "keyring", None)  # importing it fails
    assert not profiles.keyring_works()


@pytest.mark.parametrize(
    ("action", "result"), [("set_password", None), ("get_password", "another"), ("delete_password", False)]
)
def test_a_keyring_that_does_not_give_back_what_it_got_does_not_work(
    action: str, result: object, keyring: dict[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert profiles.keyring_works()
    assert not keyring
    working = profiles._with_keyring

    def call(asked: str, *arguments: str) -> Any:
        return result if asked == action else working(asked, *arguments)

    monkeypatch.setattr(profiles, "_with_keyring", call)
    assert not profiles.keyring_works()


# --- doctor ----------------------------------------------------------------------------------------------------


def found(done: Ran) -> dict[str, str]:
    return {row["subject"]: row["verdict"] for row in json.loads(done.out)}


def test_doctor_finds_nothing_wrong(sandbox: Sandbox, run: Run) -> None:
    done = run("doctor", "-o", "json")
    assert done.code == DONE
    assert found(done) | {"": "note"} == {
        "": "note",
        **dict.fromkeys(
            ["versions", "libraries", "extras", "token", "proxy", "service", "access", "clock", "limits"],
            "ok",
        ),
    }
    assert len(sandbox.requests) == 1
    assert TOKEN not in done.out + run("doctor").out


def test_doctor_says_that_the_token_is_refused(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUTO_API_TOKEN", "another")
    done = run("doctor", "-o", "json")
    assert (done.code, found(done)["access"]) == (FAILED, "wrong")


def test_doctor_takes_the_token_of_one_account(sandbox: Sandbox, run: Run) -> None:
    sandbox.fault(Fault.status(403))
    done = run("doctor", "-o", "json")
    assert (done.code, found(done)["access"]) == (DONE, "ok")
    assert "the token of one account" in done.out


@pytest.mark.parametrize(("user", "is_shown"), [("", True), ("user:hunter2@", False)])
def test_doctor_shows_a_proxy_without_its_password(
    user: str, is_shown: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUTO_API_TOKEN", "x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://{user}{place}")
        done = run("doctor", "-o", "json", "--api-url", "https://service.invalid")
    [proxy] = [row["text"] for row in json.loads(done.out) if row["subject"] == "proxy"]
    assert (place in proxy) is is_shown
    assert "hunter2" not in done.out + done.err


def test_doctor_says_that_there_is_no_token(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRUTO_API_TOKEN", raising=False)
    done = run("doctor")
    assert done.code == FAILED
    assert "-> `truto-ci login`" in done.out


def test_doctor_says_that_nobody_listens(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUTO_API_TOKEN", "x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = run("doctor", "-o", "json", "--api-url", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (done.code, found(done)["service"]) == (FAILED, "wrong")
    assert "firewall" in done.out


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0, "ok"), (25, "ok"), (-25, "ok"), (3600, "wrong"), (-3600, "wrong")]
)
def test_doctor_compares_the_clocks(seconds: int, verdict: str) -> None:
    """A clock that is wrong gives relative times that are wrong, and says nothing else."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    assert clock({"date": date}, 0.1).verdict == verdict


@pytest.mark.parametrize("headers", [{}, {"Date": ""}, {"Date": "no date"}])
def test_a_service_without_a_clock_is_no_fault_of_the_reader(headers: dict[str, str]) -> None:
    assert clock(headers, 0.1).verdict == "note"


@pytest.mark.parametrize(
    ("ahead", "seconds", "said"),
    [
        (3600.5, 0.0, "3,600 s ahead of the service's"),
        (-3599.5, 0.0, "3,600 s behind the service's"),
        (60.5, 60.0, "within 30 s of the service's"),  # the response took a minute
        (-0.5, 60.0, "31 s behind the service's"),
        (30.5, 0.0, "within 30 s of the service's"),
        (31.0, 0.0, "30 s ahead of the service's"),
    ],
)
def test_doctor_says_how_far_off_the_clock_is(
    ahead: float, seconds: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = datetime(2024, 3, 1, tzinfo=UTC)
    now = theirs.timestamp() + ahead
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: now))
    assert clock({"Date": format_datetime(theirs, usegmt=True)}, seconds).text == said
