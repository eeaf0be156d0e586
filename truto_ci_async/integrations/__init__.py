"""Truto's data in other engines: one file for each, over the public names of `truto_ci_async` only.

`redis` is a budget that processes share. Each file needs an extra of its own name and imports its library when it is
used; without it, that raises MissingExtraError. Nothing below imports this folder, and no file in it imports another.
"""
