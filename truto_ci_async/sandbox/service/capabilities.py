"""What an integrated account offers: `GET /integrated-account/{id}/capabilities`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .parameters import boolean, check_names, choice, names
from .providers import MODEL, PROVIDERS

# Model, and its resources with their methods.
_UNIFIED: Final[Mapping[str, tuple[str, Mapping[str, Sequence[str]]]]] = {
    **{name: (MODEL, provider.resources) for name, provider in PROVIDERS.items()},
    "hubspot": ("crm", {"contacts": ["list", "get"]}),
    "zendesk": ("ticketing", {"tickets": ["list", "get"]}),
}
_PROXY: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    **{name: {"meetings": ["list", "get"], "users": ["list"]} for name in PROVIDERS},
    "gong": {"calls": ["list", "get"], "users": ["list", "get"], "interaction-stats": ["list"]},
    "hubspot": {"contacts": ["list", "get"]},
    "zendesk": {"tickets": ["list", "get"]},
}
_UNDESCRIBED: Final = ("interaction-stats",)  # shows what `has_description` leaves out


def capabilities(
    account: Mapping[str, Any], query: Mapping[str, Any], *, strict: bool, blocked: bool
) -> dict[str, Any]:
    """Return the response, with `unified` as a list.

    :raises ServiceError: a parameter is malformed.
    """
    if strict:
        check_names(query, ("type", "resource", "methods", "has_description"))
    kind = choice(query, "type", ("all", "unified", "proxy")) or "all"
    resources, methods = names(query, "resource"), names(query, "methods")
    described_only = boolean(query, "has_description", default=True)
    integration = account["integration"]["name"]

    def narrow(offered: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        kept = {
            name: [method for method in each if not methods or method in methods]
            for name, each in offered.items()
            if not resources or name in resources
        }
        return {name: each for name, each in kept.items() if each}

    model, offered = _UNIFIED[integration]
    unified = [{"model": model, "resource": name, "methods": each} for name, each in narrow(offered).items()]
    proxy = [
        {"resource": name, "methods": [_proxy_method(integration, name, method) for method in each]}
        for name, each in narrow(_PROXY[integration]).items()
        if name not in _UNDESCRIBED or not described_only
    ]
    status = "blocked" if blocked else account["status"]
    found: dict[str, Any] = {
        "account": {"id": account["id"], "status": status, "is_blocked": blocked},
        "integration": account["integration"],
        "environment_id": account["environment_id"],
        "auth": {"method": account["authentication_method"]},
        "ai_readiness": {"is_ready": not blocked and account["status"] == "active"},
        "env_overridden": False,
    }
    if kind != "proxy":
        found["unified"] = unified
    if kind != "unified":
        found["proxy"] = proxy
    return found


def _proxy_method(integration: str, resource: str, method: str) -> dict[str, Any]:
    return {
        "name": method,
        "has_description": resource not in _UNDESCRIBED,
        "has_query_schema": method == "list",
        "has_body_schema": False,
        "has_response_schema": True,
        "api_documentation_url": f"https://developers.example.com/{integration}/{resource}#{method}",
    }
