"""The methods users call: ``client.interactions.list(...)`` and its siblings, one resource a file.

What lives here: checking arguments, and joining a query, a reader and a page source into the object the caller gets.
What does not: iterating over pages (``pagination``), the wire format (``_wire``) and pulls over many accounts
(``pull``), which ``PulledResource`` only starts.

Read `base` first: ``Resource`` has the methods that every unified resource shares; `options` are their arguments, and
`walks`, `records` and `keyed` make what they return. `pulled` adds plans and pulls. Then come the resources, one a
file, each with its own filters. `integrated_accounts` differs from the others; `user_directory` is the part of
`users` that keeps who is who.
"""
