"""Compiles every launchable attention kernel for GPUs that need not be there.

What to compile is not written down here: the backend's own maps are called with tensors on the meta device and their
launches recorded, so that what is compiled is what would run. Needs Triton and the tools in its wheel, no GPU.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import torch

from ..triton_compile import compile_launch
from ..triton_launch import Launch, record
from . import triton as backend
from .triton_configs import BUCKETS, DTYPES, TARGETS

# The ends of the flags: a kernel with fewer tangents or results does less than the last two.
VARIANTS = ("plain", "bias, causal", "table, neighbours")


class Case(NamedTuple):
    """One call of the four maps, D = Dv, all tangents and all results."""

    target: str
    dtype: str
    head_size: int
    variant: str


class Row(NamedTuple):
    """One compiled kernel. Spills are the bytes of stack a thread has; shared memory is in bytes a program."""

    kernel: str
    target: str
    dtype: str
    head_size: int
    variant: str
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    matrix_instructions: int


def cases(
    targets: Iterable[str] = TARGETS,
    dtypes: Iterable[str] = tuple(DTYPES),
    head_sizes: Iterable[int] = BUCKETS,
    variants: Iterable[str] = VARIANTS,
) -> list[Case]:
    """The product of the arguments, without TF32 where the backend does not use it (``dot_precision``)."""
    every = (Case(*case) for case in product(targets, dtypes, head_sizes, variants))
    return [case for case in every if case.dtype != "tf32" or (case.target.startswith("sm_") and case.head_size <= 128)]


def launches(case: Case) -> list[Launch]:
    """What the four maps launch in this case, each kernel once."""
    B, H, N, T, D = 2, 4, 1024, 2, case.head_size
    bias, table = case.variant == "bias, causal", case.variant == "table, neighbours"
    dtype = DTYPES[case.dtype]

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    primals = [empty(B, H, N, D) for _ in range(3)]
    primals += [empty(1, H, N, N) if bias else None, empty(1, H, 63, 63) if table else None]
    tangents = [None if x is None else empty(T, *x.shape) for x in primals]
    out, grad, t_out, t_grad = empty(B, H, N, D), empty(B, H, N, D), empty(T, B, H, N, D), empty(T, B, H, N, D)
    lse, t_lse = empty(B, H, N, dtype=torch.float32), empty(T, B, H, N, dtype=torch.float32)
    parameters: dict[str, Any] = {"scale": D**-0.5, "is_causal": bias}
    parameters |= {"grid": (32, 32) if table else (), "kernel_size": (5, 5) if table else ()}
    needs = (True, True, True, bias, table)
    with record(case.target, tf32=case.dtype == "tf32") as recorded:
        backend.forward(*primals, **parameters)
        backend.tangent(*primals, out, lse, *tangents, **parameters)
        backend.backward(*primals, out, lse, grad, **parameters, needs=needs)
        backend.backward_tangent(*primals, out, lse, grad, *tangents, t_out, t_lse, t_grad, **parameters, needs=needs)
    return list({launch.kernel.__name__: launch for launch in recorded}.values())


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
    name = launch.kernel.__name__.removeprefix("attention_").removesuffix("_kernel")
    return Row(name, *case, *launch.config, *compile_launch(launch, case.target))
