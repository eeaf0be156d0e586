"""The methods users call: ``client.interactions.list(...)`` and its siblings, one resource a file.

What lives here: checking arguments, and joining a query, a reader and a page source into the object the caller gets.
What does not: iterating over pages (``pagination``), the wire format (``_wire``) and pulls over many accounts
(``pull``), which ``Interactions`` only starts.

Read `base` first: ``Resource`` has the methods that every unified resource shares. `interactions` adds plans and
pulls; `integrated_accounts` has a shape of its own.
"""
