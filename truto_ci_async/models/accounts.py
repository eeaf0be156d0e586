"""Connected accounts and their capabilities (contract section 5)."""

from __future__ import annotations

from typing import Any, ClassVar

from truto_ci_async.export.schema import Column, Columns, Schema

from .api_object import ApiObject
from .field_types import AwareDatetime

# Fields that can hold secrets or long texts of the provider; no repr shows them.
_HIDDEN = frozenset(
    {"context", "features", "last_error", "last_forbidden_error", "last_action_run_result", "unknown_json"}
)


class Integration(ApiObject, frozen=True, kw_only=True, gc=False):
    """The product an account is connected to, such as ``gong``."""

    id: str | None = None
    name: str | None = None
    category: str | None = None


ACCOUNT_SCHEMA = Schema(
    "integrated_accounts",
    Column("id", "text", doc="the integrated_account_id of calls"),
    Column("integration", "text", "integration.name", "the product it is connected to, such as gong"),
    Column("status", "text", doc="active, needs_reauth, ..."),
    Column("tenant_id", "text", doc="the customer it belongs to"),
    Column("is_sandbox", "bool", doc="whether it is for tests"),
    Column("authentication_method", "text", doc="how it is connected, such as oauth2"),
    Column("region", "text", doc="where its data is kept"),
    Column("created_at", "timestamp", doc="when it was connected"),
    Column("updated_at", "timestamp", doc="when it last changed"),
)


class IntegratedAccount(ApiObject, frozen=True, kw_only=True, gc=True):
    """A connected account. Methods that take an ``integrated_account_id`` take it too.

    ``status`` is ``active``, ``connecting``, ``post_install_error``, ``validation_error``, ``needs_reauth`` or
    a value newer than this package. ``region`` is ``wnam`` or ``apac``; ``features["super_query"]`` tells whether Truto
    keeps a synced store for it. ``last_forbidden_error`` is cleared by the next success. ``context`` can contain the
    customer's secrets and is not in the repr.
    """

    SCHEMA: ClassVar[Schema] = ACCOUNT_SCHEMA

    id: str | None = None
    tenant_id: str | None = None
    environment_id: str | None = None
    environment_integration_id: str | None = None
    status: str | None = None
    is_sandbox: bool | None = None
    authentication_method: str | None = None
    region: str | None = None
    context: Any = None
    integration: Integration | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    last_error: Any = None
    last_forbidden_error: Any = None
    last_action_run_result: Any = None
    features: Any = None
    object_store_context_fields: Any = None

    def row(self, columns: Columns = None) -> dict[str, Any]:
        """Flatten into one row for tables and CSV, without ``context`` and the errors. Times are in UTC.

        :raises UsageError: there is no such column.
        """
        return ACCOUNT_SCHEMA.row(self, columns)

    def _repr_html_(self) -> str:
        from truto_ci_async.export.html import item_card

        return item_card(self)

    def __repr__(self) -> str:
        integration = self.integration.name if self.integration else None
        return (
            f"IntegratedAccount(id={self.id!r}, integration={integration!r}, status={self.status!r}, "
            f"tenant_id={self.tenant_id!r})"
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in super().__rich_repr__() if name not in _HIDDEN]


class Capability(ApiObject, frozen=True, kw_only=True, gc=False):
    """A unified resource that an account offers; ``model`` is None if the service does not name it."""

    model: str | None = None
    resource: str | None = None
    methods: tuple[str, ...] = ()


class ProxyMethod(ApiObject, frozen=True, kw_only=True, gc=False):
    """A method of the provider's own API, and what Truto knows about it."""

    name: str | None = None
    has_description: bool | None = None
    has_query_schema: bool | None = None
    has_body_schema: bool | None = None
    has_response_schema: bool | None = None
    api_documentation_url: str | None = None


class ProxyCapability(ApiObject, frozen=True, kw_only=True, gc=False):
    """A resource of the provider's own API that an account offers."""

    resource: str | None = None
    methods: tuple[ProxyMethod, ...] = ()


class Capabilities(ApiObject, frozen=True, kw_only=True, gc=True):
    """What an account can do, as ``integrated_accounts.capabilities(id)`` returns it.

    ``unified`` are the resources of Truto's models, ``proxy`` those of the provider's own API: each is empty unless it
    was asked for. ``auth`` and ``ai_readiness`` are as the service sends them.
    """

    account_id: str | None = None
    status: str | None = None
    is_blocked: bool | None = None
    unified: tuple[Capability, ...] = ()
    proxy: tuple[ProxyCapability, ...] = ()
    integration: Integration | None = None
    environment_id: str | None = None
    auth: Any = None
    ai_readiness: Any = None
    env_overridden: Any = None

    def supports(self, resource: str, method: str = "list", *, model: str | None = None) -> bool:
        """Tell whether ``method`` of ``resource`` is offered; ``model`` is compared if the service names it."""
        return any(
            entry.resource == resource
            and method in entry.methods
            and (model is None or entry.model is None or entry.model == model)
            for entry in self.unified
        )

    def _repr_html_(self) -> str:
        from truto_ci_async.export.html import card, table

        rows = [[entry.model, entry.resource, ", ".join(entry.methods)] for entry in self.unified]
        blocked = "blocked" if self.is_blocked else ""
        return card(
            "Capabilities",
            self.account_id or "",
            self.status or "",
            blocked,
            tables=[table(["model", "resource", "methods"], rows)],
        )


class MethodSchema(ApiObject, frozen=True, kw_only=True, gc=True):
    """The parameters and results of a method for one account, as JSON Schema: see ``Resource.meta``."""

    query_schema: Any = None
    response_schema: Any = None
