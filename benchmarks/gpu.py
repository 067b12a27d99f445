"""``python -m benchmarks.gpu``: attention on a GPU, right first, then timed with CUDA events against its peers.

Every cell is compared with float64 eager PyTorch before anything is timed; a wrong answer ends the run. Times are
medians of ``triton.testing.do_bench`` (CUDA events, the L2 cache emptied between runs), the implementations in turn.
Writes benchmarks/results/gpu.md and gpu.json. ``--toy`` runs the whole path at toy sizes, on the CPU too
(``TRITON_INTERPRET=1``), where nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from alternet.kernels import attention, use_backend

from .attention import FIRST_ORDER, TASKS, Attention, eager
from .measure import worst_error
from .peers import packages
from .report import RESULTS

ROUNDS = 3
# Largest error relative to float64 eager's norm: rounding of the inputs' precision, times ten.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}

SHAPES = {  # batch, heads, tokens, head size
    "ViT-B/16 at 224 px": (64, 12, 197, 64),
    "ViT-L/16 at 384 px": (16, 16, 577, 64),
    "windows of 7": (2048, 6, 49, 32),
    "4096 tokens": (2, 16, 4096, 64),
    "16384 tokens": (1, 8, 16384, 64),
}
TOY = {"toy": (1, 1, 17, 16)}


def triton_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with use_backend("triton"):
        return attention(query, key, value)


def implementations(task: str) -> dict[str, Attention]:
    found = {"alternet": triton_attention, "eager": eager, "torch.compile": _compiled}
    if task in FIRST_ORDER:
        found["SDPA"] = F.scaled_dot_product_attention
    for name, package in packages().items():
        if name.startswith("jvp-flash") and task in FIRST_ORDER:  # it has no second derivatives
            found[name] = package.call
    return found


_compiled = torch.compile(eager, dynamic=False)


@dataclass(frozen=True)
class Cell:
    shape: tuple[int, int, int, int]
    task: str
    dtype: torch.dtype
    device: str

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(self.shape, generator=generator).to(self.dtype) for _ in range(3)]
        return tuple(x.to(self.device, dtype) for x in drawn)

    def work(self, f: Attention) -> Callable[[], object]:
        x = self.inputs(self.dtype)
        return lambda: TASKS[self.task](f, x)

    def error(self, f: Attention) -> float:
        """Of every result, relative to its norm in float64: the worst. On one image, which is all that fits."""
        one = Cell((1, *self.shape[1:]), self.task, self.dtype, self.device)
        want = tree_leaves(TASKS[self.task](eager, one.inputs(torch.float64)))
        got = tree_leaves(one.work(f)())
        return worst_error(got, want)


def check(cells: Sequence[Cell]) -> list[dict]:
    """The error of our kernels in every cell, printed as they come."""
    rows = []
    for cell in cells:
        error = cell.error(triton_attention)
        right = error <= TOLERANCES[cell.dtype]
        print(f"{'right' if right else 'WRONG'}  {error:.1e}  {_name(cell)}", flush=True)
        rows.append({"cell": _name(cell), "error": error, "right": right})
    return rows


def compare(cell: Cell) -> dict:
    """Milliseconds and added bytes of every implementation, or how it failed. Without a GPU each runs, untimed."""
    works: dict[str, Callable[[], object]] = {}
    result: dict[str, dict] = {}
    for name, f in implementations(cell.task).items():
        work = cell.work(f)
        try:
            result[name] = {"bytes": _added_bytes(work, cell.device), "milliseconds": []}
            works[name] = work
        except Exception as error:  # out of memory, or a peer that cannot: that is its result
            if cell.device == "cuda":
                torch.cuda.empty_cache()
            result[name] = {"failed": type(error).__name__}
    for _ in range(ROUNDS if cell.device == "cuda" else 0):
        for name, work in works.items():
            result[name]["milliseconds"].append(_milliseconds(work))
    return {"cell": _name(cell), "implementations": result}


def _milliseconds(work: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return do_bench(work, return_mode="median")


def _added_bytes(work: Callable[[], object], device: str) -> int | None:
    work()  # compiles and tunes what compiles and tunes
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _name(cell: Cell) -> str:
    return f"{' x '.join(map(str, cell.shape))}, {str(cell.dtype).removeprefix('torch.')}, {cell.task}"


def markdown(rows: Sequence[dict]) -> str:
    """Ratios over alternet's time; the failure's name where an implementation failed."""
    titles = list(dict.fromkeys(name for row in rows for name in row["implementations"] if name != "alternet"))
    head = ["batch x heads x tokens x size", "alternet", *(f"faster than {title}" for title in titles), "added memory"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        found = row["implementations"]
        own = found["alternet"]
        lines.append(f"| {' | '.join([row['cell'], *_cells(own, [found.get(title, {}) for title in titles])])} |")
    return "\n".join(lines)


def _cells(own: dict, peers: Sequence[dict]) -> list[str]:
    if "failed" in own:
        return [own["failed"], *("" for _ in peers), ""]
    if not own["milliseconds"]:
        return ["ran", *(peer.get("failed", "ran" if peer else "") for peer in peers), ""]
    mine = statistics.median(own["milliseconds"])

    def ratio(peer: dict) -> str:
        if "milliseconds" in peer:
            return f"{statistics.median(peer['milliseconds']) / mine:.2f}x"
        return peer.get("failed", "")

    return [f"{mine:.3f} ms", *map(ratio, peers), f"{own['bytes'] / 2**20:.0f} MiB"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="toy sizes: runs the path, times nothing without a GPU")
    known = [str(dtype).removeprefix("torch.") for dtype in TOLERANCES]
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=known)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.toy:
        print("benchmarks.gpu: torch sees no GPU (--toy runs the path without one)", file=sys.stderr)
        return 1
    shapes = TOY if options.toy else SHAPES
    dtypes = [getattr(torch, name) for name in options.dtypes]
    cells = [Cell(shape, task, dtype, device) for dtype in dtypes for shape in shapes.values() for task in TASKS]
    checks = check(cells)
    if not all(row["right"] for row in checks):
        return 1
    rows = [compare(cell) for cell in cells]
    where = torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter: no speeds"
    text = f"{markdown(rows)}\n\n{where}, torch {torch.__version__}; `make bench-gpu` remakes it.\n"
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"device": where, "checks": checks, "rows": rows}
    (options.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "gpu.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
