"""The unified resources: their fields as JSON Schema, and the parameters of their lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .activity import COUNTS
from .providers import MODEL, PROVIDERS

Schema = dict[str, Any]

TIMES: Final = ("start_time", "end_time")
_METHODS: Final = ("list", "get")  # of a resource of another model, whatever the account


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _with_id(**properties: Schema) -> Schema:
    return {**_object(id=_STRING, **properties), "required": ["id"]}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_STRING: Final[Schema] = {"type": "string"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_NUMBER: Final[Schema] = {"type": "number"}
_INTEGER: Final[Schema] = {"type": "integer"}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_ANY_OBJECT: Final[Schema] = {"type": "object"}
_EMAILS: Final = _array(_object(email=_STRING, is_primary=_BOOLEAN))
_PERSON: Final = _with_id(name=_STRING, emails=_EMAILS)
_PERIOD: Final[Schema] = {"type": "string", "enum": ["day", "week", "month", "total"]}
_SENTENCE: Final[dict[str, Schema]] = {
    "speaker_id": _STRING,
    "speaker_type": _STRING,
    "speaker_name": _STRING,
    "text": _STRING,
    "raw_text": _STRING,
    "start_time": _NUMBER,
    "end_time": _NUMBER,
}
_STATISTICS: Final = (
    "longest_monologue",
    "longest_customer_story",
    "interactivity",
    "patience",
    "question_rate",
)

_INTERACTION: Final = _with_id(
    user=_PERSON,
    start_time=_TIME,
    end_time=_TIME,
    timezone=_STRING,
    aggregation_period=_PERIOD,
    metrics=_object(**dict.fromkeys(_STATISTICS, _NUMBER)),
    additional_metrics=_array(_object(name=_STRING, value=_NUMBER)),
    created_at=_TIME,
    updated_at=_TIME,
    remote_data=_ANY_OBJECT,
)
_MEETING: Final = _with_id(
    title=_STRING,
    attendees=_array(_object(id=_STRING, name=_STRING, email=_STRING, is_host=_BOOLEAN, type=_STRING)),
    duration=_INTEGER,
    start_time=_TIME,
    end_time=_TIME,
    audio_recording_url=_STRING,
    video_recording_url=_STRING,
    status=_STRING,
    topics=_array(_STRING),
    type=_STRING,
    transcript=_array(_object(**_SENTENCE)),
    created_at=_TIME,
    updated_at=_TIME,
    meeting_url=_STRING,
    calender_event=_STRING,
    remote_data=_ANY_OBJECT,
)
_USER: Final = _with_id(
    name=_STRING,
    emails=_EMAILS,
    created_at=_TIME,
    updated_at=_TIME,
    remote_data=_ANY_OBJECT,
)
_TRANSCRIPT: Final = _object(
    id=_STRING,
    meeting=_object(id=_STRING),
    entries=_array(_object(id=_STRING, **_SENTENCE)),
    start_time=_NUMBER,
    end_time=_NUMBER,
    remote_data=_ANY_OBJECT,
)
_ACTIVITY: Final = _with_id(
    user=_PERSON,
    start_time=_TIME,
    end_time=_TIME,
    aggregation_period=_PERIOD,
    metrics=_object(**dict.fromkeys(COUNTS, _INTEGER)),
    remote_data=_ANY_OBJECT,
)
_CONTACT: Final = _with_id(
    first_name=_STRING,
    last_name=_STRING,
    emails=_EMAILS,
    created_at=_TIME,
    updated_at=_TIME,
    remote_data=_ANY_OBJECT,
)


@dataclass(frozen=True, slots=True)
class Resource:
    """One unified resource. `parameters` are those of its list, beside the ones of every list."""

    model: str
    name: str
    schema: Schema
    parameters: Mapping[str, Schema]
    required: tuple[str, ...] = ()  # of every provider

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.schema["properties"])

    @property
    def all_methods(self) -> frozenset[str]:
        """The methods that any integration has."""
        if self.model != MODEL:
            return frozenset(_METHODS)
        offered = (each.resources.get(self.name, ()) for each in PROVIDERS.values())
        return frozenset(method for methods in offered for method in methods)

    def methods(self, integration: str) -> tuple[str, ...] | None:
        """Return the methods an integration has for this resource, or None if it does not have the resource."""
        if self.model != MODEL:
            return _METHODS
        provider = PROVIDERS.get(integration)
        return provider.resources.get(self.name) if provider else None

    def required_from(self, integration: str) -> tuple[str, ...]:
        provider = PROVIDERS.get(integration)
        return provider.required if provider and self.name == "meetings" else self.required

    def effective_from(self, integration: str) -> tuple[str, ...]:
        """Return the parameters that an integration does not ignore."""
        if self.name == "meetings":
            return PROVIDERS[integration].meeting_parameters
        return tuple(self.parameters)

    def query_schema(self, integration: str) -> Schema:
        names, needed = self.effective_from(integration), self.required_from(integration)
        properties = {name: schema for name, schema in self.parameters.items() if name in names}
        return {"type": "object", "properties": properties, "required": list(needed)}

    def response_schema(self, integration: str, method: str) -> Schema:
        """Return the schema of a record, with the fields that the integration has."""
        properties = self.schema["properties"]
        if self.name == "meetings":
            provider = PROVIDERS[integration]
            kept = provider.listed if method == "list" else None
            properties = {
                name: schema
                for name, schema in properties.items()
                if name not in provider.missing and (kept is None or name in kept)
            }
        return {"required": [], **self.schema, "properties": properties}


_WINDOW: Final[Mapping[str, Schema]] = dict.fromkeys(TIMES, _TIME)
_WINDOW_AND_USERS: Final = {**_WINDOW, "users": _array(_with_id())}
_ALL: Final = (
    Resource(MODEL, "interactions", _INTERACTION, _WINDOW_AND_USERS, TIMES),
    Resource(MODEL, "meetings", _MEETING, {**_WINDOW, "user_id": _STRING}),
    Resource(MODEL, "users", _USER, {"created_at": _TIME}),
    Resource(MODEL, "transcripts", _TRANSCRIPT, {"meeting": _with_id()}, ("meeting",)),
    Resource(MODEL, "activity", _ACTIVITY, _WINDOW_AND_USERS, TIMES),
    Resource("crm", "contacts", _CONTACT, {}),
)
RESOURCES: Final[Mapping[str, Resource]] = {f"{each.model}/{each.name}": each for each in _ALL}
