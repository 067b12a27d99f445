"""What a Triton kernel can reach at most on a chip, from its tile and published rates: a bound, not a measurement.

A program of attention streams tiles past a resident one. Each step does some matrix products of [BLOCK_M, D] with
[BLOCK_N, D], one exponential per score, and reads the tiles that it streams. The slowest of the three, with every
multiprocessor busy and nothing else in the way, bounds the rate. Memory is counted as if no tile were found in a cache:
a kernel that memory bounds here depends on its cache, which neighbouring programs share. Where a program has several
tangents, what they share counts once, and operations and bytes are those of one tangent.

A kernel without such a loop reads and writes every tensor once, and cannot be faster than memory.
"""

from __future__ import annotations

from typing import NamedTuple

from alternet.kernels.triton_compile import SHARED_MEMORY
from alternet.kernels.triton_static import Row, Step


class Chip(NamedTuple):
    """Published rates of the whole chip (dense) and limits of one multiprocessor (NVIDIA) or compute unit (AMD)."""

    name: str
    units: int
    gigahertz: float  # boost
    tflops: dict[str, float]  # matrix units, by dtype; float32: what ieee products run on
    gigabytes_per_second: float
    special_per_clock: int  # exponentials a clock and unit
    warps: int  # resident at most
    lanes: int  # of a warp or wavefront
    registers: int  # of 32 bits


# NVIDIA: data sheets and the CUDA programming guide's table of compute capabilities; AMD: data sheets and CDNA guides
# (MI250X: one of its two dies). A quarter rate for exponentials on both: 16 of 64 lanes.
CHIPS = {
    "sm_80": Chip("A100", 108, 1.41, {"16": 312, "tf32": 156, "float32": 19.5}, 2039, 16, 64, 32, 65536),
    "sm_86": Chip("A40", 84, 1.74, {"16": 149.7, "tf32": 74.8, "float32": 37.4}, 696, 16, 48, 32, 65536),
    "sm_90": Chip("H100 SXM", 132, 1.83, {"16": 989, "tf32": 494, "float32": 67}, 3350, 16, 64, 32, 65536),
    "sm_100": Chip("B200", 148, 1.85, {"16": 2250, "tf32": 1125, "float32": 75}, 8000, 16, 64, 32, 65536),
    "gfx90a": Chip("MI250X, a die", 110, 1.7, {"16": 191.5, "float32": 47.9}, 1638, 16, 32, 64, 131072),
    "gfx942": Chip("MI300X", 304, 2.1, {"16": 1307, "float32": 163.4}, 5300, 16, 32, 64, 131072),
}


class Bound(NamedTuple):
    """Of one step of the loop and one tangent; of one program, where there is no loop. None: says nothing.

    ``limit`` is the unit that bounds the kernel: it leaves the chip ``tflops``, or the launch ``microseconds``.
    """

    resident_warps: int
    operations: int | None
    bytes_moved: int
    limit: str
    tflops: float | None
    microseconds: float | None


def bound(row: Row, step: Step | None) -> Bound:
    """The bound of a compiled kernel; ``step`` is what its loop over tiles of scores does."""
    return _memory_bound(row) if step is None else _step_bound(row, step)


def _memory_bound(row: Row) -> Bound:
    microseconds = row.tensor_bytes / CHIPS[row.target].gigabytes_per_second / 1e3
    return Bound(resident_warps(row), None, row.tensor_bytes // row.programs, "memory", None, round(microseconds, 1))


def _step_bound(row: Row, step: Step) -> Bound:
    chip = CHIPS[row.target]
    size = 4 if row.dtype in ("float32", "tf32") else 2
    scores = row.block_m * row.block_n
    operations = (step.products + row.tangents * step.tangent_products) * 2 * scores * row.size
    tile = (row.block_n if step.over_keys else row.block_m) * row.size
    bias = scores if "bias" in row.variant else 0
    moved = size * (step.streamed * tile + bias)
    if step.tangent_products:
        moved += size * row.tangents * (step.tangent_streamed * tile + bias)
    rate = chip.tflops[row.dtype if row.dtype in ("float32", "tf32") else "16"] * 1e12 / chip.units
    seconds = {
        "products": operations / rate,
        "exponentials": scores / (chip.special_per_clock * chip.gigahertz * 1e9),
        "memory": moved / (chip.gigabytes_per_second * 1e9 / chip.units),
    }
    limit = max(seconds, key=lambda name: seconds[name])
    tflops = operations / seconds[limit] * chip.units / 1e12
    of_one = (operations // row.tangents, moved // row.tangents)
    return Bound(resident_warps(row), *of_one, limit, round(tflops, 1), None)


def resident_warps(row: Row) -> int:
    """How many warps of the kernel fit on a multiprocessor: the least that registers, shared memory and slots allow."""
    chip = CHIPS[row.target]
    registers = row.num_warps * chip.lanes * max(row.registers, 1)
    programs = min(chip.warps // row.num_warps, chip.registers // registers)
    if row.shared_bytes:
        programs = min(programs, SHARED_MEMORY[row.target] * 1024 // row.shared_bytes)
    return programs * row.num_warps
