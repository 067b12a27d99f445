"""What the compiler makes of every Triton kernel, for GPUs that need not be there: ``python -m benchmarks.static``.

One row a kernel: registers and spilled bytes a thread, shared memory a program, matrix instructions in its code. A
bound on what can go wrong, not a measurement of speed. ``--json`` prints the same as a list of objects. By default the
head size of ViT and AlterNet (64) in float16 and float32; ``--all`` compiles everything that can be launched, which
takes tens of minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from alternet.kernels.attention import triton_configs

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
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return 0
    _print_row([title for title, _ in COLUMNS])
    for row in rows:
        _print_row([getattr(row, name) for _, name in COLUMNS])
    return 0


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
    widths = (26, 7, 9, 4, 13, 8, 8, 6, 7, 10, 8, 9, 14)
    print("  ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
