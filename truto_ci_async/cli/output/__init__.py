"""Output of the command line.

``writers`` turns pages of items into JSON, NDJSON, CSV or YAML; ``cli/pages`` picks the one for ``-o``. ``tables`` says
which columns the items of each kind have, and draws tables. ``destinations`` sends the bytes to a file, or through
``streams`` to stdout, a device or a pipe. A new format is a writer; columns for a new resource are a ``RowLayout`` in
``tables``.
"""
