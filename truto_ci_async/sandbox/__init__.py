"""A local, strict stand-in for Truto: a server on 127.0.0.1 that answers as the API does and misbehaves as told.

It is made from plain dicts and imports nothing of the client, so that the two can disagree. From the inside out:
`query` reads query strings, `data` makes up companies, `listing` reads parameters and picks records, `cursors` and
`limits` do what their names say, `api` turns a request into an answer, `faults` says what goes wrong, `delivery` puts
answers on the wire, and `server` is the whole.

    async with Sandbox(accounts=2) as sandbox:
        sandbox.script(sandbox.account_ids[0], [Fault.status(503), Fault.reset()])
"""

from __future__ import annotations

from .http.server import Options, Sandbox, run
from .service.faults import Fault
from .service.query import parse_query
from .service.records import RecordedRequest, Stats

__all__ = ["Fault", "Options", "RecordedRequest", "Sandbox", "Stats", "parse_query", "run"]
