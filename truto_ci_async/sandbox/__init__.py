"""A local, strict stand-in for Truto: a server on 127.0.0.1 that responds as the API does, and fails on request.

It works on plain dicts and shares no code with the client, so that each can expose errors of the other. `http` handles
bytes and connections, `service` below it stands in for Truto, and `fixtures` is for pytest. Start with `http.server`.

    async with Sandbox(accounts=2) as sandbox:
        sandbox.script(sandbox.account_ids[0], [Fault.status(503), Fault.reset()])
"""

from __future__ import annotations

from .http.server import Options, Sandbox, run
from .service.faults import Fault
from .service.query import parse_query
from .service.records import RecordedRequest, Stats

__all__ = ["Fault", "Options", "RecordedRequest", "Sandbox", "Stats", "parse_query", "run"]
