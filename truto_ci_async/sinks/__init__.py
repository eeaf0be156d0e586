"""Where a pull writes its rows: NDJSON, CSV or Parquet files in a folder, or a sink of your own.

Start with `base`, the protocol of three methods. `files` holds what the sinks for a folder share: commits, recovery
after a crash, the thread that does the disk work. `lines` and `parquet` are the formats, `rows` encodes pages,
`manifest` describes committed files, and `layout` has the names of all files in the folder. To add a format, subclass
`FileSink` and enter it in `factory`.

Progress is not kept here: that is the job of `pull.checkpoint`. `pull.commits` makes output and progress durable
together, and nothing here imports `pull`.
"""
