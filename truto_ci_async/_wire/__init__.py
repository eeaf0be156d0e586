"""Turns arguments into requests and bodies into objects. Pure rules: nothing here awaits or knows a connection.

Requests: `filters` checks the caller's arguments, `times` resolves times such as `-7d`, `list_query` builds request
targets, and `query_string` encodes them. Responses: `page_reader` reads the envelope of a page, in steps through
`body_walker` if the body is large or odd, and `item_reader` reads the items in it. `repair` and `lenient_times` fix
fields of the wrong type, `surrogates` handles text that was cut inside a character, `detach` copies values kept as raw
JSON, and `flat_rows` reads the normalized format. `record_reader` reads a single object, `incremental` reads items from
a body that is still arriving, and `responses` reads errors, capabilities and tokens.

The structs are in `models`, HTTP is in `_http`. Start with `list_query` and `page_reader`.
"""
