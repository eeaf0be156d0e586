"""Ray Datasets: of what a pull has committed, and of what a plan asks for, for a look."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from truto_ci_async import (
    MissingExtraError,
    Pacing,
    Plan,
    Rate,
    TrutoClient,
    TrutoError,
    UsageError,
    read_folder,
)


def dataset(folder: str | os.PathLike[str], resource: str = "interactions") -> Any:
    """Return the committed rows of a folder of Parquet as a ``ray.data.Dataset``.

        from truto_ci_async.integrations.ray_data import dataset

        dataset("/shared/data").groupby("user_email").mean("patience").show()

    :raises UsageError: the folder has no such rows, or another format.
    :raises MissingExtraError: Ray is not installed.
    """
    data = _ray("ray.data")
    found = read_folder(folder, resource)
    if found.format != "parquet":
        raise UsageError(
            f"{folder} holds {found.format}: Ray reads the parts of a pull with format='parquet'"
        )
    return data.read_parquet([str(path) for path in found.files])


def read(
    plan: Plan,
    *,
    shards: int = 4,
    token: str | Callable[[], Any] = "TRUTO_API_TOKEN",
    base_url: str | None = None,
    pacing: Pacing = Pacing(),
) -> Any:
    """Return what a plan asks for as a ``ray.data.Dataset``, for a look at rows that are stored nowhere.

    A task reads a shard, at its share of the token's rate. **If it fails, its shard is read again from its start**, and
    so it is whenever the dataset is used again without ``materialize()``: nothing is resumed. An account that fails is
    an error. For more than a look, use ``ray.pull_to`` and ``dataset``.

    ``token`` is the name of the environment variable that the workers have, or a function that returns the token.

    :raises MissingExtraError: Ray or pyarrow is not installed.
    """
    data, block = _ray("ray.data"), _ray("ray.data.block")
    if isinstance(token, str) and not token.isidentifier():
        raise UsageError(
            "token is the name of an environment variable of the workers, or a function; not the token"
        )
    parts = [part for part in plan.shards(shards) if part.accounts]
    if pacing.token is not None:
        rate = Rate(max(1, pacing.token.limit // max(1, len(parts))), pacing.token.window)
        pacing = Pacing(token=rate, account=pacing.account)

    class Source(data.Datasource):  # type: ignore[misc, name-defined]
        def get_read_tasks(self, parallelism: int, *options: Any, **others: Any) -> list[Any]:
            unknown = block.BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            return [data.ReadTask(_reader(part, token, base_url, pacing), unknown) for part in parts]

        def estimate_inmemory_data_size(self) -> int | None:
            return None

    return data.read_datasource(Source())


def _reader(
    part: Plan, token: str | Callable[[], Any], base_url: str | None, pacing: Pacing
) -> Callable[[], Iterator[Any]]:
    async def collect() -> Any:
        source = os.environ[token] if isinstance(token, str) else token
        async with TrutoClient(source, base_url=base_url, pacing=pacing) as client:
            async with getattr(client, part.resource).pull(part) as pages:
                table = await pages.to_arrow()
            for error in pages.report.failed.values():
                raise error
            if parked := list(pages.report.parked):
                raise TrutoError(f"{len(parked):,} accounts, such as {parked[0]}, are asked nothing for now")
            return table

    def read_shard() -> Iterator[Any]:
        yield asyncio.run(collect())

    return read_shard


def _ray(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
