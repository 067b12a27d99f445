"""What the Triton kernels of row-wise operators share: tiles of rows, and how many numbers a tile holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .triton_launch import Config, launch, padded

__all__ = ["Config", "chunk_rows", "launch", "new", "padded", "row_config", "summed"]

MAX_WIDTH = 8192  # columns of a row that one program holds
MAX_CHUNKS = 512  # programs that share a sum over rows: enough to fill the largest GPU several times


def row_config(width: int, numbers: int) -> Config:
    """Rows and columns of a tile of about ``numbers`` numbers with whole rows, and its warps: 8 to 32 numbers a thread.

    Raises:
        ValueError: a row is wider than a program holds.
    """
    if width > MAX_WIDTH:
        raise ValueError(f"x: rows of {width}, the triton backend has at most {MAX_WIDTH}")
    columns = padded(width)
    rows = max(1, numbers // columns)
    return Config(rows, columns, min(16, max(4, rows * columns // 512)), 1)


def chunk_rows(rows: int, config: Config) -> int:
    """Rows of a program that adds up over them: whole tiles, at most ``MAX_CHUNKS`` programs, by the shapes alone."""
    tiles = -(-rows // config.block_m)
    return max(1, -(-tiles // MAX_CHUNKS)) * config.block_m


def new(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uninitialised, on ``like``'s device."""
    return torch.empty(*shape, dtype=dtype, device=like.device)


def summed(parts: Tensor, like: Any) -> Tensor:
    """Parts [T, B, chunks, D] of a sum over rows -> [T, b, 1, D], b as in ``like``, added up in float64."""
    total = parts.sum(2, keepdim=True, dtype=torch.float64)
    return total.sum_to_size(parts.shape[0], *like.shape).to(like.dtype)
