"""The items as pydantic models, for the contenders that use it: the same fields, ``remote_data`` as dicts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel


class Email(BaseModel):
    email: str | None = None
    is_primary: bool | None = None


class User(BaseModel):
    id: str | None = None
    name: str | None = None
    emails: list[Email] = []


class Metrics(BaseModel):
    longest_monologue: float | None = None
    longest_customer_story: float | None = None
    interactivity: float | None = None
    patience: float | None = None
    question_rate: float | None = None


class AdditionalMetric(BaseModel):
    name: str | None = None
    value: float | None = None


class Interaction(BaseModel):
    id: str | None = None
    user: User | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    timezone: str | None = None
    aggregation_period: str | None = None
    metrics: Metrics | None = None
    additional_metrics: list[AdditionalMetric] = []
    created_at: datetime | None = None
    updated_at: datetime | None = None
    remote_data: Any = None


class Page(BaseModel):
    result: list[Interaction]
    next_cursor: str | None = None
