"""How pydantic, and so FastAPI, writes our objects: as their ``to_dict()``."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def _to_dict(value: Any) -> Any:
    return value.to_dict()


def plain_schema(cls: type[Any]) -> Any:
    """Return pydantic's schema of a class with ``to_dict``. Pydantic calls this, so it is installed."""
    core_schema = import_module("pydantic_core.core_schema")
    written = core_schema.plain_serializer_function_ser_schema(
        _to_dict, return_schema=core_schema.dict_schema()
    )
    return core_schema.is_instance_schema(cls, serialization=written)
