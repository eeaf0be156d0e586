"""Makes calls: the attempt loop, credentials, rules about retries and rates, and the connections.

`base_client` is the place to start: it holds the steps of a call in their order, and what a client owns. `call` is the
state of one call with its events, `failures` says what a failed attempt means, `credentials` and `options` check what
the caller passed in, and `tasks` starts and ends the client's tasks. The rules live in `policy/` and wait for nothing
(but for `admission`); the network lives in `transport/`. What a body means is read in `_wire`, and resources are above
this folder: it knows neither pages nor interactions.
"""
