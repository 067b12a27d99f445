"""``python -m benchmarks [SUITE ...]``: alternet on this machine against PyTorch, as tables and as files.

Writes benchmarks/results/<suite>.json (every run) and <suite>.md (the table), for all suites by default.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch

from alternet.kernels import available_backends

from .measure import interleaved_seconds, median_ratio, peak_memory
from .report import RESULTS, line, machine, save
from .suite import SUITES, Cell, Suite, load


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.suites) - set(SUITES))
    if unknown:
        parser.error(f"SUITE: unknown {', '.join(unknown)}, expected some of {', '.join(SUITES)}")
    if available_backends()["cpu"] is not None:
        parser.exit(1, f"the cpu backend cannot run here: {available_backends()['cpu']}\n")
    torch.set_num_threads(arguments.threads)
    for name in arguments.suites or SUITES:
        suite = load(name)
        print(_header(suite), flush=True)
        rows = [_compare(suite, cells) for cells in suite.rows().values()]
        _write(arguments.out, name, suite, rows)


def _compare(suite: Suite, cells: Mapping[str, Cell]) -> dict:
    seconds = interleaved_seconds({name: cell.prepare() for name, cell in cells.items()})
    memory = {name: peak_memory(cell) for name, cell in cells.items()}
    own = cells["alternet"]
    row = {"shape": own.shape, "task": own.task, "seconds": seconds, "peak_bytes": memory}
    print(_line(suite, row), flush=True)
    return row


def _header(suite: Suite) -> str:
    faster = [f"faster than {title}" for title in suite.peers.values()]
    peaks = [f"{title}'s" for title in suite.peers.values()]
    titles = [suite.shapes, "what", "alternet", *faster, "peak memory", *peaks]
    return f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"


def _line(suite: Suite, row: dict) -> str:
    seconds, memory = row["seconds"], row["peak_bytes"]
    own = seconds["alternet"]
    ratios = [f"{median_ratio(seconds[peer], own):.2f}x" if peer in seconds else "it has none" for peer in suite.peers]
    bytes_used = [_mebibytes(memory.get(name)) for name in ("alternet", *suite.peers)]
    milliseconds = statistics.median(own) * 1e3
    cells = [row["shape"], row["task"], f"{milliseconds:.{1 if milliseconds > 2 else 2}f} ms", *ratios, *bytes_used]
    return line(cells)


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f} MiB"


def _write(folder: Path, name: str, suite: Suite, rows: list[dict]) -> None:
    made_on = machine()
    table = "\n".join([_header(suite), *(_line(suite, row) for row in rows)])
    text = f"{table}\n\n{made_on}; float32, medians of interleaved runs in one process; `make bench` remakes it."
    print(f"\n{made_on}")
    save(folder, name, {"machine": made_on, "rows": rows}, text)
    print()


if __name__ == "__main__":
    main()
