"""How the Triton kernels are started: on what target, with what precision; or recorded instead of started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Config(NamedTuple):
    """A tile of rows by a tile of columns (of attention: queries by keys), and how Triton compiles a kernel for it."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


class Launch(NamedTuple):
    """One kernel launch: what ``launch`` was called with."""

    kernel: Any
    programs: int
    config: Config
    arguments: dict[str, Any]


class Recording(NamedTuple):
    """Launches taken down for ``target`` instead of run."""

    target: str
    tf32: bool
    launches: list[Launch]


_recording: Recording | None = None


@contextmanager
def record(target: str, tf32: bool = False) -> Iterator[list[Launch]]:
    """Takes down the launches of the enclosed calls, as they would be on ``target``, and runs none.

    With tensors on the meta device this needs no GPU: it is how ``triton_compile`` learns what there is to compile.
    """
    global _recording
    previous, _recording = _recording, Recording(target, tf32, [])
    try:
        yield _recording.launches
    finally:
        _recording = previous


def launch(kernel: Any, programs: int, config: Config, device: torch.device, **arguments: Any) -> None:
    """Starts ``programs`` programs of ``kernel`` on ``device``."""
    if _recording is not None:
        _recording.launches.append(Launch(kernel, programs, config, arguments))
    elif programs > 0:
        with torch.cuda.device(device if device.type == "cuda" else -1):
            kernel[(programs,)](**arguments, num_warps=config.num_warps, num_stages=config.num_stages)


def padded(width: int) -> int:
    """Width of the tile that holds a row: a power of two, at least the 16 that matrix instructions want."""
    return max(16, 1 << (width - 1).bit_length())


def target(device: torch.device) -> str:
    """The target that stands for ``device``: the one whose matrix instructions and shared memory it has.

    sm_86 is also sm_89 and sm_120, sm_100 also sm_103 and sm_110, gfx942 also gfx950.
    """
    if _recording is not None:
        return _recording.target
    if device.type != "cuda":  # the interpreter
        return "sm_80"
    if torch.version.hip is not None:
        return "gfx90a" if "gfx90a" in torch.cuda.get_device_properties(device).gcnArchName else "gfx942"
    capability = torch.cuda.get_device_capability(device)
    if capability == (8, 0):
        return "sm_80"
    return {9: "sm_90", 10: "sm_100", 11: "sm_100"}.get(capability[0], "sm_86")


def dot_precision(dtype: torch.dtype, target: str) -> str | None:
    """``input_precision`` of ``tl.dot``: float32 on NVIDIA follows PyTorch's TF32 switch; nothing else has a choice."""
    if dtype != torch.float32 or target.startswith("gfx"):
        return None
    if _recording is not None:
        return "tf32" if _recording.tf32 else "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
