"""What the compiler makes of every Triton kernel, for GPUs that need not be there: ``python -m benchmarks.static``.

One row a kernel: registers and spilled bytes a thread, shared memory a program, matrix and special-function
instructions in its code; how many warps then fit on a multiprocessor, operations and bytes of one step of its loop and
one tangent (bytes of one program, where it has no such loop), and what they leave at most on a chip or at least for the
launch (``bounds.py``): bounds, never a measurement. ``--json`` prints the same as a list of objects.

By default every operator at its usual size (attention: the head size of ViT and AlterNet, 64), in float16 and float32;
``--all`` compiles everything that can be launched, which takes tens of minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

COLUMNS = {
    "kernel": "kernel",
    "target": "target",
    "dtype": "dtype",
    "D": "size",
    "flags": "variant",
    "BLOCK_M": "block_m",
    "BLOCK_N": "block_n",
    "warps": "num_warps",
    "stages": "num_stages",
    "tangents": "tangents",
    "registers": "registers",
    "spill B": "spill_bytes",
    "shared B": "shared_bytes",
    "matrix instr.": "matrix_instructions",
    "special instr.": "special_instructions",
    "warps fit": "resident_warps",
    "operations": "operations",
    "bytes": "bytes_moved",
    "bound by": "limit",
    "TFLOP/s <=": "tflops",
    "us >=": "microseconds",
}
WIDTHS = (38, 7, 9, 4, 18, 8, 8, 6, 7, 9, 10, 8, 9, 14, 15, 10, 11, 8, 13, 11, 6)
USUAL_DTYPES = ("float16", "float32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles and prints; returns the exit status."""
    try:
        from alternet.kernels import triton_static
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        print("benchmarks.static: Triton is not installed", file=sys.stderr)
        return 1
    options = _parser(triton_static).parse_args(arguments)
    cases = [
        case for operator in options.operators or triton_static.operators() for case in _selected(operator, options)
    ]
    rows = _bounded(triton_static.compile_rows(cases, options.processes))
    if options.json:
        print(json.dumps(list(rows), indent=1))
        return 0
    _print_row(COLUMNS)
    for row in rows:
        _print_row("" if row[name] is None else row[name] for name in COLUMNS.values())
    return 0


def _selected(operator: str, options: argparse.Namespace) -> list[Any]:
    from alternet.kernels.triton_static import TARGETS, cases, described

    dtypes = options.dtypes or (None if options.all else USUAL_DTYPES)
    sizes = options.sizes or (None if options.all else described(operator).SIZES[:1])
    return cases(operator, options.targets or TARGETS, dtypes, sizes)


def _bounded(rows: Iterable[Any]) -> Iterable[dict[str, Any]]:
    """The rows with their bounds, by name."""
    from alternet.kernels.triton_static import described, operators

    from .bounds import bound

    steps = {kernel: step for operator in operators() for kernel, step in described(operator).STEPS.items()}
    return (row._asdict() | bound(row, steps.get(row.kernel))._asdict() for row in rows)


def _parser(triton_static: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.static", description=__doc__.split("\n\n")[0])
    parser.add_argument("--operator", dest="operators", action="append", choices=triton_static.operators())
    parser.add_argument("--target", dest="targets", action="append", choices=triton_static.TARGETS)
    parser.add_argument("--dtype", dest="dtypes", action="append", choices=("float16", "bfloat16", "float32", "tf32"))
    parser.add_argument("--size", dest="sizes", action="append", type=int, help="a head size, or the width of a row")
    parser.add_argument("--all", action="store_true", help="everything that can be launched, not only the usual")
    parser.add_argument("--processes", type=int, default=2, help="that compile at the same time (default: 2)")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    return parser


def _print_row(cells: Iterable[object]) -> None:
    print("  ".join(str(cell).ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
