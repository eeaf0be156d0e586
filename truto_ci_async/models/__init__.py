"""What a call returns: structs of the API, and the pages, positions and accounts they come with.

Nothing here reads a body or talks to a network: decoding is in `_wire`, requests are in `_http`. Start with
`interactions`, then `pages`; `pulls` and `row_views` are for pulls. `field_types` holds what the structs share.
"""

from .accounts import Capabilities, Capability, IntegratedAccount, Integration
from .debug import DebugInfo
from .field_types import Number
from .interactions import ROW_COLUMNS, AdditionalMetric, Email, Interaction, Metrics, User
from .pages import Issue, Page, Position, RateLimit, RawResponse, ResponseInfo

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
