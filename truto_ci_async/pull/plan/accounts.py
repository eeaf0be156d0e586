"""Collects the accounts of a plan from an iterable or a file."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from msgspec.json import Decoder

from truto_ci_async._checks import brief, is_iterable, plain
from truto_ci_async._json import decode_strictly
from truto_ci_async._wire.query_string import require_encodable, stable_order
from truto_ci_async.errors import DecodeError, UsageError
from truto_ci_async.models import IntegratedAccount
from truto_ci_async.models.pulls import PlannedAccount
from truto_ci_async.pagination.paginator import Paginator

A = TypeVar("A")

#: An iterable of more accounts than this is taken to be endless.
MAX_ACCOUNTS = 1_000_000
# The loop gets a turn after this many accounts, which take a few milliseconds.
YIELD_ACCOUNTS = 2_000
# Enough for that many, each with a tenant.
MAX_FILE_BYTES = 2**28

AccountLike: TypeAlias = str | IntegratedAccount | PlannedAccount | Mapping[str, Any]
#: Ids, IntegratedAccounts or dicts with an ``id``, in any iterable, which may be asynchronous, such as
#: ``integrated_accounts.list()``; or the path of a file with one id, or one JSON object with an ``id``, per line.
Accounts: TypeAlias = Iterable[AccountLike] | AsyncIterable[AccountLike] | os.PathLike[str]


async def collect_accounts(accounts: Accounts) -> tuple[PlannedAccount, ...]:
    """Return each account once, in the given order. Any mention of an account may name its tenant."""
    single: object = accounts
    if isinstance(single, (str, bytes, Mapping, IntegratedAccount, PlannedAccount)):
        shown = brief(cast("object", single))
        raise UsageError(f"accounts takes an iterable: accounts=[{shown}]; pass a file as a Path")
    if isinstance(accounts, os.PathLike):
        accounts = await asyncio.to_thread(_read_file, Path(accounts))
    found: dict[str, PlannedAccount] = {}
    number = 0
    async for account in _each(accounts):
        number += 1
        if number % YIELD_ACCOUNTS == 0:
            await asyncio.sleep(0)
        known = found.get(account.id)
        if known is None or known.tenant_id is None:
            found[account.id] = account
        if len(found) > MAX_ACCOUNTS:
            raise UsageError(f"more than {MAX_ACCOUNTS:,} accounts: does this iterable ever end?")
    return tuple(found.values())


async def _each(
    accounts: Iterable[AccountLike] | AsyncIterable[AccountLike],
) -> AsyncIterator[PlannedAccount]:
    if isinstance(accounts, AsyncIterable):
        async with aclosing(each_listed(accounts)) as listed:
            async for account in listed:
                yield _planned(account)
    elif is_iterable(accounts):
        for account in stable_order(accounts):
            yield _planned(account)
    else:
        raise UsageError(f"accounts takes ids, IntegratedAccounts or a Path, not {brief(accounts)}")


async def each_listed(found: AsyncIterable[A]) -> AsyncGenerator[A]:
    """Iterate over what ``found`` lists. If it is a list call, check that each item of its pages is an account.

    One that is not would be left out, and a pull of the others would look complete.

    :raises DecodeError: one is not.
    """
    if not isinstance(found, Paginator):
        async for each in found:
            yield each
        return
    pages = found.pages()
    try:
        async for page in pages:
            if page.dropped_count:
                what = next((each.message for each in page.issues if each.dropped), "one is not an account")
                raise DecodeError(
                    f"the service lists {page.dropped_count:,} accounts that cannot be read ({what}); "
                    "pass the ids of the others yourself",
                    path="$.result[]",
                )
            for each in page:
                yield each
    finally:
        await pages.aclose()


def _planned(account: object) -> PlannedAccount:
    given: object = account
    tenant: object = None
    if isinstance(account, (IntegratedAccount, PlannedAccount)):
        given, tenant = account.id, account.tenant_id
    elif isinstance(account, Mapping):
        fields = cast("Mapping[str, object]", account)
        given, tenant = fields.get("id"), fields.get("tenant_id")
    name: object = plain(given)
    if not isinstance(name, str) or not name:
        raise UsageError(f"an account id must be non-empty text, not {brief(given)}")
    tenant = plain(tenant)
    if tenant is not None and not isinstance(tenant, str):
        raise UsageError(f"the tenant_id of account {name} must be text, not {brief(tenant)}")
    return PlannedAccount(
        require_encodable(name, "an account id"), tenant and require_encodable(tenant, "a tenant_id")
    )


_any = Decoder()


def _read_file(path: Path) -> list[AccountLike]:
    try:
        with path.open("rb") as file:  # which may be an endless device
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UsageError(f"cannot read accounts from {path}: it has more than {MAX_FILE_BYTES:,} bytes")
    except OSError as error:
        raise UsageError(f"cannot read accounts from {path}: {error.strerror or error}") from error
    return read_accounts(content, str(path))


def read_accounts(content: bytes, source: str) -> list[AccountLike]:
    """Return the accounts in a file: on each line an id, or a JSON object with one. ``source`` is for messages.

    :raises UsageError: a line is neither.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read accounts from {source}: {error}") from error
    return [
        _read_line(line, f"{source}, line {number}")
        for number, line in enumerate(map(str.strip, text.split("\n")), 1)
        if line and not line.startswith("#")
    ]


def _read_line(line: str, where: str) -> AccountLike:
    try:
        if line.startswith("{"):
            return _planned(decode_strictly(_any, line.encode()))
        name = line.split("#", 1)[0].strip()
        if re.search(r"[\s,;\"']", name):
            raise UsageError("expected one id per line, or a JSON object with an id")
        return _planned(name)
    except (UsageError, DecodeError) as error:
        raise UsageError(f"{where}: {error}") from error
