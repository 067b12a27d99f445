"""What the compiler makes of every Triton kernel, for GPUs that need not be there: ``python -m benchmarks.static``.

One row a kernel: registers and spilled bytes a thread, shared memory a program, matrix instructions in its code; how
many warps then fit on a multiprocessor, operations and bytes of one step of its loop, and the rate that they leave at
most on a chip (``bounds.py``): bounds, never a measurement. ``--json`` prints the same as a list of objects.

By default the head size of ViT and AlterNet (64) in float16 and float32; ``--all`` compiles everything that can be
launched, which takes tens of minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from alternet.kernels.attention import triton_configs

from .bounds import Compiled, bound

COLUMNS = (
    ("kernel", "kernel"),
    ("target", "target"),
    ("dtype", "dtype"),
    ("D", "head_size"),
    ("flags", "variant"),
    ("BLOCK_M", "block_m"),
    ("BLOCK_N", "block_n"),
    ("warps", "num_warps"),
    ("stages", "num_stages"),
    ("registers", "registers"),
    ("spill B", "spill_bytes"),
    ("shared B", "shared_bytes"),
    ("matrix instr.", "matrix_instructions"),
)
BOUNDS = (
    ("warps fit", "resident_warps"),
    ("operations", "operations"),
    ("bytes", "bytes_moved"),
    ("bound by", "limit"),
    ("TFLOP/s <=", "tflops"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles and prints; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        from alternet.kernels.attention import triton_static
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        print("benchmarks.static: Triton is not installed", file=sys.stderr)
        return 1
    everything = {"targets": triton_configs.TARGETS, "dtypes": tuple(triton_configs.DTYPES)}
    everything |= {"head_sizes": triton_configs.BUCKETS, "variants": triton_static.VARIANTS}
    usual = {**everything, "dtypes": ("float16", "float32"), "head_sizes": (64,)}
    selection = everything if options.all else usual
    for name in ("targets", "dtypes", "head_sizes"):
        selection = {**selection, name: getattr(options, name) or selection[name]}
    rows = triton_static.compile_rows(triton_static.cases(**selection), options.processes)
    if options.json:
        print(json.dumps([row._asdict() | _bounds(row) for row in rows], indent=1))
        return 0
    _print_row([title for title, _ in (*COLUMNS, *BOUNDS)])
    for row in rows:
        _print_row([*(getattr(row, name) for _, name in COLUMNS), *_bounds(row).values()])
    return 0


def _bounds(row: Compiled) -> dict[str, Any]:
    """The columns of ``BOUNDS``, empty for a kernel without a loop over tiles of scores."""
    found = bound(row)
    if found is None:
        return dict.fromkeys((name for _, name in BOUNDS), "")
    return found._asdict() | {"tflops": round(found.tflops, 1)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.static", description=__doc__.split("\n\n")[0])
    parser.add_argument("--target", dest="targets", action="append", choices=triton_configs.TARGETS)
    parser.add_argument("--dtype", dest="dtypes", action="append", choices=triton_configs.DTYPES)
    parser.add_argument("--head-size", dest="head_sizes", action="append", type=int, choices=triton_configs.BUCKETS)
    parser.add_argument("--all", action="store_true", help="everything that can be launched, not only the usual")
    parser.add_argument("--processes", type=int, default=2, help="that compile at the same time (default: 2)")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    return parser


def _print_row(cells: Sequence[object]) -> None:
    widths = (26, 7, 9, 4, 18, 8, 8, 6, 7, 10, 8, 9, 14, 10, 11, 8, 13, 11)
    print("  ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
