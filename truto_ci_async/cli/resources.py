"""The resources of conversational intelligence, declared once each: what their commands take and say."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from .options import Options

MODEL: Final = "conversational-intelligence"
EXAMPLES: Final = "examples (leave out --sandbox once TRUTO_API_TOKEN is set):"


class ResourceCommand(NamedTuple):
    """One resource and its command. ``filters`` are those of its lists that not every resource has."""

    noun: str
    description: str
    examples: str
    filters: tuple[str, ...] = ()
    has_get: bool = False
    text_formats: tuple[str, ...] = ()  # further values of ``-o``


RESOURCES: Final[Mapping[str, ResourceCommand]] = MappingProxyType({
    "interactions": ResourceCommand(
        "interaction",
        "List the interactions of one account: a row of talk metrics for each of its people.",
        """\
  truto-ci interactions --sandbox
  truto-ci interactions --sandbox --start-time 2024-03-01 --end-time 2024-04-01 -o csv --max-items 3
  truto-ci interactions --sandbox --user 7407178509922943910 -o json --ignore-remote-data
  truto-ci interactions --sandbox --limit 100 --max-pages 1 -o ndjson
  truto-ci interactions --sandbox --key-by id -o json
  truto-ci interactions --sandbox --response-format stream -o ndjson | head -2

Truto's synced store supports sort_by and operators:
  truto-ci interactions --sandbox --super-query wnam -q 'created_at[gt]=2024-06-01T00:00:00Z' --max-items 3
  truto-ci interactions --sandbox --super-query wnam --query-json '{"sort_by": {"id": "desc"}}' --max-items 3
""",
        filters=("start_time", "end_time", "users"),
    ),
    "meetings": ResourceCommand(
        "meeting",
        "List the meetings of one account, or show one of them. Two or three of the five providers take a window; the "
        "others ignore it. Lists of Avoma and Chorus have only some of the fields; with an ID you get all of them.",
        """\
  truto-ci meetings --sandbox --max-items 5
  truto-ci meetings --sandbox -o ndjson | head -2
  truto-ci meetings 21733121561272471090 --sandbox
  truto-ci meetings -m meta --sandbox
""",
        filters=("start_time", "end_time"),
        has_get=True,
    ),
    "transcripts": ResourceCommand(
        "transcript",
        "Show the transcripts of meetings, one request for each meeting. Of the five providers only Gong has them.",
        """\
  truto-ci transcripts --sandbox -o text
  truto-ci transcripts --sandbox --meeting 21733121561272471090 -o vtt
""",
        filters=("meeting",),
        text_formats=("text", "vtt"),
    ),
    "users": ResourceCommand(
        "user",
        "List the users of one account, or show one of them. They have the names that interactions and activity of "
        "Gong lack.",
        """\
  truto-ci users --sandbox --max-items 5
  truto-ci users 7407178509922943910 --sandbox
  truto-ci users --sandbox -q 'created_at[gt]=2023-01-01T00:00:00Z' -o csv --max-items 3
""",
        has_get=True,
    ),
    "activity": ResourceCommand(
        "activity record",
        "List the activity of one account: for each user, counts of calls, feedback and comments in a window. Of the "
        "five providers only Gong has it.",
        """\
  truto-ci activity --sandbox --max-items 5
  truto-ci activity --sandbox --start-time 2024-03-01 --end-time 2024-04-01 -o csv
""",
        filters=("start_time", "end_time", "users"),
    ),
})  # fmt: skip


def resource_command(model: str, resource: str) -> ResourceCommand | None:
    """Return the declaration of a resource; None if it belongs to another model, or does not exist."""
    return RESOURCES.get(resource) if model == MODEL else None


def method_of(options: Options) -> str:
    """Return what a command of a resource does: the ``-m`` given, else ``get`` with an id and ``list`` without."""
    method: str = options.method or ("get" if options.id else "list")
    return method
