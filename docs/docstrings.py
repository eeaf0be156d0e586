"""A Griffe extension: parameters that a docstring has in two columns become a list on the site.

    ``total``  a whole call: every attempt, every wait,
               and decoding.

is easy to read in a terminal; Markdown would join the lines.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROW = re.compile(r"^(?P<name>(?:``[^`]+``(?:, |,? and )?)+) {2,}(?P<text>\S.*)$")


def rows_to_list(text: str) -> str:
    """Turn rows of two columns into items of a list; everything else stays as it is."""
    lines: list[str] = []
    indent = 0  # of the second column, while in a row
    for line in text.splitlines():
        if row := ROW.match(line):
            if not indent and lines and lines[-1]:
                lines.append("")
            indent = row.start("text")
            lines.append(f"- {row['name']}: {row['text']}")
        elif indent and line.startswith(" " * indent):
            lines.append(f"    {line.strip()}")
        else:
            if indent and line:
                lines.append("")
            indent = 0
            lines.append(line)
    return "\n".join(lines)


class TwoColumns(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = rows_to_list(obj.docstring.value)
