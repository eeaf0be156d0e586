"""The objects that calls return: interactions, accounts, pages, and what pulls hand out.

Nothing here reads a response or talks to the network: that is in `_wire` and `_http`. Start with `interactions`, then
`pages`; `accounts` and `debug` are smaller. `pulls` and `row_views` are for pulls only. `field_types` has what several
structs share.
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
