"""A driver of pulls on Ray, in a process of its own that tests kill: `python -m tests.ray_driver JSON`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from truto_ci_async import Budget, Pacing, Plan, Rate
from truto_ci_async.integrations.ray import pull_to


async def drive(job: dict[str, Any]) -> list[dict[str, Any]]:
    window = job.get("window", 10.0)
    pacing = Pacing(token=Rate(500, window), account=Rate(50, window))

    def tell(reports: Any) -> None:
        sys.stderr.write(f"{reports!r}\n")

    reports = await asyncio.gather(
        *(
            pull_to(
                Plan.from_json(each["plan"]),
                each["out"],
                shards=each["shards"],
                address=job["address"],
                token=each["token"],
                base_url=job["base_url"],
                pacing=pacing,
                cpus=1.0,
                budget=Budget(max_accounts=8),
                on_progress=tell,
                **each.get("options", {}),
            )
            for each in job["pulls"]
        )
    )
    return [{"complete": each.complete, "rows": each.total("rows")} for each in reports]


if __name__ == "__main__":
    done = asyncio.run(drive(json.loads(sys.argv[1])))
    os.write(1, json.dumps(done).encode() + b"\n")
