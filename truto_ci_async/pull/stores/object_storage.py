"""Objects in a bucket, through obstore: put, get, copy, list and delete, with errors of this package.

``Bucket`` knows nothing of pulls. Retries are obstore's own. No text that it makes shows a credential: error messages
have neither the query of a URL, which signs requests to Azure, nor the body of an answer, nor values of the options.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from math import inf
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, cast

import anyio

from truto_ci_async.errors import MissingExtraError, StorageError, UsageError

from .dsn import Dsn

T = TypeVar("T")

#: The schemes of URLs.
BUCKETS: Final = ("s3", "gs", "az")

#: What obstore tells of an object's version, by which a put can be made to depend on it.
Version: TypeAlias = dict[str, str]
Condition: TypeAlias = Literal["create"] | Version

_METADATA: Final = "169.254.169.254"
_XML = re.compile(r"<\?xml.*", re.DOTALL)
_FIELDS = re.compile(r"<(Code|Message)>(.*?)</\1>", re.DOTALL)
_QUERY = re.compile(r"(https?://[^\s?]*)\?[^\s)\"']*")
_SECRET = re.compile(r"secret|token|key|sas|password|credential", re.IGNORECASE)


class ConditionFailedError(Exception):
    """The object is not what a put depends on."""


class Object(NamedTuple):
    data: bytes
    version: Version


class Bucket:
    """The objects under a URL such as ``s3://bucket/prefix``, or under a prefix in a store of obstore.

    ``options`` is what ``obstore.store.from_url`` takes.

    :raises MissingExtraError: obstore is not installed.
    :raises UsageError: the URL is no place for objects.
    """

    def __init__(self, url: str | None, store: Any, prefix: str, options: Mapping[str, Any]) -> None:
        self._obstore: Any = _import("obstore")
        self._errors: Any = _import("obstore.exceptions")
        self._secrets = sorted(_secrets_in(options), key=len, reverse=True)
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._seconds = inf
        self._scopes: set[anyio.CancelScope] = set()
        if url is None:
            self._store = store
            self._name = f"{type(store).__name__}:{prefix.strip('/')}"
        else:
            _check_url(url)
            self._name = url.rstrip("/")
            self._store = self._open(url, options)

    def _open(self, url: str, options: Mapping[str, Any]) -> Any:
        try:
            return _import("obstore.store").from_url(url, **options)
        except (self._errors.BaseError, ValueError, TypeError) as error:
            raise UsageError(f"cannot open {self}: {self._text(error)}") from None

    async def put(self, path: str, data: Any, condition: Condition | None = None) -> Version:
        """Put an object as a whole, and return its version. The condition is that it is new, or is of a version.

        :raises ConditionFailedError: the object is another one.
        """
        obstore = self._obstore
        try:
            put = obstore.put_async(
                self._store, self._prefix + path, data, mode="overwrite" if condition is None else condition
            )
            return _version(await self._call("write", path, put))
        except FileNotFoundError as error:
            if condition is not None and condition != "create":
                raise ConditionFailedError from None
            raise self._failed("write", path, error) from None

    async def get(self, path: str) -> Object | None:
        """Return an object, None if there is none."""

        async def read() -> Object:
            found = await self._obstore.get_async(self._store, self._prefix + path)
            return Object(bytes(await found.bytes_async()), _version(found.meta))

        try:
            return await self._call("read", path, read())
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes | None:
        """Return an object, None if there is none. This waits for it."""
        try:
            return bytes(self._obstore.get(self._store, self._prefix + path).bytes())
        except FileNotFoundError:
            return None
        except (self._errors.BaseError, OSError, ValueError) as error:
            raise self._failed("read", path, error) from None

    async def size(self, path: str) -> int | None:
        """Return how many bytes an object has, None if there is none."""
        try:
            head = self._obstore.head_async(self._store, self._prefix + path)
            return int((await self._call("read", path, head))["size"])
        except FileNotFoundError:
            return None

    async def copy(self, source: str, target: str) -> bool:
        """Copy an object within the bucket. Return whether it is there."""
        names = self._prefix + source, self._prefix + target
        try:
            await self._call("copy", source, self._obstore.copy_async(self._store, *names))
        except FileNotFoundError:
            return False
        return True

    async def delete(self, paths: Sequence[str]) -> None:
        """Delete objects, some of which may be gone."""
        if paths:
            names = [self._prefix + path for path in paths]
            with suppress(FileNotFoundError):
                await self._call("delete", paths[0], self._obstore.delete_async(self._store, names))

    async def list(self, folder: str) -> AsyncIterator[tuple[str, int]]:
        """Generate the names of all objects in a folder, and their sizes in bytes."""
        found: Any = self._obstore.list(self._store, self._prefix + folder)
        while True:
            following: Awaitable[Any] = anext(found, None)
            some: Any = await self._call("list", folder, following)
            for each in some or ():
                yield each["path"].removeprefix(self._prefix), each["size"]
            if some is None:
                return

    def hurry(self, seconds: float) -> None:
        """Wait no longer than some seconds for each answer from now on."""
        self._seconds = seconds
        for scope in self._scopes:
            scope.deadline = anyio.current_time() + seconds

    async def check_conditions(self, path: str) -> None:
        """Try whether conditions of puts are kept, with an object of this name.

        :raises StorageError: they are not, so two runs could not be kept apart.
        """
        old = await self.put(path, b"1")
        new = await self.put(path, b"2")
        kept = 0
        conditions: tuple[Condition, ...] = (old, "create")
        for condition in conditions:
            try:
                await self.put(path, b"3", condition)
            except ConditionFailedError:
                kept += 1
        await self.delete([path])
        if kept < 2 or not new:
            raise StorageError(
                f"{self} ignores the conditions If-Match and If-None-Match of a put, by which two runs exclude each "
                "other: use another service, or a newer version of it",
                path=self._name,
            )

    async def _call(self, what: str, path: str, call: Awaitable[T]) -> T:
        errors = self._errors
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + self._seconds) as scope:
                self._scopes.add(scope)
                try:
                    return await call
                finally:
                    self._scopes.discard(scope)
        except FileNotFoundError:
            raise
        except (errors.AlreadyExistsError, errors.PreconditionError):
            raise ConditionFailedError from None
        except NotImplementedError as error:
            raise UsageError(f"{self} cannot be used: {self._text(error)}") from None
        except (errors.BaseError, OSError, ValueError) as error:
            raise self._failed(what, path, error) from None
        raise StorageError(f"cannot {what} {self}/{path}: no answer, and the pull is to end", path=self._name)

    def _failed(self, what: str, path: str, error: Exception) -> StorageError:
        errors = self._errors
        hint = ""
        text = self._text(error)
        if isinstance(error, errors.PermissionDeniedError | errors.UnauthenticatedError):
            hint = ". Check the credentials, which come from the environment or from storage_options"
        elif _METADATA in text:  # where a machine in the cloud is given its own
            hint = ". There are no credentials in the environment, such as AWS_ACCESS_KEY_ID, or in storage_options"
        return StorageError(f"cannot {what} {self}/{path}: {text}{hint}", path=self._name)

    def _text(self, error: Exception) -> str:
        text = str(error).split("\n\nDebug source")[0]
        if (body := _XML.search(text)) is not None:
            told = "; ".join(field[1].strip() for field in _FIELDS.findall(body[0]))
            text = text[: body.start()] + told
        text = _QUERY.sub(r"\1?***", " ".join(text.split()))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def __str__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return repr(self._name)


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError("obstore", "cloud") from None


def _check_url(url: str) -> None:
    """:raises UsageError: it is none of a bucket, or shows a credential."""
    scheme, _, rest = url.partition("://")
    shown = str(Dsn(url)).partition("?")[0]
    if scheme not in BUCKETS or not rest.strip("/"):
        raise UsageError(f"{shown!r} names no bucket: write s3://bucket/prefix")
    if "@" in rest or "?" in rest or "#" in rest:
        raise UsageError(
            f"{shown!r} has more than a bucket and a prefix: credentials come from the environment, such as "
            "AWS_ACCESS_KEY_ID, or from CloudStore(url, storage_options=...)"
        )


def _secrets_in(options: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _secrets_in(cast("Mapping[str, Any]", value))
        elif isinstance(value, str) and _SECRET.search(name) and len(value) > 3:
            found.add(value)
    return found


def _version(found: Mapping[str, Any]) -> Version:
    return {name: found[name] for name in ("e_tag", "version") if found.get(name) is not None}
