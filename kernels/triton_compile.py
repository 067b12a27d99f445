"""Compiles a recorded Triton launch for a GPU that need not be there, and reads what the compiler made of it.

Needs Triton and the tools in its wheel, no GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .triton_launch import Launch

# KiB that one program can have.
SHARED_MEMORY = {"sm_80": 163, "sm_86": 99, "sm_90": 227, "sm_100": 227, "gfx90a": 64, "gfx942": 64}

_POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"}
_MATRIX_INSTRUCTION = {"sm": r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b", "gf": r"\bv_mfma_"}
# Exponentials, logarithms, roots and reciprocals (also those of integer divisions): one unit for all of them.
_SPECIAL_INSTRUCTION = {"sm": r"\bMUFU\b", "gf": r"\bv_(?:exp|log|rcp|rcp_iflag|rsq|sqrt|sin|cos)_f(?:16|32)"}


class Compiled(NamedTuple):
    """Registers and spilled bytes (stack) of a thread, shared memory bytes of a program, instructions in the code."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    matrix_instructions: int
    special_instructions: int


def compile_launch(launch: Launch, target: str) -> Compiled:
    """What the compiler makes of ``launch`` for ``target`` ("sm_90", "gfx942", ...), with the launch's own options."""
    compiled = triton.compile(
        _source(launch),
        target=_gpu(target),
        options={"num_warps": launch.config.num_warps, "num_stages": launch.config.num_stages},
    )
    read = _read_cubin if target.startswith("sm_") else _read_amdgcn
    registers, spill_bytes, instructions = read(compiled.asm)
    counts = (len(re.findall(of[target[:2]], instructions)) for of in (_MATRIX_INSTRUCTION, _SPECIAL_INSTRUCTION))
    return Compiled(registers, spill_bytes, compiled.metadata.shared, *counts)


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
