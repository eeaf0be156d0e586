"""How pydantic, and so FastAPI, writes our objects: as their ``to_dict()``."""

from __future__ import annotations

from typing import Any


def plain_schema(cls: type[Any]) -> Any:
    """Return pydantic's schema of a class with ``to_dict``. Pydantic calls this, so it is installed."""
    from pydantic_core import core_schema

    written = core_schema.plain_serializer_function_ser_schema(
        lambda value: value.to_dict(), return_schema=core_schema.dict_schema()
    )
    return core_schema.is_instance_schema(cls, serialization=written)
