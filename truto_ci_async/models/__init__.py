"""What a call returns: structs of the API, and pages of them. Nothing here reads bodies or talks to a network.

Start with `interactions`."""

from truto_ci_async.models.interactions import (
    ROW_COLUMNS,
    AdditionalMetric,
    Capabilities,
    Capability,
    DebugInfo,
    Email,
    IntegratedAccount,
    Integration,
    Interaction,
    Issue,
    Metrics,
    Number,
    Page,
    Position,
    RateLimit,
    RawResponse,
    ResponseInfo,
    User,
)

__all__ = [
    "ROW_COLUMNS",
    "AdditionalMetric",
    "Capabilities",
    "Capability",
    "DebugInfo",
    "Email",
    "IntegratedAccount",
    "Integration",
    "Interaction",
    "Issue",
    "Metrics",
    "Number",
    "Page",
    "Position",
    "RateLimit",
    "RawResponse",
    "ResponseInfo",
    "User",
]
