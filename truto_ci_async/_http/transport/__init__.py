"""Sends one attempt of one request; nothing outside this folder imports aiohttp, apart from the sandbox.

`transport` is the place to start: it owns the connections, sends, and decides when a request may be resent. `response`
has the two kinds of response, and `content_encoding` decompresses their bodies. `connection_pool` decides which
connection may be reused, `deadlines` are timeouts that share one timer, `addresses` checks base URLs and proxies, and
`network_errors` maps what aiohttp raises to our errors. `aiohttp_internals` lists all that aiohttp does not document.
Retries, rate limits and tokens are decided above, in `_http`.
"""
