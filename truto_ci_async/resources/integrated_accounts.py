"""``client.integrated_accounts``: connected accounts, what each offers, and tokens for one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from truto_ci_async._http.credentials import Secret
from truto_ci_async._wire.filters import account_id
from truto_ci_async._wire.item_reader import OnInvalid, item_reader
from truto_ci_async._wire.list_query import list_query
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async._wire.query_string import encode_query, snapshot
from truto_ci_async._wire.responses import read_token
from truto_ci_async.errors import UsageError
from truto_ci_async.models import Capabilities, IntegratedAccount, Position
from truto_ci_async.pagination.paginator import Paginator
from truto_ci_async.pagination.unsupported import fetch_capabilities

from .records import fetch_record
from .walks import make_paginator

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import CallTime


class IntegratedAccounts:
    """``client.integrated_accounts``: the connected accounts of an environment."""

    def __init__(self, client: BaseClient) -> None:
        self._client = client

    def __repr__(self) -> str:
        return "<IntegratedAccounts>"

    def list(
        self,
        integration: str | None = None,
        status: str | None = None,
        tenant_id: str | None = None,
        is_sandbox: bool | None = None,
        *,
        environment_id: str | None = None,
        super_query: bool | None = None,
        created_at: date | str | Mapping[str, Any] | None = None,
        updated_at: date | str | Mapping[str, Any] | None = None,
        limit: int | None = None,
        cursor: str | Position | None = None,
        extra_query: Mapping[str, Any] | None = None,
        on_invalid: OnInvalid = "repair",
        prefetch: int = 1,
        max_pages: int | None = None,
    ) -> Paginator[IntegratedAccount]:
        """List connected accounts.

            async for account in truto.integrated_accounts.list(integration="gong", status="active"):
                print(account.id, account.tenant_id)

        ``status`` is one of ``active connecting post_install_error validation_error needs_reauth``; ``super_query``
        whether Truto keeps a synced store for the account, ``is_sandbox`` whether it is one of a sandbox,
        ``tenant_id`` your own name for the customer, ``environment_id`` the environment it belongs to. The times take
        a datetime, a date, or operators such as ``{"gt": time}``. The rest is as for ``Resource.list``.

        :raises UsageError: a filter is empty, or cannot be sent.
        """
        query = list_query("integrated-account", account=None, limit=limit, extra_query=extra_query)
        params = {
            "integration.name": integration,
            "status": status,
            "tenant_id": tenant_id,
            "is_sandbox": is_sandbox,
            "environment_id": environment_id,
            "features.super_query": super_query,
            "created_at": created_at,
            "updated_at": updated_at,
            "limit": limit,
        }
        for name, value in params.items():
            if isinstance(value, (str, Sequence, Mapping)) and not value:
                raise UsageError(
                    f"{name.removesuffix('.name')} is empty, which may be read as no filter at all: for that, pass None"
                )
        query = msgspec.structs.replace(
            query, params={name: snapshot(name, value) for name, value in params.items()}
        )
        query.target()  # raises at once for a value that cannot be encoded
        reader = PageReader(item_reader(IntegratedAccount, on_invalid))
        return make_paginator(
            self._client,
            query,
            reader,
            cursor=cursor,
            empty_on_not_found=False,
            prefetch=prefetch,
            max_pages=max_pages,
            label="list of integrated accounts",
        )

    async def get(self, integrated_account_id: str | IntegratedAccount) -> IntegratedAccount:
        """Return one account as it is now.

        :raises NotFoundError: there is no such account.
        :raises PermissionDeniedError: the token is an account's own: use ``me()``.
        """
        return await self._fetch(_required(integrated_account_id))

    async def me(self) -> IntegratedAccount:
        """Return the account that the client's token belongs to, which must be an account's own token.

        :raises NotFoundError: it is a token of the environment.
        """
        return await self._fetch("me")

    async def _fetch(self, name: str) -> IntegratedAccount:
        query = list_query("integrated-account", name, account=None)
        return await fetch_record(self._client, query, item_reader(IntegratedAccount))

    async def capabilities(
        self,
        integrated_account_id: str | IntegratedAccount,
        *,
        type: Literal["all", "unified", "proxy"] = "unified",
        resource: str | Sequence[str] = (),
        methods: str | Sequence[str] = (),
        has_description: bool | None = None,
    ) -> Capabilities:
        """Return what an account offers, and whether it is blocked.

            found = await truto.integrated_accounts.capabilities(account_id)
            found.supports("meetings", "list")

        ``type`` is ``unified`` for the resources of Truto's models, ``proxy`` for those of the provider's own API, or
        ``all``. ``resource`` and ``methods`` narrow it to these names; ``has_description=False`` includes methods
        without a description.

        :raises NotFoundError: there is no such account.
        """
        account = _required(integrated_account_id)
        narrowed = {
            name: [each] if isinstance(each, str) else [*each]
            for name, each in (("resource", resource), ("methods", methods))
        }
        params: dict[str, Any] = {"type": type, **{name: each for name, each in narrowed.items() if each}}
        if has_description is not None:
            params["has_description"] = has_description
        return await fetch_capabilities(self._client, account, f"?{encode_query(params)}")

    async def create_token(self, integrated_account_id: str | IntegratedAccount) -> str:
        """Create a token that is valid for this account alone, for 15 minutes.

        Use it with ``client.with_options(token=...)``. Calls then need no ``integrated_account_id``.

        :raises NotFoundError: there is no such account.
        :raises PermissionDeniedError: the client's own token is that of an account; use one of the environment.
        """
        account = _required(integrated_account_id)

        async def read(body: bytes, time: CallTime) -> str:
            return read_token(body)

        token, _ = await self._client.request(
            "POST",
            "/integrated-account/token",
            account=account,
            read=read,
            body=msgspec.json.encode({"integrated_account_id": account}),
        )
        return Secret(token)  # whose repr is masked: a notebook would show the token


def _required(account: str | IntegratedAccount) -> str:
    value = account_id(account)
    if value is None:
        raise UsageError("this call needs the id of an integrated account")
    return value
