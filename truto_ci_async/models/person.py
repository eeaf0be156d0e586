"""People as they appear inside other records, and their email addresses."""

from __future__ import annotations

from truto_ci_async.export.schema import Column

from .api_object import ApiObject

#: The person of a record with a field ``user``.
PERSON_COLUMNS = (
    Column("user_id", "text", "user.id", "the provider's id of the person, up to 20 digits"),
    Column("user_name", "text", "user.name", "name of the person, if the provider gives it"),
    Column("user_email", "text", "user.email", "the primary address, else the first"),
    Column("user_emails", "json", "user.emails", "all addresses: a JSON array of {email, is_primary}"),
)


class Email(ApiObject, frozen=True, kw_only=True, gc=False):
    """One email address of a user."""

    email: str | None = None
    is_primary: bool | None = None


class Person(ApiObject, frozen=True, kw_only=True, gc=False):
    """The person an interaction or an activity is about. ``id`` is a string of up to 20 digits: a float cannot hold it.

    It is the ``id`` of a ``User``. Gong sends no name here: ``await truto.users.directory(account)`` has them.
    """

    id: str | None = None
    name: str | None = None
    emails: tuple[Email, ...] | None = None

    @property
    def email(self) -> str | None:
        """The primary address, else the first one, else None."""
        if not self.emails:
            return None
        for entry in self.emails:  # twice as fast as next() over a generator, and every row uses it
            if entry.is_primary:
                return entry.email
        return self.emails[0].email
