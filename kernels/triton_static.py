"""Every Triton kernel of an operator, compiled for GPUs that need not be there: ``python -m benchmarks.static``.

What to compile is not written down: an operator's maps are called with tensors on the meta device and their launches
recorded, so that what is compiled is what would run. Needs Triton and the tools in its wheel, no GPU.

An operator takes part by a module ``triton_static`` in its folder (the row-wise ones share ``triton_rows_static``) with

- ``SIZES``, ``DTYPES``, ``VARIANTS``: what its launches differ by beside the target, the usual first, and
  ``is_used(case)``: whether it comes up,
- ``launches(case)``: what its maps launch, recorded,
- ``STEPS``: kernel -> ``Step``, for kernels with a loop over tiles of scores; the others are bound by memory.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .triton_compile import SHARED_MEMORY, compile_launch
from .triton_launch import Launch

TARGETS = tuple(SHARED_MEMORY)
ROW_WISE = ("layer_norm", "activation", "batch_norm", "cross_entropy")


class Case(NamedTuple):
    """One call of all maps of an operator: ``size`` is a head size or the width of a row."""

    operator: str
    target: str
    dtype: str
    size: int
    variant: str


class Step(NamedTuple):
    """What a step of a kernel's loop does: matrix products, and streamed tiles of [BLOCK_N, D] or [BLOCK_M, D].

    ``tangent_products`` and ``tangent_streamed`` come on top for each tangent of the program.
    """

    products: int
    streamed: int
    over_keys: bool
    tangent_products: int = 0
    tangent_streamed: int = 0


class Row(NamedTuple):
    """One compiled kernel. Registers and spilled bytes (stack) are a thread's, shared memory is a program's.

    ``tensor_bytes`` is the memory of all tensors that the launch of ``programs`` programs is given.
    """

    kernel: str
    target: str
    dtype: str
    size: int
    variant: str
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    tangents: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    matrix_instructions: int
    special_instructions: int
    programs: int
    tensor_bytes: int


def operators() -> tuple[str, ...]:
    """The operators whose Triton kernels can be compiled here."""
    return (*sorted(path.parent.name for path in Path(__file__).parent.glob("*/triton_static.py")), *ROW_WISE)


def described(operator: str) -> Any:
    """The module that says what there is to compile of ``operator``."""
    if operator in ROW_WISE:
        return importlib.import_module(".triton_rows_static", __package__)
    return importlib.import_module(f".{operator}.triton_static", __package__)


def cases(
    operator: str,
    targets: Iterable[str] = TARGETS,
    dtypes: Iterable[str] | None = None,
    sizes: Iterable[int] | None = None,
    variants: Iterable[str] | None = None,
) -> list[Case]:
    """The product of the arguments as far as the operator uses it; ``None`` is everything it has."""
    module = described(operator)
    of = (module.DTYPES if dtypes is None else dtypes, module.SIZES if sizes is None else sizes)
    every = product([operator], targets, *of, module.VARIANTS if variants is None else variants)
    return [case for case in (Case(*fields) for fields in every) if module.is_used(case)]


@functools.cache
def launches(case: Case) -> list[Launch]:
    """What the maps launch in this case, each kernel once (for each number of tangents that share a program)."""
    recorded = described(case.operator).launches(case)
    return list({(launch.kernel.__name__, launch.arguments.get("TANGENTS")): launch for launch in recorded}.values())


def compile_rows(selected: Iterable[Case], processes: int = 1) -> Iterator[Row]:
    """Compiles all kernels of the cases, in ``processes`` processes; rows come in order, as they are ready."""
    work = [(case, index) for case in selected for index in range(len(launches(case)))]
    if processes == 1:
        yield from map(_compile_one, work)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        yield from pool.map(_compile_one, work)


@functools.cache
def _compile_one(work: tuple[Case, int]) -> Row:
    case, index = work
    launch = launches(case)[index]
    name = launch.kernel.__name__.removesuffix("_kernel")
    tangents = launch.arguments.get("TANGENTS", 1)
    compiled = compile_launch(launch, case.target)
    return Row(name, *case[1:], *launch.config, tangents, *compiled, launch.programs, _tensor_bytes(launch))


def _tensor_bytes(launch: Launch) -> int:
    """A broadcast axis and two views of one tensor count once."""
    tensors = (value for value in launch.arguments.values() if isinstance(value, torch.Tensor))
    return sum({id(t.untyped_storage()): t.untyped_storage().nbytes() for t in tensors}.values())
