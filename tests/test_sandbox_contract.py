"""The sandbox against what Truto's public text says, line by line: parameters, bodies, errors, limits, accounts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.sandbox_caller import DEADLINE, INTERACTIONS, Caller, Response
from tests.support import run
from truto_ci_async.sandbox import Fault

ACCOUNT = "62f44730-dd91-461e-bd6a-aedd9e0ad79d"
ENVELOPE = {"result", "next_cursor", "prev_cursor", "result_count", "is_partial_response"}
FIELDS = {
    "id", "user", "start_time", "end_time", "timezone", "aggregation_period", "metrics", "additional_metrics",
    "created_at", "updated_at", "remote_data",
}  # fmt: skip
METRICS = {"longest_monologue", "longest_customer_story", "interactivity", "patience", "question_rate"}

Check = Callable[[Caller, Response], object]


def rows(response: Response) -> Any:
    return response.json["result"]


def ids(response: Response) -> list[str]:
    return [row["id"] for row in rows(response)]


def check(caller: Caller, response: Response, wanted: Check) -> None:
    """Call the check of a table. One that returns False has failed, so that a lambda is enough."""
    assert response.status == 200, response.body
    assert wanted(caller, response) is not False


# --- the request -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("", lambda _, got: set(got.json) == ENVELOPE and len(rows(got)) == 30),
        ("limit=7", lambda _, got: len(rows(got)) == 7),
        ("limit=7&truto_ignore_limit=true", lambda _, got: len(rows(got)) == 30),
        ("limit=7&truto_ignore_limit=false", lambda _, got: len(rows(got)) == 7),
        ("next_cursor=", lambda _, got: len(rows(got)) == 30),
        ("limit=7&next_cursor=", lambda _, got: got.json["prev_cursor"] is None),
        ("users%5B0%5D%5Bid%5D=USER0", lambda _, got: len(rows(got)) == 1),
        ("users[0][id]=USER0&users[1][id]=USER1", lambda _, got: len(rows(got)) == 2),
        ("users[][id]=USER0", lambda _, got: len(rows(got)) == 1),
        ("truto_response_format=unified", lambda _, got: set(got.json) == ENVELOPE),
        ("truto_response_format=normalized", lambda _, got: set(got.json) == ENVELOPE),
        ("truto_response_format=raw", lambda _, got: "userId" in rows(got)[0]),
        ("truto_response_format=stream", lambda _, got: got.headers["Transfer-Encoding"] == "chunked"),
        ("truto_response_format=debug", lambda _, got: set(got.json) == {*ENVELOPE, "debug"}),
        ("truto_key_by=id", lambda _, got: all(key == row["id"] for key, row in rows(got).items())),
        ("truto_ignore_remote_data=true", lambda _, got: "remote_data" not in rows(got)[0]),
        ("truto_ignore_remote_data=false", lambda _, got: "remote_data" in rows(got)[0]),
        (
            "truto_exclude_fields[]=id&truto_exclude_fields[]=user",
            lambda _, got: not {"id", "user"} & set(rows(got)[0]),
        ),
        ("truto_exclude_fields=id,user", lambda _, got: not {"id", "user"} & set(rows(got)[0])),
        ("truto_exclude_fields[0]=id&truto_exclude_fields[1]=user", lambda _, got: "id" not in rows(got)[0]),
        ("truto_super_query=apac", lambda _, got: len(rows(got)) == 30),
        ("truto_super_query=wnam&sort_by[id]=asc", lambda _, got: ids(got) == sorted(ids(got))),
        (
            "truto_super_query=wnam&sort_by[id]=desc",
            lambda _, got: ids(got) == sorted(ids(got), reverse=True),
        ),
        ("truto_super_query=wnam&created_at[gt]=2024-01-31", lambda _, got: len(rows(got)) == 30),
        ("truto_super_query=wnam&created_at[lt]=2024-01-31", lambda _, got: rows(got) == []),
        ("truto_skip_api_call=true", lambda _, got: rows(got) == [] and got.json["next_cursor"] is None),
        ("truto_skip_api_call=true&truto_response_format=debug", lambda _, got: got.json["debug"] is None),
        ("truto_skip_api_call=false", lambda _, got: len(rows(got)) == 30),
        ("remote_query[foo]=bar", lambda _, got: set(got.json) == ENVELOPE and len(rows(got)) == 30),
        ("remote_query[a][b][c][d][e]=f", lambda _, got: len(rows(got)) == 30),
    ],
)
def test_every_parameter_does_what_it_says(raw: str, wanted: Check) -> None:
    async def main() -> None:
        async with Caller(interactions=30, accounts=[ACCOUNT]) as caller:
            users = caller.sandbox.user_ids(ACCOUNT)
            filled = raw.replace("USER0", users[0]).replace("USER1", users[1])
            check(caller, await caller.get(raw=filled), wanted)

    run(main(), DEADLINE)


def test_the_golden_request() -> None:
    async def main() -> None:
        async with Caller(interactions=30, accounts=[ACCOUNT]) as caller:
            users = caller.sandbox.user_ids(ACCOUNT)[:2]
            target = (
                f"{INTERACTIONS}?integrated_account_id={ACCOUNT}&start_time=2024-01-01T00%3A00%3A00Z"
                f"&end_time=2024-02-01T00%3A00%3A00Z&users%5B0%5D%5Bid%5D={users[0]}&users%5B1%5D%5Bid%5D={users[1]}"
                "&truto_ignore_remote_data=true"
            )
            response = await caller.send("GET", target, headers={"Accept": "application/json"})
            assert [row["user"]["id"] for row in rows(response)] == users

    run(main(), DEADLINE)


# --- the response ----------------------------------------------------------------------------------------


def test_an_interaction_has_the_documented_fields_and_types() -> None:
    async def main() -> None:
        async with Caller(interactions=200, page_size=200, max_page_size=200) as caller:
            found = rows(await caller.get())
            assert set().union(*found) == FIELDS
            for row in found:
                assert set(row) >= FIELDS - {"created_at", "updated_at"}
                assert isinstance(row["id"], str)
                assert set(row["user"]) <= {"id", "name", "emails"}
                assert isinstance(row["user"]["id"], str)
                assert all(set(mail) == {"email", "is_primary"} for mail in row["user"]["emails"])
                assert datetime.fromisoformat(row["start_time"]).utcoffset() is not None
                assert datetime.fromisoformat(row["end_time"]).utcoffset() is not None
                assert row["aggregation_period"] in ("day", "week", "month", "total")
                assert set(row["metrics"]) <= METRICS
                assert all(set(each) == {"name", "value"} for each in row["additional_metrics"])
                assert isinstance(row["remote_data"], dict)

    run(main(), DEADLINE)


@pytest.mark.parametrize("kind", ["raw", "stream"])
def test_the_providers_own_body(kind: str) -> None:
    async def main() -> None:
        async with Caller(interactions=5, provider_shape="gong") as caller:
            first = (await caller.get(truto_response_format=kind, limit="4")).json
            assert set(first) == {
                "requestId", "records", "peopleInteractionStats", "timeZone", "fromDateTime", "toDateTime",
            }  # fmt: skip
            assert set(first["records"]) == {"totalRecords", "currentPageSize", "currentPageNumber", "cursor"}
            stats = {
                each["name"]
                for row in first["peopleInteractionStats"]
                for each in row["personInteractionStats"]
            }
            assert stats >= {"Longest Monologue", "Interactivity", "Patience"}
            cursor = first["records"]["cursor"]
            last = (await caller.get(truto_response_format=kind, limit="4", next_cursor=cursor)).json
            assert set(last["records"]) == {"totalRecords", "currentPageSize", "currentPageNumber"}

    run(main(), DEADLINE)


def test_the_debug_member() -> None:
    async def main() -> None:
        async with Caller(interactions=5) as caller:
            debug = (await caller.get(truto_response_format="debug")).json["debug"]
            assert set(debug) == {
                "requestUrl", "requestOptions", "data", "responseHeaders", "nextCursor", "isLooping",
                "isEmptyResult", "resultCount",
            }  # fmt: skip
            assert set(debug["data"]) >= {"requestId", "records", "peopleInteractionStats"}

    run(main(), DEADLINE)


# --- errors ----------------------------------------------------------------------------------------------

FIRST = {"statusCode", "error", "message"}
REMOTE = FIRST | {"truto_is_remote_error", "raw_response", "truto_error_insight"}
TOKENS = "/integrated-account/token"
ERRORS: dict[str, tuple[int, set[str], dict[str, set[str]]]] = {
    # what: status, members, and the members of each insight
    "no token": (401, FIRST, {}),
    "an account token with another account": (403, FIRST, {}),
    "an account token below its account": (403, FIRST, {}),
    "an account token that lists": (403, FIRST, {}),
    "no such path": (404, FIRST, {}),
    "no such account": (404, FIRST, {}),
    "no such account to look at": (404, FIRST, {}),
    "no account": (400, FIRST, {}),
    "a tier": (429, FIRST, {}),
    "a body that is not JSON": (400, FIRST, {}),
    "a body without an account": (400, FIRST, {}),
    "a body of no such account": (404, FIRST, {}),
    "another method": (405, FIRST, {}),
    "no window": (
        400,
        FIRST | {"truto_error_insight"},
        {"missing_required_query_parameters": {"description", "value"}},
    ),
    "a blocked account": (503, FIRST, {}),
    "a disconnected account": (401, REMOTE, {"remote_error": {"description"}}),
    "an empty window": (404, REMOTE, {"remote_error": {"description"}}),
    "a window of the future": (400, REMOTE, {"remote_error": {"description"}}),
    "the provider's limit": (429, REMOTE, {"rate_limit_error": {"description"}}),
}


async def fail(caller: Caller, what: str) -> Response:
    """Make the sandbox respond with one of the errors above."""
    sandbox, account = caller.sandbox, caller.account
    if what.startswith("an account token"):
        token = (await caller.send("POST", TOKENS, json={"integrated_account_id": account})).json
        own = {"Authorization": f"Bearer {token['integrated_account_token']}"}
        if what.endswith("another account"):
            return await caller.get(headers=own, integrated_account_id=sandbox.account_ids[1])
        path = "/integrated-account" if what.endswith("lists") else f"/integrated-account/{account}"
        return await caller.get(headers=own, path=path)
    if what.startswith("a body"):
        bodies = {"JSON": b"{", "account": b"{}"}
        body = bodies.get(what.rpartition(" ")[2], b"{}")
        if "no such" in what:
            body = b'{"integrated_account_id": "nobody"}'
        return await caller.send("POST", TOKENS, data=body)
    if what in ("a tier", "the provider's limit"):
        assert (await caller.get()).status == 200
    sandbox.configure(
        account,
        blocked=what == "a blocked account",
        status="needs_reauth" if what == "a disconnected account" else None,
        interactions=0 if what == "an empty window" else None,
    )
    if what == "another method":
        return await caller.send("DELETE", caller.target())
    queries: dict[str, dict[str, Any]] = {
        "no token": {"headers": {"Authorization": "Bearer x"}},
        "no such path": {"path": "/unified/crm/deals"},
        "no such account": {"integrated_account_id": "nobody"},
        "no such account to look at": {"path": "/integrated-account/nobody"},
        "no account": {"integrated_account_id": None},
        "no window": {"start_time": None, "end_time": None},
        "a window of the future": {"end_time": "2999-01-01T00:00:00Z"},
    }
    return await caller.get(**{"integrated_account_id": account} | queries.get(what, {}))


@pytest.mark.parametrize("what", list(ERRORS))
def test_errors_have_the_members_that_the_contract_gives_them(what: str) -> None:
    status, members, insights = ERRORS[what]
    rates: dict[str, Any] = {"account_rate": (1, 10.0)} if what == "a tier" else {}
    if what == "the provider's limit":
        rates = {"provider_rate": (1, 10.0)}

    async def main() -> None:
        async with Caller(accounts=2, **rates) as caller:
            response = await fail(caller, what)
            body = response.json
            assert (response.status, body["statusCode"], set(body)) == (status, status, members)
            found = body.get("truto_error_insight", {})
            assert {name: set(insight) for name, insight in found.items()} == insights
            assert body.get("truto_is_remote_error", True) is True
            assert (response.headers.get("Retry-After") is not None) == (status == 429)

    run(main(), DEADLINE)


def test_every_documented_status_can_be_had() -> None:
    statuses = [400, 401, 403, 404, 405, 408, 409, 422, 425, 429, 500, 502, 503, 504, *range(520, 525)]

    async def main() -> None:
        async with Caller() as caller:
            caller.sandbox.script(caller.account, [Fault.status(status) for status in statuses])
            for status in statuses:
                response = await caller.get()
                assert (response.status, response.json["statusCode"]) == (status, status)

    run(main(), DEADLINE)


# --- accounts --------------------------------------------------------------------------------------------

ACCOUNT_FIELDS = {
    "id", "tenant_id", "environment_id", "environment_integration_id", "status", "is_sandbox",
    "authentication_method", "region", "context", "integration", "features", "object_store_context_fields",
    "created_at", "updated_at", "last_error", "last_forbidden_error", "last_action_run_result",
}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "numbers"),
    [
        ("", range(8)),
        ("next_cursor=", range(8)),
        ("integration.name=gong&status=active", range(3)),
        ("integration.name=hubspot", [4]),
        ("status=needs_reauth", [3]),
        ("tenant_id=tenant-2", [1]),
        ("is_sandbox=true", [2, 5]),
        ("is_sandbox=false", [0, 1, 3, 4, 6, 7]),
        ("environment_id=ENVIRONMENT", range(8)),
        ("environment_id=nothing", []),
        ("features.super_query=true", [0, 1, 2, 3, 5, 7]),
        ("features.super_query=false", [4, 6]),
        ("created_at=2024-01-02T09:00:00.000Z", [1]),
        ("created_at[gt]=2024-01-06", [5, 6, 7]),
        ("created_at[gte]=2024-01-06T09:00:00Z", [5, 6, 7]),
        ("created_at[lt]=2024-01-02", [0]),
        ("created_at[lte]=2024-01-02T09:00:00Z", [0, 1]),
        ("created_at[gt]=2024-01-02&created_at[lt]=2024-01-04", [1, 2]),
        ("updated_at[gt]=2024-02-08", [7]),
        ("status[ne]=active", [3, 5, 6, 7]),
        ("status[in]=connecting,needs_reauth", [3, 6]),
        ("limit=2", range(2)),
    ],
)
def test_every_filter_of_accounts(raw: str, numbers: Any) -> None:
    async def main() -> None:
        async with Caller(accounts=3, others=5) as caller:
            everyone = caller.sandbox.accounts
            filled = raw.replace("ENVIRONMENT", everyone[0]["environment_id"])
            response = await caller.get(path="/integrated-account", raw=filled)
            assert response.status == 200, response.body
            assert set(response.json) == {"result", "next_cursor", "limit"}
            assert rows(response) == [everyone[number] for number in numbers]

    run(main(), DEADLINE)


def test_accounts_have_the_documented_fields() -> None:
    async def main() -> None:
        async with Caller(accounts=3, others=5, accounts_key="results") as caller:
            body = (await caller.get(path="/integrated-account")).json
            assert set(body) == {"results", "next_cursor", "limit"}
            for account in body["results"]:
                assert set(account) == ACCOUNT_FIELDS
                assert set(account["integration"]) == {"id", "name", "category"}
                assert account["region"] in ("wnam", "apac")
                assert account["status"] in (
                    "active", "connecting", "post_install_error", "validation_error", "needs_reauth",
                )  # fmt: skip
                one = await caller.get(path=f"/integrated-account/{account['id']}")
                assert one.json == account

    run(main(), DEADLINE)
