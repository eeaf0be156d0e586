"""``doctor``: tries everything a command depends on, and says what to do about what is wrong."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from truto_ci_async._text import hide_passwords
from truto_ci_async._version import __version__
from truto_ci_async.cli.output.streams import print_found
from truto_ci_async.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    DeadlineError,
    PermissionDeniedError,
    TransportError,
    TrutoError,
    UsageError,
)

from .messages import DONE, EXIT_CODES, FAILED, Progress, advise, describe
from .options import OUTPUT, Command, Options, choice, connection

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient

Verdict: TypeAlias = Literal["ok", "note", "wrong"]

CLOCK_SKEW: Final = 30.0  # seconds: from here on relative times and logs mislead
SECONDS: Final = 15.0  # for the one request, unless --timeout says otherwise
EXAMPLES: Final = f"""\
examples:
  truto-ci doctor
  truto-ci doctor --profile staging
  truto-ci doctor --sandbox

{EXIT_CODES}"""


class Finding(NamedTuple):
    """What was looked at, how it is, and what to do about it."""

    subject: str
    verdict: Verdict
    text: str
    advice: str = ""


async def run_doctor(options: Options, progress: Progress) -> int:
    """Look at everything, print a line for each, and end with 1 if something is wrong."""
    options.timeout = options.timeout or SECONDS
    found = [*_installation(), *[each async for each in _service(options)]]
    print_found([each._asdict() for each in found], _lines(found), as_json=options.output == "json")
    return FAILED if any(each.verdict == "wrong" for each in found) else DONE


def _lines(found: list[Finding]) -> Iterator[str]:
    width = max(len(each.subject) for each in found)
    for each in found:
        yield f"{each.verdict:<5}  {each.subject:<{width}}  {each.text}"
        if each.advice:
            yield f"{'':<5}  {'':<{width}}  -> {each.advice}"


# --- this machine ----------------------------------------------------------------------------------------------


def _installation() -> Iterator[Finding]:
    python = platform.python_version()
    yield Finding("versions", "ok", f"truto_ci_async {__version__}, Python {python}, {platform.platform()}")
    core = [f"{name} {_version(name)}" for name in ("aiohttp", "msgspec", "anyio", "ijson")]
    yield Finding("libraries", "ok", ", ".join(core))
    missing = {extra for extra, name in _extras() if _version(name) is None}
    there = {extra for extra, _ in _extras()} - missing
    yield Finding("extras", "ok", ", ".join(sorted(there)) or "none")
    if missing:
        names = sorted(missing)
        line = f"pip install 'truto-ci-async[{','.join(names)}]'"
        yield Finding("", "note", f"not installed: {', '.join(names)}", f"if you need them: {line}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> Iterator[tuple[str, str]]:
    """Return each extra with each package it needs on this Python, as the package's own metadata has them."""
    for line in importlib.metadata.requires("truto_ci_async") or ():
        needed = re.match(r"([\w.-]+).*;.*\bextra == ['\"]([\w-]+)['\"]", line)
        older = re.search(r"python_version < ['\"]3\.(\d+)['\"]", line)
        if needed is None or (older is not None and sys.version_info >= (3, int(older[1]))):
            continue
        name, extra = needed.groups()
        if extra != "all" and name.replace("-", "_") != "truto_ci_async":
            yield extra, name


# --- the service -----------------------------------------------------------------------------------------------


async def _service(options: Options) -> AsyncIterator[Finding]:
    from truto_ci_async._http.transport.addresses import environment_proxy

    from .connection import connect

    try:
        async with connect(options, lambda: ["asking the service"]) as client:
            yield Finding("token", "ok", f"from {options.source}")
            proxy = environment_proxy(client.base_url)
            yield Finding("proxy", "ok", "none" if proxy is None else hide_passwords(proxy))
            async for each in _ask(client, options.option_names):
                yield each
    except ConfigurationError as error:
        yield Finding(
            "token", "wrong", describe(error, options.option_names), advise(error, options.option_names) or ""
        )
    except UsageError as error:
        yield Finding("options", "wrong", describe(error, options.option_names))


