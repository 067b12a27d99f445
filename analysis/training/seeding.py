"""Randomness that depends on a seed and a purpose only, not on what was drawn before."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(*key: int | str) -> int:
    """A 32-bit seed for a purpose, as in ``derived_seed(seed, "augment", epoch, batch)``; unrelated between keys."""
    # The number of words is one of them: SeedSequence takes [1] and [1, 0] for the same.
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return int(np.random.SeedSequence([len(words), *words]).generate_state(1)[0])


@contextmanager
def seeded(*key: int | str, device: str | torch.device = "cpu") -> Iterator[None]:
    """Inside, Python's, NumPy's and torch's global generators (of the CPU and of ``device``) start from ``key``.

    timm's augmentation draws from all three. Afterwards they are as they were before.
    """
    device = torch.device(device)
    seed = derived_seed(*key)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset every GPU, unforked ones too
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
