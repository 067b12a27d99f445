"""Linear layers, and every derivative.

``reference.py`` is the specification; ``in_place.py`` adds as it multiplies, by PyTorch's own products, and is
what runs on every device; ``weight_product.py`` makes one kind of them where a CPU has AMX.
"""

from __future__ import annotations

from torch import Tensor

from ..checks import autocasts, check_floating, check_like, is_16_bit, lowered_by_autocast
from ..dispatcher import reshaped, transforms_are_active
from .operator import linear_operator

__all__ = ["linear", "linear_pays"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, differentiable to any order; as ``torch.nn.functional.linear``.

    Args:
        x: [..., C], floating point.
        weight: [O, C] in x's dtype.
        bias: [O] in x's dtype; None for none.

    Returns:
        [..., O] in x's dtype, contiguous. Under autocast in its dtype, as PyTorch's own.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit.
    """
    x, weight, bias = lowered_by_autocast(x, weight, bias)
    check_floating("x", x)
    check_floating("weight", weight)
    if weight.dim() != 2:
        raise ValueError(f"weight: shape {tuple(weight.shape)}, expected [O, C]")
    if x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x: shape {tuple(x.shape)}, expected [..., {weight.shape[1]}], as weight has columns")
    check_like("weight", weight, x, tuple(weight.shape))
    check_like("bias", bias, x, (weight.shape[0],))
    rows = x.reshape(1, x.shape[:-1].numel(), x.shape[-1])
    y = linear_operator(rows, weight[None], None if bias is None else bias[None])
    return reshaped(y, (*x.shape[:-1], weight.shape[0]))


def linear_pays(x: Tensor) -> bool:
    """Whether ``linear`` has faster second derivatives than PyTorch's own, on a CPU outside ``torch.func``.

    In 16 bits: the product of a kept graph of a ViT-Ti under autocast took 0.90 to 1.00 of the time, for it adds as it
    multiplies and has two nodes a layer instead of a dozen (with AMX 0.8 at 16 images: ``weight_product``). In float32,
    where products take longer, it took 0.98 to 1.10; inside ``torch.func``, where every visit of a level costs 0.1 ms,
    1.05 to 1.12, if with AMX less than 1 from 8 images on.
    """
    return x.is_cpu and (is_16_bit(x) or autocasts(x.device)) and not transforms_are_active()
