"""What a Triton kernel can reach at most on a chip, from its tile and published rates: a bound, not a measurement.

A program streams tiles past a resident one. Each step does some matrix products of [BLOCK_M, D] with [BLOCK_N, D], one
exponential per score, and reads the tiles that it streams. The slowest of the three, with every multiprocessor busy and
nothing else in the way, bounds the rate. Memory is counted as if no tile were found in a cache: a kernel that memory
bounds here depends on its cache, which neighbouring programs share.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


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
    shared_bytes: int


# NVIDIA: data sheets and the CUDA programming guide's table of compute capabilities; AMD: data sheets and CDNA guides
# (MI250X: one of its two dies). A quarter rate for exponentials on both: 16 of 64 lanes.
CHIPS = {
    "sm_80": Chip("A100", 108, 1.41, {"16": 312, "tf32": 156, "float32": 19.5}, 2039, 16, 64, 32, 65536, 163 * 1024),
    "sm_86": Chip("A40", 84, 1.74, {"16": 149.7, "tf32": 74.8, "float32": 37.4}, 696, 16, 48, 32, 65536, 99 * 1024),
    "sm_90": Chip("H100 SXM", 132, 1.83, {"16": 989, "tf32": 494, "float32": 67}, 3350, 16, 64, 32, 65536, 227 * 1024),
    "sm_100": Chip("B200", 148, 1.85, {"16": 2250, "tf32": 1125, "float32": 75}, 8000, 16, 64, 32, 65536, 227 * 1024),
    "gfx90a": Chip("MI250X, a die", 110, 1.7, {"16": 191.5, "float32": 47.9}, 1638, 16, 32, 64, 131072, 64 * 1024),
    "gfx942": Chip("MI300X", 304, 2.1, {"16": 1307, "float32": 163.4}, 5300, 16, 32, 64, 131072, 64 * 1024),
}


class Step(NamedTuple):
    """What one step of a kernel's loop does: matrix products, and streamed tiles of [BLOCK_N, D] or [BLOCK_M, D]."""

    products: int
    streamed: int
    over_keys: bool


STEPS = {
    "forward": Step(2, 2, True),
    "tangent": Step(5, 4, True),
    "backward_query": Step(3, 2, True),
    "backward_key_value": Step(4, 2, False),
    "backward_tangent_query": Step(8, 4, True),
    "backward_tangent_key_value": Step(10, 4, False),
    "backward_bias": Step(2, 4, False),
    "backward_tangent_bias": Step(6, 8, False),
    "backward_table": Step(2, 4, False),
    "backward_tangent_table": Step(6, 8, False),
}


class Compiled(Protocol):
    """The fields of a row of ``triton_static`` that a bound needs."""

    @property
    def kernel(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def head_size(self) -> int: ...
    @property
    def variant(self) -> str: ...
    @property
    def block_m(self) -> int: ...
    @property
    def block_n(self) -> int: ...
    @property
    def num_warps(self) -> int: ...
    @property
    def registers(self) -> int: ...
    @property
    def shared_bytes(self) -> int: ...


class Bound(NamedTuple):
    """Of one step of the loop, and of the chip: which unit limits it and the TFLOP/s it leaves."""

    resident_warps: int
    operations: int
    bytes_moved: int
    limit: str
    tflops: float


def bound(row: Compiled) -> Bound | None:
    """The bound of a compiled kernel; None for the row-wise ones, which have no tile of scores."""
    step = STEPS.get(row.kernel)
    if step is None:
        return None
    chip = CHIPS[row.target]
    size = 4 if row.dtype in ("float32", "tf32") else 2
    scores = row.block_m * row.block_n
    operations = step.products * 2 * scores * row.head_size
    tile = (row.block_n if step.over_keys else row.block_m) * row.head_size
    moved = size * (step.streamed * tile + (scores if "bias" in row.variant else 0))
    rate = chip.tflops[row.dtype if row.dtype in ("float32", "tf32") else "16"] * 1e12 / chip.units
    seconds = {
        "products": operations / rate,
        "exponentials": scores / (chip.special_per_clock * chip.gigahertz * 1e9),
        "memory": moved / (chip.gigabytes_per_second * 1e9 / chip.units),
    }
    limit = max(seconds, key=lambda name: seconds[name])
    return Bound(resident_warps(row), operations, moved, limit, operations / seconds[limit] * chip.units / 1e12)


def resident_warps(row: Compiled) -> int:
    """How many warps of the kernel fit on a multiprocessor: the least that registers, shared memory and slots allow."""
    chip = CHIPS[row.target]
    registers = row.num_warps * chip.lanes * max(row.registers, 1)
    programs = min(chip.warps // row.num_warps, chip.registers // registers)
    if row.shared_bytes:
        programs = min(programs, chip.shared_bytes // row.shared_bytes)
    return programs * row.num_warps
