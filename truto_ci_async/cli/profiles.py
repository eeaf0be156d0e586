"""Profiles: a token and the address it is for, kept between commands.

A profile is in a file that only its owner can read. Its token is in the system's keyring where that works, else in the
same file. ``credentials`` decides which token a command uses, and sees to it that it goes to no other address.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec

from truto_ci_async._checks import did_you_mean
from truto_ci_async.errors import ConfigurationError, UsageError

from .kept_files import kept_file, replace_file

DEFAULT_PROFILE: Final = "default"
PROFILE_VARIABLE: Final = "TRUTO_PROFILE"
SERVICE: Final = "truto-ci"  # what the keyring files our tokens under
KEYRING_SECONDS: Final = 10.0  # a keyring may wait for somebody to unlock it


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token with the address it is for; without ``token``, the keyring has it."""

    base_url: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Profile({self.base_url!r}, token {'in the file' if self.token else 'in the keyring'})"


class Credentials(NamedTuple):
    """A token, the address to use it for, and where both came from. None: what the environment says."""

    token: str | None
    base_url: str | None
    source: str

    def __repr__(self) -> str:
        return f"Credentials({self.source})"


def profiles_file() -> Path:
    """:raises FileNotFoundError: the user has no home directory."""
    return kept_file("config", "profiles.json")


def stored_profiles() -> dict[str, Profile]:
    """Return all profiles by name.

    :raises ConfigurationError: the file cannot be read, or others may read it.
    """
    try:
        path = profiles_file()
        found = path.read_bytes()
        mode = path.stat().st_mode & 0o077
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from None
    if mode and sys.platform != "win32":
        raise ConfigurationError(f"others may read {path}, which can hold tokens: chmod 600 {path}")
    try:
        return msgspec.json.decode(found, type=dict[str, Profile])
    except msgspec.DecodeError:
        raise ConfigurationError(f"{path} is damaged: remove it, then `truto-ci login`") from None


def _write(profiles: Mapping[str, Profile]) -> None:
    replace_file(profiles_file(), msgspec.json.format(msgspec.json.encode(profiles), indent=2) + b"\n")


def store(name: str, base_url: str, token: str) -> str:
    """Keep a profile, in place of one of the same name. Return where its token is."""
    profiles = stored_profiles()
    in_keyring = keyring_works() and _with_keyring("set_password", SERVICE, name, token)
    if not in_keyring and name in profiles and profiles[name].token is None:
        _with_keyring("delete_password", SERVICE, name)  # the token that this one replaces
    profiles[name] = Profile(base_url, None if in_keyring else token)
    _write(profiles)
    return "the system's keyring" if in_keyring else str(profiles_file())


def remove(name: str) -> bool:
    """Remove a profile and its token. Return False if the keyring did not remove it.

    :raises UsageError: there is none of this name.
    """
    profiles = stored_profiles()
    profile = _named(name, profiles)
    is_gone = profile.token is not None or _with_keyring("delete_password", SERVICE, name) is True
    del profiles[name]
    _write(profiles)
    return is_gone


def credentials(token: str | None, profile: str | None, api_url: str | None) -> Credentials:
    """Decide which token a command uses: --token, --profile, TRUTO_API_TOKEN, TRUTO_PROFILE, the profile ``default``.

    :raises UsageError: there is no such profile, or its token is to be sent to another address.
    """
    if token:
        if profile:
            raise UsageError("--token and --profile: each is a token; give one")
        return Credentials(token, api_url, "--token")
    name, source = profile, "--profile"
    if name is None:
        if os.environ.get("TRUTO_API_TOKEN"):
            return Credentials(None, api_url, "TRUTO_API_TOKEN")
        name, source = os.environ.get(PROFILE_VARIABLE) or None, PROFILE_VARIABLE
    if name is None:
        if DEFAULT_PROFILE not in stored_profiles():
            return Credentials(None, api_url, "")
        name, source = DEFAULT_PROFILE, "login"
    kept = _named(name, stored_profiles())
    if api_url and api_url.rstrip("/") != kept.base_url:
        raise UsageError(
            f"the token of profile {name!r} is for {kept.base_url}, and is not sent to {api_url}: "
            "leave out --api-url, or log in to that address with another --profile"
        )
    token = kept.token or _with_keyring("get_password", SERVICE, name)
    if not token:
        raise ConfigurationError(
            f"the keyring has no token for profile {name!r} any more: truto-ci login --profile {name}"
        )
    return Credentials(token, kept.base_url, f"profile {name!r} ({source})")


def _named(name: str, profiles: Mapping[str, Profile]) -> Profile:
    if name not in profiles:
        known = did_you_mean(name, profiles) or (
            f"; there are {', '.join(sorted(profiles))}" if profiles else "; `truto-ci login` makes one"
        )
        raise UsageError(f"there is no profile {name!r}{known}")
    return profiles[name]


# --- the keyring -----------------------------------------------------------------------------------------------


def keyring_works() -> bool:
    """Tell whether the system's keyring keeps what it is given: many servers have none, or one that is locked."""
    name, secret = f"probe-{uuid4()}", str(uuid4())
    return (
        _with_keyring("set_password", SERVICE, name, secret) is True
        and _with_keyring("get_password", SERVICE, name) == secret
        and _with_keyring("delete_password", SERVICE, name) is True
    )


def _with_keyring(action: str, *arguments: str) -> Any:
    """Call the keyring, in a thread that is left behind if it does not come back. None or False: it did not work."""
    result: list[Any] = []

    def call() -> None:
        with suppress(Exception):
            import keyring

            if keyring.get_keyring().priority > 0:
                found = getattr(keyring, action)(*arguments)
                result.append(found if action == "get_password" else True)

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(KEYRING_SECONDS)
    return result[0] if result else None