async def _ask(client: TrutoClient, option_names: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Send one request, and look at what came back and how long it took."""
    started = time.perf_counter()
    try:
        page = await client.integrated_accounts.list(limit=1)
        headers, status, refused = dict(page.response.headers), "", None
    except TransportError as error:
        yield _unreachable(error, client.base_url)
        return
    except APIError as error:
        headers, status, refused = dict(error.headers or {}), f"status {error.status}, ", error
    except TrutoError as error:
        yield Finding(
            "service", "wrong", f"{client.base_url}: {error}", "is that the address of Truto's API?"
        )
        return
    seconds = time.perf_counter() - started
    secure = "" if client.base_url.startswith("https:") else ", without TLS"
    yield Finding("service", "ok", f"{client.base_url}: {status}{seconds * 1000:.0f} ms{secure}")
    yield _access(refused, option_names)
    yield clock(headers, seconds)
    limits = {name: value for name, value in headers.items() if "ratelimit" in name.lower()}
    told = ", ".join(f"{name} {value}" for name, value in limits.items())
    stats = client.stats()
    yield Finding(
        "limits", "ok", told or f"none told; pacing sends at most {stats.limit} requests in its window"
    )


def _unreachable(error: TransportError, url: str) -> Finding:
    text = str(error)
    advice = "try again; if it stays, something between here and the service cuts connections"
    if isinstance(error, DeadlineError):
        advice = "a firewall or a proxy may be dropping packets: try from another network, or set HTTPS_PROXY"
    elif re.search(r"certificate|\[SSL|handshake", text, re.IGNORECASE):
        advice = "if a proxy of your company opens TLS, give Python its authority: SSL_CERT_FILE=/path/to/company.pem"
    elif re.search("resolve|getaddrinfo|Name or service|nodename", text, re.IGNORECASE):
        advice = "the name is not known: check the address, the DNS server and the VPN"
    elif isinstance(error, ConnectError):
        advice = "check the address, the firewall and HTTPS_PROXY"
    return Finding("service", "wrong", f"{url}: {text}", advice)


def _access(error: APIError | None, option_names: Mapping[str, str]) -> Finding:
    if error is None:
        return Finding("access", "ok", "the token is taken")
    if isinstance(error, PermissionDeniedError):
        return Finding("access", "ok", "the token of one account: it cannot list accounts")
    text = "the token is not taken" if isinstance(error, AuthenticationError) else str(error)
    return Finding("access", "wrong", text, advise(error, option_names) or "")


def clock(headers: Mapping[str, str], seconds: float) -> Finding:
    """Compare this machine's clock with that of a response, which took ``seconds``."""
    date = next((value for name, value in headers.items() if name.lower() == "date"), None)
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return Finding("clock", "note", "the service does not say what time it is")
    skew = time.time() - seconds / 2 - theirs - 0.5  # their clock is cut to a second
    if abs(skew) <= CLOCK_SKEW:
        return Finding("clock", "ok", f"within {CLOCK_SKEW:.0f} s of the service's")
    side = "ahead of" if skew > 0 else "behind"
    return Finding(
        "clock", "wrong", f"{abs(skew):,.0f} s {side} the service's", "turn on time synchronisation (NTP)"
    )


def command(name: str) -> Command:
    return Command(
        name, run_doctor,
        [
            choice("-o", "--output", group=OUTPUT, choices=("text", "json"), default="text",
                   help="text (default), json"),
            *connection(),
        ],
        help="Find out what is wrong: look at the versions and extras that are installed, the proxy, the clock, and "
        "send one request to see whether the service is reached, which limits it names and whether it takes the token. "
        "It ends with 1 if something is wrong.",
        examples=EXAMPLES,
    )  # fmt: skip
