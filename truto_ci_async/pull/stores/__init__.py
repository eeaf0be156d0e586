"""Stores that keep rows and progress together, so that both become visible in one transaction or not at all.

Start with `base`: `TransactionalStore`, the protocol, which you can implement for a database of your own. `postgres`
and `duckdb` are the stores for those; what they share is in `landing` (batches, merge keys, refused rows) and `tables`
(columns, and how a table differs from them). `cloud` is the store for Parquet in object storage: `cloud_log` commits,
`cloud_parts` brings parts to their readers, `cloud_state` says what a manifest is, and `object_storage` is the edge to
obstore. `cloud_sync` and `cloud_replacing` replace rows there. `targets` opens the store that a URL
names.

`adapters` gives a pull one interface to all of these: a `TransactionalStore`, or a checkpoint and a sink, whose output
is made durable first and described in the checkpoint. When to commit is decided in `pull.commits`.
"""
