"""Reports how many of mutmut's mutants the tests caught, and fails if it is less than 90 % of a file: `make mutants`.

A mutant that no test can catch, say one that only makes the code slower, has its reason on its line: as
`# mutant: reason` it counts as survived and is not printed; as `# pragma: no mutate - reason` it is not made at all.
"""

from __future__ import annotations

import sys

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files

LEAST_CAUGHT = 0.9
CAUGHT = {"killed", "timeout", "segfault"}


def main() -> int:
    table = [f"{'':54} mutants  caught  explained"]
    is_enough = True
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        results = data.exit_code_by_key.items()
        statuses = {name: status_by_exit_code[code] for name, code in results if code is not None}
        if not statuses:
            continue
        caught = sum(status in CAUGHT for status in statuses.values())
        diffs = {
            name: _changed_lines(get_diff_for_mutant(name, path=path))
            for name, status in statuses.items()
            if status not in CAUGHT
        }
        unexplained = {name: diff for name, diff in diffs.items() if "# mutant: " not in diff}
        share = caught / len(statuses)
        is_enough &= share >= LEAST_CAUGHT
        table.append(f"{path!s:54} {len(statuses):7} {share:7.1%} {len(diffs) - len(unexplained):10}")
        for name, diff in unexplained.items():
            print(f"{name}: {statuses[name]}\n{diff}\n")
    print("\n".join(table))
    return 0 if len(table) > 1 and is_enough else 1


def _changed_lines(diff: str) -> str:
    return "\n".join(
        line for line in diff.splitlines() if line.startswith(("-", "+")) and line[:3] not in ("---", "+++")
    )


if __name__ == "__main__":
    sys.exit(main())
