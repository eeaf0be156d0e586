"""Users: the people of the connected product's own workspace."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from .api_object import ApiRecord, json_text
from .field_types import NO_DATA, AwareDatetime
from .person import Person


class User(Person, ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """A user of the connected product. ``id`` is that of ``Interaction.user`` and ``Activity.user``.

    Gong sends no ``updated_at``. What else the provider knows, such as a title, is in ``remote_data`` only. Equal when
    all fields are equal; hashed by id.
    """

    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    remote_json: Raw = NO_DATA

    def __hash__(self) -> int:
        return hash(self.id)

    def row(self) -> dict[str, Any]:
        """Flatten into one row; ``email`` is the primary address, and ``emails`` are JSON text."""
        return {
            "id": self.id,
            "name": self.name,
            "email": self.email,
            "emails": json_text(self.emails),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "remote_data": self._remote_text(),
        }

    def __repr__(self) -> str:
        shown = (("name", self.name), ("email", self.email))
        return self._summary(*(f"{name}={value!r}" for name, value in shown if value is not None))
