"""Tracks which pages of a pull are finished and makes them durable, together with the state of the output.

Start with `base`: `Progress`, and the protocol `Checkpoint`. `memory` is for pulls that need not outlive the process,
`sqlite` for those that do; `stored` reads its rows.

What is stored does not grow with each finished window: neighbours with equal counts are one run (`finished`), and runs
share a row (`compaction`). A pull asks for `load_accounts`, which tells how far each account came; `load` has every
window.

A checkpoint never runs ahead of the output. The output is made durable first and describes itself in a few bytes, which
are then committed in one transaction with the progress they stand for. A crash in between leaves output that no
checkpoint names, and the sink removes it when it is opened again: pages are requested twice, but no row is lost or
doubled. When to commit is decided in `pull.commits`; how output is written, in `sinks`.
"""
