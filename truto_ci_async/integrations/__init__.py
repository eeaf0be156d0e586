"""Truto's data in other engines: one file for each, over the public names of `truto_ci_async` only.

`dlt` is a source for pipelines of dlt, `spark` a data source for Spark. Each file needs an extra of its own name and
imports its engine when it is used; without it, that raises MissingExtraError. Nothing below imports this folder, and no
file in it imports another. What lands in a database without an engine is in `pull/stores`.
"""
