"""Compiles every launchable Triton kernel for GPUs that need not be there, and reads what the compiler made of it.

What to compile is not written down here: the backend's own maps are called with tensors on the meta device and their
launches recorded, so that what is compiled is what would run. Needs Triton and the tools in its wheel, no GPU.
"""

from __future__ import annotations

import functools
import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import triton as backend
from .triton_configs import BUCKETS, DTYPES, TARGETS
from .triton_launch import Launch, record

# The ends of the flags: a kernel with fewer tangents or results does less than the last two.
VARIANTS = ("plain", "bias, causal", "table, neighbours")

# KiB that one program can have.
SHARED_MEMORY = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "gfx942": 64}

_POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"}
_MATRIX_INSTRUCTION = {"sm": r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b", "gf": r"\bv_mfma_"}


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
    compiled = triton.compile(
        _source(launch),
        target=_gpu(case.target),
        options={"num_warps": launch.config.num_warps, "num_stages": launch.config.num_stages},
    )
    read = _read_cubin if case.target.startswith("sm_") else _read_amdgcn
    registers, spill_bytes, instructions = read(compiled.asm)
    matrix_instructions = len(re.findall(_MATRIX_INSTRUCTION[case.target[:2]], instructions))
    name = launch.kernel.__name__.removeprefix("attention_").removesuffix("_kernel")
    resources = (registers, spill_bytes, compiled.metadata.shared, matrix_instructions)
    return Row(name, *case, *launch.config, *resources)


def _gpu(target: str) -> GPUTarget:
    return GPUTarget("cuda", int(target[3:]), 32) if target.startswith("sm_") else GPUTarget("hip", target, 64)


def _source(launch: Launch) -> ASTSource:
    """The launch as Triton's just-in-time compiler would specialise it: 1 is a constant, multiples of 16 are known."""
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def type_of(path: tuple[int, ...], value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(type_of((*path, i), item) for i, item in enumerate(value))
        if value is None or (isinstance(value, int) and value == 1):
            constants[path] = value
            return "constexpr"
        if isinstance(value, float):
            return "fp32"
        if isinstance(value, torch.Tensor) or value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return _POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"

    signature = {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr:
            constants[(i,)] = value
        signature[parameter.name] = "constexpr" if parameter.is_constexpr else type_of((i,), value)
    return ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)


def _read_cubin(asm: dict[str, Any]) -> tuple[int, int, str]:
    """Registers and stack bytes a thread, and the SASS."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = _run(triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name)
        sass = _run(triton.knobs.nvidia.nvdisasm.path, "-c", file.name)
    return _number(r"REG:(\d+)", usage), _number(r"STACK:(\d+)", usage), sass


def _read_amdgcn(asm: dict[str, Any]) -> tuple[int, int, str]:
    """Vector registers (accumulation registers included) and scratch bytes a thread, and the assembly."""
    text = asm["amdgcn"]
    return _number(r"\.vgpr_count:\s*(\d+)", text), _number(r"\.private_segment_fixed_size:\s*(\d+)", text), text


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return int(match[1])
