"""Stands in for Truto: a function from a request to a response. It knows no sockets and never awaits.

Start with `service`, which puts the rest together: `query` parses query strings, `limits` enforces the rate limits,
`faults` says what goes wrong (`odd_values` changes records), `api` routes `requests` to `unified` and `accounts`.

Behind `unified`: `schemas` has the resources with their fields and parameters, `providers` says which provider serves
what, `listing`, `parameters` and `filtering` read a request, `found` finds its records, `pages` and `cursors` cut them
into pages. `capabilities` says what an account offers. `responses` and `content_encoding` build bodies, and `records`
is what a test sees afterwards. Sending responses, or failing to, is the job of `sandbox.http`.

The data is made up from a seed and stored nowhere: `data` has accounts and companies, `people` their users,
`talk_statistics` the numbers of interactions, `meetings`, `transcripts` and `activity` the rest; `names` is the words
and `windows` the calendar.
"""
