"""Values with the traits of those of NumPy, pandas and other libraries, which the tests do not need.

Each is a subclass whose own methods would format it wrongly, or a scalar that is no subclass of Python's types.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any, NoReturn


class Text(str):
    """As ``numpy.str_``: a str with a text form of its own."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"Text({str.__str__(self)})"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return str(self)


class Whole(int):
    def __str__(self) -> str:
        return "a whole number"

    __repr__ = __str__


class Real(float):
    """As ``numpy.float64``, whose repr is not that of a float."""

    def __str__(self) -> str:
        return "a real number"

    __repr__ = __str__


class Letter(str, Enum):  # as callers on older Pythons write it  # noqa: UP042
    X = "x"


class Colour(Enum):
    """Its members are neither str nor int."""

    RED = "red"
    FIVE = 5


class Size(int, Enum):  # str() of a member is its name
    SMALL = 5


class Level(IntEnum):
    LOW = 5


class NumPyScalar:
    """As ``numpy.int64``, ``numpy.float32`` and ``numpy.bool_``, which are no subclasses of Python's numbers."""

    shape = ()

    def __init__(self, value: Any, kind: str) -> None:
        self.dtype = SimpleNamespace(kind=kind)
        self._value = value

    def item(self) -> Any:
        return self._value

    def __bool__(self) -> NoReturn:
        raise TypeError("ambiguous")

    def __iter__(self) -> NoReturn:
        raise TypeError("iteration over a 0-d array")


class Stamp(datetime):
    """As ``pandas.Timestamp``, which writes nanoseconds."""

    def isoformat(self, *args: Any, **kwargs: Any) -> str:
        return super().isoformat(*args, **kwargs) + "789"

    def astimezone(self, tz: Any = None) -> Stamp:
        moment = super().astimezone(tz)
        return Stamp(moment.year, moment.month, moment.day, moment.hour, tzinfo=tz)

    def __str__(self) -> str:
        return "a stamp"

    __repr__ = __str__


class NotATime(datetime):
    """As ``pandas.NaT``: an instance of datetime whose fields are NaN."""

    def __new__(cls) -> NotATime:
        return super().__new__(cls, 1, 1, 1)

    year = month = day = math.nan  # type: ignore[assignment]

    def utcoffset(self) -> NoReturn:
        raise ValueError("NaTType does not support utcoffset")

    isoformat = astimezone = utcoffset  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "NaT"


class Missing:
    """As ``pandas.NA``, which has no truth value and equals nothing."""

    def __bool__(self) -> NoReturn:
        raise TypeError("boolean value of NA is ambiguous")

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<NA>"


class Length(timedelta):
    """As ``pandas.Timedelta``; ``Length(days=nan)`` is as its NaT."""

    def __new__(cls, days: float) -> Length:
        made = super().__new__(cls, 0 if math.isnan(days) else days)
        made._days = days
        return made

    _days: float

    @property
    def days(self) -> Any:
        return self._days

    def total_seconds(self) -> NoReturn:
        raise NotImplementedError

    def __repr__(self) -> str:
        return "a length"
