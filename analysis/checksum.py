"""Short names for the contents of tensors and texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def text_checksum(text: str) -> str:
    """Hexadecimal digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def structure_checksum(model: nn.Module) -> str:
    """Hexadecimal digest of a network's repr."""
    return text_checksum(re.sub(r" at 0x[0-9a-f]+", "", repr(model)))  # addresses are new in every process


def checksum(tensors: Iterable[Tensor]) -> str:
    """Hexadecimal digest of the tensors' dtypes, shapes and bits, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
