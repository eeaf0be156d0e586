"""Items as tables: one schema per resource, Arrow batches, and data frames.

Nothing here knows a struct or requests a page: each struct in `models` declares its own columns, and callers pass in
their pages. Start with `schema`, which says what a column is. `column_values` turns items into typed lists, and `arrow`
turns those into Arrow batches. `frames` has the data frame methods of pages, `walks` those of lists, streams and pulls,
and `html` draws items and pages in notebooks.
"""
