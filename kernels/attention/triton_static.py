"""What ``kernels/triton_static.py`` compiles of attention: every configuration that can be launched."""

from __future__ import annotations

from typing import Any

import torch

from ..triton_launch import Launch, record
from ..triton_static import Case, Step
from . import triton as backend
from .triton_configs import BUCKETS, DTYPES

__all__ = ["DTYPES", "SIZES", "STEPS", "VARIANTS", "is_used", "launches"]

SIZES = (64, *(size for size in BUCKETS if size != 64))  # that of ViT and AlterNet first
# The ends of the flags: a kernel with fewer tangents or results does less than the last two.
VARIANTS = ("plain", "bias, causal", "table, neighbours")

STEPS = {
    "attention_forward": Step(2, 2, True),
    "attention_tangent": Step(1, 2, True, 4, 2),
    "attention_backward_query": Step(3, 2, True),
    "attention_backward_key_value": Step(4, 2, False),
    "attention_backward_tangent_query": Step(2, 2, True, 6, 2),
    "attention_backward_tangent_key_value": Step(2, 2, False, 8, 2),
    "attention_backward_bias": Step(2, 4, False),
    "attention_backward_tangent_bias": Step(2, 4, False, 4, 4),
    "attention_backward_table": Step(2, 4, False),
    "attention_backward_tangent_table": Step(2, 4, False, 4, 4),
}


def is_used(case: Case) -> bool:
    """TF32 is NVIDIA's, and not for wide heads (``Problem``)."""
    return case.dtype != "tf32" or (case.target.startswith("sm_") and case.size <= 128)


def launches(case: Case) -> list[Launch]:
    """Two images of four heads and 1024 tokens, D = Dv; three tangents, so that there is a pair and one left."""
    B, H, N, T, D = 2, 4, 1024, 3, case.size
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
    return recorded
