"""Short names for the contents of tensors and texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def text_checksum(text: str) -> str:
    """Hexadecimal digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def checksum(tensors: Iterable[Tensor]) -> str:
    """Hexadecimal digest of the tensors' dtypes, shapes and bits, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
