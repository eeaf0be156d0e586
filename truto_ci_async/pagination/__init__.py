"""Walks over the pages of a list call, and streams that read large bodies as they arrive.

What lives here: the position of a walk and what ends it, fetching and reading one page, the iterators callers use, and
``ItemStream``. What does not: building requests and decoding bodies (``_wire``), retries and rate limits of a page
fetch (``_http``), checking a call's arguments (``resources``) and saving progress (``pull``).

Read `next_page` first: which page comes next, and what ends a walk. Then `page_fetch`, which requests one page, and
`paginator`, which iterates and prefetches. Streams are separate: `page_body` turns the bytes of one page into items,
`stream` goes from page to page, and `stream_views` holds its iterators. `progress` shows how far a walk is, and
`unsupported` explains errors of calls that a provider does not offer.
"""
