"""``client.interactions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from truto_ci_async.models import Interaction

from .options import MODEL
from .pulled import PulledResource

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient


class Interactions(PulledResource[Interaction]):
    """``client.interactions``: talk metrics of the people on an account's calls."""

    def __init__(self, client: BaseClient) -> None:
        super().__init__(client, MODEL, "interactions", Interaction)
