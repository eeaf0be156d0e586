"""What landed in object storage, looked at by SQL, as the tests of databases do."""

from __future__ import annotations

import io
from typing import Any

from truto_ci_async import CloudStore
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.stores.cloud_state import Names, read_manifest, read_progress
from truto_ci_async.pull.stores.object_storage import Bucket
from truto_ci_async.reports.read_folder import CloudFolder

#: The steps of a run at which it can be killed.
STEPS = ("begin", "upload", "state", "manifest", "committed", "replace", "publish", "unstage")


class BucketTables:
    """The objects under a prefix as a database: the resources, and the tables of a sync's state."""

    url = ""
    steps = (*STEPS[:2], "staged", *STEPS[2:])
    bucket: Bucket

    def store(self, **options: Any) -> CloudStore:
        raise NotImplementedError

    def names(self, folder: str) -> list[str]:
        bucket: Any = self.bucket
        listed = bucket._obstore.list(bucket._store, bucket._prefix + folder).collect()
        return sorted(each["path"].removeprefix(bucket._prefix) for each in listed)

    def sql(self, statement: str) -> list[Any]:
        import duckdb
        import pyarrow

        marks: list[tuple[str, str, str]] = []
        staged: list[str] = []
        with duckdb.connect() as database:
            for resource in ITEM_TYPES:
                names = Names(resource)
                data = self.bucket.read(names.manifest)
                if data is None:
                    continue
                database.register(resource, self._rows(resource))
                marks += self._marks(resource, data)
                staged += [name for name in self.names(names.state) if "/page-" in name]
            state = {
                "_truto_sync": {
                    "name": [each[0] for each in marks],
                    "account": [each[1] for each in marks],
                    "mark": [each[2] for each in marks],
                },
                "_truto_staged": {"name": staged},
                "_truto_progress": {"name": list[str]()},
            }
            for table, columns in state.items():
                found = {name: pyarrow.array(values, pyarrow.string()) for name, values in columns.items()}
                database.register(table, pyarrow.table(found))
            rows: list[Any] = database.execute(statement).fetchall()
        return rows

    def _rows(self, resource: str) -> Any:
        """Return what is committed, which is what a reader sees that takes the whole folder."""
        import pyarrow.parquet

        folder = CloudFolder(self.bucket, resource)
        plain = self.names(f"{resource}/")
        assert plain == sorted(part.name for part in folder._entry.parts)
        tables = [pyarrow.parquet.read_table(io.BytesIO(self.bucket.read(name) or b"")) for name in plain]
        assert sum(table.num_rows for table in tables) == len(folder)
        return folder.to_arrow()

    def _marks(self, resource: str, data: bytes) -> list[tuple[str, str, str]]:
        manifest = read_manifest(data)
        plan = Plan.from_json(self.bucket.read(manifest.plan) or b"")
        state = [self.bucket.read(named.name) or b"" for named in manifest.state()]
        progress = read_progress(plan, manifest, state)._progress
        return [(resource, name, str(each.position)) for (name, _), each in sorted(progress.items())]
