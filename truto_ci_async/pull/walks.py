"""How the pulls of the resources differ: what is listed, whether it takes a window, what identifies a row."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from truto_ci_async.errors import UsageError
from truto_ci_async.models.resource_types import ITEM_TYPES

MODEL: Final = "conversational-intelligence"

#: Filters of a transcripts pull that apply to the transcripts; the others apply to the list of meetings.
OF_TRANSCRIPTS: Final = frozenset({"response_format", "exclude_fields", "ignore_remote_data"})
#: Filters that apply to both.
_OF_BOTH: Final = frozenset({"super_query", "skip_api_call"})


class Walk(Struct, frozen=True, kw_only=True):
    """How a resource is pulled.

    ``lists``          what is listed: the resource itself, or the meetings whose transcripts are asked for.
    ``takes_window``   whether there are windows; ``needs_window``: the service refuses a call without one.
    ``checks_window``  some providers ignore the window, so rows outside of it are left out.
    ``takes_users``    whether there is a filter by users.
    ``is_counted``     rows are counts of a window, and say which one they cover.
    ``has_ids``        the id alone tells rows apart; otherwise the id, the user and the window of the row do.
    """

    resource: str
    lists: str = ""
    takes_window: bool = True
    needs_window: bool = False
    checks_window: bool = False
    takes_users: bool = False
    is_counted: bool = False
    has_ids: bool = False

    @property
    def item_type(self) -> Any:
        return ITEM_TYPES[self.resource]

    @property
    def path(self) -> tuple[str, str, str]:
        """The path that is listed."""
        return "unified", MODEL, self.lists or self.resource

    @property
    def is_per_meeting(self) -> bool:
        """Whether each meeting is asked for on its own."""
        return bool(self.lists)

    def list_filters(self, filters: dict[str, Any]) -> dict[str, Any]:
        """Return the filters that apply to the list."""
        if not self.is_per_meeting:
            return filters
        kept = {name: value for name, value in filters.items() if name not in OF_TRANSCRIPTS}
        # Of a meeting, its id and its start are all that is needed.
        return {**kept, "ignore_remote_data": True, "exclude_fields": ["transcript"]}

    def transcript_filters(self, filters: dict[str, Any]) -> dict[str, Any]:
        """Return the filters that apply to the transcript of each meeting."""
        kept = OF_TRANSCRIPTS | _OF_BOTH
        return {name: value for name, value in filters.items() if name in kept}


_ALL: Final = (
    Walk(resource="interactions", takes_users=True, is_counted=True),
    Walk(resource="meetings", checks_window=True, has_ids=True),
    Walk(resource="users", takes_window=False, has_ids=True),
    Walk(resource="transcripts", lists="meetings", checks_window=True, has_ids=True),
    Walk(resource="activity", needs_window=True, takes_users=True, is_counted=True),
)
WALKS: Final = {walk.resource: walk for walk in _ALL}


def walk_of(resource: object) -> Walk:
    """:raises UsageError: this resource cannot be pulled."""
    walk = WALKS.get(resource) if isinstance(resource, str) else None
    if walk is None:
        raise UsageError(f"there is no pull of {resource!r}: the resources are {', '.join(WALKS)}")
    return walk
