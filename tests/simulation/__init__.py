"""A pull in a simulated world: one seed decides everything, so that what goes wrong once goes wrong again.

Real here are the pull, its commits and schedule, `SQLiteCheckpoint`, `MemoryCheckpoint` and `NdjsonSink`. Simulated
are the loop and its clock (`loop`), the service at the seam of ``BaseClient.request`` (`service`), and other stores,
sinks and the thread of the disk (`stores`). `world` runs pulls until all is done, and knows what has to come out:
start there. `sync_world` syncs a table night after night.

    python -m tests.simulation 17          run seed 17, and shrink it if it fails
    python -m tests.simulation 0 5000      run seeds 0 to 4,999; with --sync, of syncs

The network, real processes and real disks are not in here: `tests/test_pull.py` has those.
"""
