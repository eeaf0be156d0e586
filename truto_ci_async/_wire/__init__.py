"""Turns arguments into requests and bodies into objects. Pure rules: nothing here awaits or knows a connection.

Requests: `filters` checks what the caller passed, `list_query` makes request targets of it, and `query_string` encodes
them. Responses: `page_reader` reads the envelope of a page, with `page_walker` for what takes longer, and `item_reader`
the items in it, with `repair` and `moments` for fields of a wrong type, `surrogates` for text that was cut inside a
character, `detach` for values kept as raw JSON and `flat_rows` for the normalized format. `incremental` reads items
from a body that is still arriving. `responses` reads errors, capabilities and tokens.

The structs are in `models`, HTTP is in `_http`. Start with `list_query` and `page_reader`.
"""
