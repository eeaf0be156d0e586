"""The objects that calls return: interactions, accounts, pages, and what pulls hand out.

Nothing here reads a response or talks to the network: that is in `_wire` and `_http`. Each resource has a file with its
structs and their columns: `interactions`, `meetings`, `transcripts` (with `sentences`), `users`, `activity`,
`accounts`. They share `person`, `field_types` and `api_object`, which says how members without a field are kept.
`pages` has what a list call returns, `debug` what one of its formats adds. `pulls` and `row_views` are for pulls only,
and `resource_types` lists what they can pull.
"""

from .accounts import (
    Capabilities,
    Capability,
    IntegratedAccount,
    Integration,
    MethodSchema,
    ProxyCapability,
    ProxyMethod,
)
from .activity import Activity, ActivityMetrics
from .debug import DebugInfo
from .field_types import Number
from .interactions import ROW_COLUMNS, AdditionalMetric, Interaction, Metrics
from .meetings import Attendee, Meeting
from .pages import Issue, Page, Position, RateLimit, RawResponse, ResponseInfo
from .person import Email, Person
from .sentences import Sentence
from .transcripts import MeetingRef, SentenceRow, Transcript
from .users import User

__all__ = [
    "ROW_COLUMNS",
    "Activity",
    "ActivityMetrics",
    "AdditionalMetric",
    "Attendee",
    "Capabilities",
    "Capability",
    "DebugInfo",
    "Email",
    "IntegratedAccount",
    "Integration",
    "Interaction",
    "Issue",
    "Meeting",
    "MeetingRef",
    "MethodSchema",
    "Metrics",
    "Number",
    "Page",
    "Person",
    "Position",
    "ProxyCapability",
    "ProxyMethod",
    "RateLimit",
    "RawResponse",
    "ResponseInfo",
    "Sentence",
    "SentenceRow",
    "Transcript",
    "User",
]
