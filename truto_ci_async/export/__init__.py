"""Items as tables: one schema per resource, Arrow batches, and data frames.

Nothing here knows a struct or asks for a page. Each struct declares its columns beside it, and the rooms above hand in
their pages. Start with `schema`; `columns` turns items into typed lists, and `arrow` those into Arrow. `frames` has the
methods that pages share, `walks` those of lists, streams and pulls.
"""
