"""The names of the resources, and of the formats that their methods take."""

from __future__ import annotations

from typing import Literal, TypeAlias

from truto_ci_async.models import IntegratedAccount

MODEL = "conversational-intelligence"
#: The resources of that model.
RESOURCES = ("activity", "interactions", "meetings", "transcripts", "users")

ListFormat: TypeAlias = Literal["unified", "normalized", "debug"]
GetFormat: TypeAlias = Literal["unified", "normalized", "debug", "raw"]
StreamFormat: TypeAlias = Literal["stream", "unified", "normalized", "raw", "debug"]
Account: TypeAlias = str | IntegratedAccount | None
