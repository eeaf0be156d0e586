"""Truto itself, as a function from a request to a response. It knows no sockets and never awaits.

Start with `service`, which puts the rest together: `query` parses query strings, `limits` enforces the rate limits,
`faults` says what goes wrong, `api` routes `requests` to `unified` and `accounts`. Behind those, `listing`,
`parameters` and `filtering` read a list request, `pages` and `cursors` cut it into pages, `capabilities` says what an
account offers and `data` makes up the records. `responses` and `content_encoding` build bodies, `records` is what a
test sees afterwards. Sending responses, or failing to, is the job of `sandbox.http`.
"""
