"""Makes the figures of the documentation: `.venv/bin/python docs/images/make_figures.py`.

`layers.svg` and `commit.svg` are drawn here; `stream-memory.svg` is measured.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

OUT = Path(__file__).parent
INK, BOX, BACK, ACCENT = "#37474f", "#eceff1", "#ffffff", "#00695c"
STYLE = (
    f"<style>text{{font:14px system-ui,sans-serif;fill:{INK}}}.small{{font-size:12px;fill:#546e7a}}"
    f".name{{font-weight:600}}rect{{fill:{BOX};stroke:#b0bec5}}.mark{{fill:#e0f2f1;stroke:{ACCENT}}}"
    f"line,path{{stroke:{INK};stroke-width:1.5;fill:none;marker-end:url(#tip)}}.back{{fill:{BACK};stroke:none}}</style>"
    '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0L10 5L0 10z" style="fill:{INK};stroke:none;marker-end:none"/></marker></defs>'
)


def svg(name: str, width: int, height: int, title: str, parts: list[str]) -> None:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
    back = f'<rect class="back" width="{width}" height="{height}"/>'
    (OUT / name).write_text("\n".join([head, STYLE, back, *parts, "</svg>", ""]), encoding="utf-8")


def box(x: int, y: int, width: int, name: str, text: str = "", kind: str = "") -> str:
    height = 52 if text else 34
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        f'<text class="name" x="{x + 12}" y="{y + 22}">{name}</text>'
        + (f'<text class="small" x="{x + 12}" y="{y + 41}">{text}</text>' if text else "")
    )


def arrow(*points: tuple[int, int]) -> str:
    return "<path d='M" + "L".join(f"{x} {y}" for x, y in points) + "'/>"


def label(x: int, y: int, text: str) -> str:
    return f'<text class="small" x="{x}" y="{y}">{text}</text>'


def layers() -> None:
    """A file imports from the boxes below it."""
    svg(
        "layers.svg", 760, 520, "The layers of the package, from the command line down to the structs",
        [
            box(20, 20, 220, "cli", "the command line"),
            box(270, 20, 220, "integrations", "one file for each product"),
            box(520, 20, 220, "reports", "charts, the HTML report"),
            box(20, 110, 720, "client", "TrutoClient: options, resources, life"),
            box(20, 190, 720, "resources", "interactions, meetings, transcripts, users, activity"),
            box(20, 280, 470, "pull", "many accounts: plan, workers, commits, checkpoint, stores"),
            box(520, 280, 220, "sinks", "NDJSON, CSV, Parquet"),
            box(20, 360, 230, "pagination", "walks and streams"),
            box(270, 360, 220, "_http", "calls, retries, pacing"),
            box(520, 360, 220, "_wire", "queries, bodies, repair"),
            box(20, 440, 230, "models", "structs and their columns"),
            box(270, 440, 220, "export", "Arrow, data frames, HTML"),
            box(520, 440, 220, "errors, events", ""),
            *(arrow((380, y), (380, y + gap)) for y, gap in ((72, 36), (162, 26), (242, 36), (332, 26), (412, 26))),
        ],
    )  # fmt: skip


def badges() -> None:
    """What is true of the package, for the head of the README."""
    for name, label, value in (
        ("python", "python", "3.11 or newer"),
        ("typed", "types", "py.typed"),
        ("licence", "licence", "MIT"),
    ):
        left, right = 12 + 7 * len(label), 12 + 7 * len(value)
        (OUT / f"badge-{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
            f'aria-label="{label}: {value}"><rect width="{left}" height="20" fill="#555"/>'
            f'<rect x="{left}" width="{right}" height="20" fill="{ACCENT}"/>'
            '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
            f'<text x="{left / 2}" y="14">{label}</text><text x="{left + right / 2}" y="14">{value}</text></g></svg>\n',
            encoding="utf-8",
        )


def commit() -> None:
    """How a page becomes durable in a folder, and in a database."""
    svg(
        "commit.svg", 760, 330, "A page is fetched, handed over, marked done and committed with its progress",
        [
            box(20, 20, 150, "fetch", "retry, decode"),
            box(215, 20, 150, "hand over", "to the sink"),
            box(410, 20, 150, "mark done", "in order"),
            box(605, 20, 135, "commit", "every 50 ms", "mark"),
            *(arrow((x, 46), (x + 43, 46)) for x in (170, 365, 560)),
            label(20, 118, "In a folder"),
            box(20, 130, 200, "1  rows", "written and synced"),
            box(275, 130, 290, "2  progress and length of rows", "one SQLite transaction decides", "mark"),
            box(620, 130, 120, "3  manifest", "for readers"),
            arrow((220, 156), (273, 156)), arrow((565, 156), (618, 156)),
            label(20, 206, "Killed before 2: the next run cuts the rows back to the stored length."),
            label(20, 243, "In a database"),
            box(20, 255, 545, "rows, progress and epoch", "one transaction; an older epoch is refused", "mark"),
        ],
    )  # fmt: skip


CHILD = """
import asyncio, sys
from truto_ci_async import TrutoClient
async def main(how, url):
    async with TrutoClient("token", base_url=url, max_body_bytes=2**30) as truto:
        print("ready", flush=True)
        sys.stdin.readline()
        if how == "list":
            page = await truto.interactions.list("account", start_time="2024-01-01", end_time="2024-02-01")
            for item in page: pass
        else:
            async with truto.interactions.stream("account", start_time="2024-01-01", end_time="2024-02-01") as stream:
                async for item in stream: pass
