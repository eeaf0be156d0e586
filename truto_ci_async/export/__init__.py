"""Items as tables: one schema per resource, Arrow batches, and data frames.

Nothing here knows a struct or asks for a page. Each struct declares its columns beside it, and walks in the rooms
above hand in their items. Start with `schema`; `columns` turns items into typed lists, `arrow` those into Arrow, and
`frames` has the methods that pages and walks share.
"""
