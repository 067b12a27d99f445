"""``python -m benchmarks``: attention on this machine against PyTorch, as a table and as a file.

Writes benchmarks/results/attention.json (every run) and attention.md (the table of the README).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from alternet.analysis.machine import describe
from alternet.kernels import available_backends

from .attention import SHAPES, TASKS, Cell, implementations
from .measure import interleaved_seconds, median_ratio, peak_memory

RESULTS = Path(__file__).parent / "results"
PEERS = ("eager", "sdpa")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if available_backends()["cpu"] is not None:
        parser.exit(1, f"the cpu backend cannot run here: {available_backends()['cpu']}\n")
    torch.set_num_threads(arguments.threads)
    rows = [_compare(shape, task) for shape in SHAPES for task in TASKS]
    _write(arguments.out, rows)


def _compare(shape: str, task: str) -> dict:
    cells = {name: Cell(shape, task, name) for name in implementations(task)}
    seconds = interleaved_seconds({name: cell.prepare() for name, cell in cells.items()})
    memory = {name: peak_memory(cell) for name, cell in cells.items()}
    row = {"shape": shape, "task": task, "seconds": seconds, "peak_bytes": memory}
    print(_line(row), flush=True)
    return row


def _line(row: dict) -> str:
    seconds, memory = row["seconds"], row["peak_bytes"]
    own = seconds["alternet"]
    ratios = [f"{median_ratio(seconds[peer], own):.2f}x" if peer in seconds else "it has none" for peer in PEERS]
    bytes_used = [_mebibytes(memory.get(name)) for name in ("alternet", *PEERS)]
    cells = [row["shape"], row["task"], f"{statistics.median(own) * 1e3:.1f} ms", *ratios, *bytes_used]
    return "| " + " | ".join(cells) + " |"


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f} MiB"


HEADER = (
    "| heads x tokens x size | what | alternet | faster than eager | faster than SDPA "
    "| peak memory | eager's | SDPA's |\n|---|---|---|---|---|---|---|---|"
)


def _write(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    about = describe()
    machine = f"{about['processor']}, torch {about['torch']}, Python {about['Python']}"
    (folder / "attention.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    table = "\n".join([HEADER, *(_line(row) for row in rows)])
    text = f"{table}\n\n{machine}; float32, medians of interleaved runs in one process; `make bench` remakes it.\n"
    (folder / "attention.md").write_text(text)
    print(f"\n{machine}\nwritten: {folder}/attention.md, attention.json")


if __name__ == "__main__":
    main()
