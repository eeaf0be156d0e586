"""Truto's data in other engines: one file for each, over the public names of `truto_ci_async` only.

`ray` pulls a plan on a Ray cluster, and `ray_data` reads into its Datasets. `dlt` is a source for pipelines of dlt, and
`spark` a data source for Spark. `redis` is a budget that processes share. `opentelemetry` turns events into spans and
metrics. Each file needs an extra of its own and imports its library when it is used; without it, that raises
MissingExtraError. Nothing below imports this folder, and no file in it imports another. What lands in a database
without an engine is in `pull/stores`.
"""
