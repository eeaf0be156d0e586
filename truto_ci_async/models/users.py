"""Users: the people of the connected product's own workspace."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Raw

from truto_ci_async.export.schema import Column, Schema

from .api_object import CHANGE_COLUMNS, REMOTE_COLUMN, ApiRecord
from .field_types import NO_DATA, AwareDatetime
from .person import Person

USER_SCHEMA = Schema(
    "users",
    Column("id", "text", doc="the provider's id of the user, up to 20 digits"),
    Column("name", "text", doc="full name"),
    Column("email", "text", doc="the primary address, else the first"),
    Column("emails", "json", doc="all addresses: a JSON array of {email, is_primary}"),
    *CHANGE_COLUMNS,
    REMOTE_COLUMN,
)


class User(Person, ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """A user of the connected product. ``id`` is that of ``Interaction.user`` and ``Activity.user``.

    Gong sends no ``updated_at``. Anything else the provider has, such as a title, is in ``remote_data`` only. Equal
    when all fields are equal; hashed by id.
    """

    SCHEMA: ClassVar[Schema] = USER_SCHEMA

    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    remote_json: Raw = NO_DATA

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        shown = (("name", self.name), ("email", self.email))
        return self._summary(*(f"{name}={value!r}" for name, value in shown if value is not None))
