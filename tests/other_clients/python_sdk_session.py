"""Uses truto-python-sdk against a sandbox, and prints what came back as JSON. Run by its own Python, not by pytest's.

python_sdk_session.py BASE_URL TOKEN ACCOUNT USER USER
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import Any

from truto_python_sdk import TrutoApi  # pyright: ignore[reportMissingImports]

INTERACTIONS = ("conversational-intelligence", "interactions")


async def session(base_url: str, token: str, account: str, *users: str) -> dict[str, Any]:
    truto = TrutoApi(token, base_url)

    def january(**query: Any) -> dict[str, Any]:
        start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
        return {"integrated_account_id": account, "start_time": start, "end_time": end, **query}

    def interactions(**query: Any) -> Any:
        return truto.unified_api.list(*INTERACTIONS, january(**query))

    walk = interactions(limit=25)
    pages = [len(await walk.next_page()) for _ in range(3)]
    filters = {"truto_exclude_fields": ["user", "remote_data"], "truto_ignore_remote_data": True}
    refused = None
    try:
        await interactions(users=[{"id": user} for user in users]).to_array()
    except Exception as error:  # noqa: BLE001 - whatever class the SDK lets through
        refused = getattr(error, "status", repr(error))
    one = await truto.integrated_accounts.get(account)
    created = await truto.integrated_accounts.create_integrated_account_token(account)
    own = TrutoApi(created["integrated_account_token"], base_url)
    return {
        "iterated": [item["id"] async for item in interactions(limit=25)],
        "to_array": [item["id"] for item in await interactions().to_array()],
        "pages": pages,
        "filtered": sorted((await interactions(limit=1, **filters).next_page())[0]),
        "one_user": [item["user"]["id"] for item in await interactions(users=[{"id": users[0]}]).to_array()],
        "two_users": refused,
        "accounts": [item["id"] for item in await truto.integrated_accounts.list(limit=2).to_array()],
        "active": [item["id"] for item in await truto.integrated_accounts.list(status="active").to_array()],
        "account": one,
        "me": await own.integrated_accounts.get("me"),
        "contacts": len(
            await truto.unified_api.list("crm", "contacts", {"integrated_account_id": account}).to_array()
        ),
    }


print(json.dumps(asyncio.run(session(*sys.argv[1:]))))