asyncio.run(main(*sys.argv[1:]))
"""


def resident(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(how: str, url: str) -> list[tuple[float, float]]:
    """Run a child that reads the body, and sample its memory: (seconds, MB above its start)."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, how, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin
    assert child.stdout
    child.stdout.readline()
    start, base, samples = time.perf_counter(), resident(child.pid), [(0.0, 0.0)]
    child.stdin.write("\n")
    child.stdin.flush()
    while child.poll() is None:
        time.sleep(0.01)
        try:
            samples.append((time.perf_counter() - start, resident(child.pid) - base))
        except (FileNotFoundError, IndexError):
            break
    assert child.wait(30) == 0
    return [
        sample for sample in samples if sample[1] >= 0
    ]  # the last ones can be of a process that is ending


def stream_memory() -> None:
    """Measure a body of 90 MB, served slowly enough (60 MB/s) for the curve to be seen."""
    item = json.dumps({"id": "1", "user": {"id": "7" * 18, "emails": [{"email": "mei@company.example"}]},
                       "metrics": {"patience": 0.91}, "remote_data": {"text": "x" * 600}}).encode()  # fmt: skip
    block = b",".join([item] * 250)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        blocks = 90_000_000 // len(block)
        length = blocks * (len(block) + 1) - 1 + len(b'{"result":[') + len(b"]}")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length
        )
        writer.write(b'{"result":[')
        for number in range(blocks):
            writer.write(block if not number else b"," + block)
            await writer.drain()
            await asyncio.sleep(len(block) / 60e6)
        writer.write(b"]}")
        await writer.drain()
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    threading.Thread(target=loop.run_forever, daemon=True).start()
    rows = [
        {"seconds": x, "MB": y, "method": name}
        for how, name in (("list", "list (buffered)"), ("stream", "stream"))
        for x, y in measure(how, url)
    ]
    chart = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json", "width": 620, "height": 240,
        "background": BACK, "data": {"values": rows}, "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {
            "x": {"field": "seconds", "type": "quantitative", "title": "seconds"},
            "y": {"field": "MB", "type": "quantitative", "title": "memory above the start (MB)"},
            "color": {"field": "method", "type": "nominal", "title": None,
                      "scale": {"range": ["#b0563b", ACCENT]}, "legend": {"orient": "top"}},
        },
    }  # fmt: skip
    (OUT / "stream-memory.svg").write_text(
        import_module("vl_convert").vegalite_to_svg(chart), encoding="utf-8"
    )
    for name in ("list (buffered)", "stream"):
        print(name, f"{max(row['MB'] for row in rows if row['method'] == name):.0f} MB")


if __name__ == "__main__":
    layers()
    badges()
    commit()
    stream_memory()
