"""Makes calls: the attempt loop, credentials, rules about retries and rates, and the connections.

`base_client` is the place to start: it holds the steps of a call in their order, and what a client owns. `call` is the
state of one call with its events, `failures` says what a failed attempt means, `credentials` and `options` check the
caller's arguments, and `tasks` starts and ends the client's tasks. The rules live in `policy/` and never wait, apart
from `admission`; the network lives in `transport/`. Bodies are read in `_wire`. Nothing here knows of pages or
resources.
"""
