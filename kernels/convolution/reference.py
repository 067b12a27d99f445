"""The four maps of a convolution, y = W * x + b, by PyTorch's own convolutions.

There is no other backend: oneDNN and cuDNN convolve as fast as kernels of this library could. What they lack is a good
second derivative. PyTorch writes it as convolutions with the axes of batch and channels swapped, whose windows are as
large as the maps, group by group. Here it is made of the products that training needs too:

    y'  = W * x' + W' * x + b'
    d_x = dgrad(g, W),      d_x' = dgrad(g', W) + dgrad(g, W')
    d_W = wgrad(x, g),      d_W' = wgrad(x', g) + wgrad(x, g')

Shapes: x [E B, C, *S], weight [E O, C / groups, *K], bias [E O, 1] or None, y [E B, O, *S'], with E members
(``products.py``), 1 but under ``vmap``. A product that nobody needs is left out.

One convolution of x and x' abreast, or one product to W of both batches, was tried and is slower than two; but few
windows of both batches are one product to W (4 % of a Hessian-vector product of a ResNet-18 at 64 px, batch 16).

Everything here is a differentiable composition, so PyTorch can take the derivatives that the four maps do not give.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dispatcher import reshaped
from ..missing import contiguous, count, filled, plus
from .products import Products, abreast, apart, result_shape


def forward(x, weight, bias, **geometry) -> tuple[Tensor]:
    """Returns y."""
    products = Products(x, weight, **geometry)
    y = products.narrow(products.convolve(products.wide(x), weight, bias)).contiguous()
    return (reshaped(y, y.shape) if x.dim() == 3 else y,)  # over one axis PyTorch's is a view of two


def tangent(x, weight, bias, y, t_x, t_weight, t_bias, **geometry) -> tuple[Tensor]:
    """Returns t_y [T, ...]."""
    products, T = Products(x, weight, **geometry), count(t_x, t_weight, t_bias)
    t_y: Any = None
    if t_x is not None:
        moved = products.wide(t_x)
        t_y = products.narrow(products.convolve(moved.flatten(0, 1), weight).unflatten(0, moved.shape[:2]))
    if t_weight is not None:
        shift = None if t_bias is None else abreast(t_bias, 0, products.groups)
        turned = products.convolve(products.wide(x), abreast(t_weight, 0, products.groups), shift)
        t_y = plus(t_y, products.narrow(apart(turned, 1, products.groups, T)))
    elif t_bias is not None:
        t_y = plus(t_y, _everywhere(t_bias, result_shape(x.shape, weight.shape, **geometry)).clone())
    return (t_y.contiguous(),)


def backward(x, weight, bias, y, grad, *, needs, **geometry):
    """Returns d_x, d_weight and d_bias in the shapes of the inputs; ``None`` where not needed."""
    products = Products(x, weight, **geometry)
    d_x, *others = products.gradients(products.wide(grad), products.wide(x), weight, needs)
    return contiguous(None if d_x is None else products.narrow(d_x), *others)


def backward_tangent(x, weight, bias, y, grad, t_x, t_weight, t_bias, t_y, t_grad, *, needs, **geometry):
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    products, T = Products(x, weight, **geometry), count(t_x, t_weight, t_bias, t_grad)
    grad, t_grad, wide, t_x = (None if t is None else products.wide(t) for t in (grad, t_grad, x, t_x))
    d_weight = _of_both(products, grad, t_grad, wide, t_x, weight) if needs[1] else None
    rest = (needs[0], needs[1] and d_weight is None, needs[2])
    moved = _of_inputs(products, grad, wide, weight, t_x, t_weight, rest, T)
    turned = _of_cotangent(products, t_grad, wide, weight, rest)
    d_x, *others = (plus(*terms) for terms in zip(moved, turned, strict=True))
    found = (None if d_x is None else products.narrow(d_x), plus(d_weight, others[0]), others[1])
    results = zip(needs, found, (x, weight, bias), strict=True)
    return contiguous(*(filled(d, like, T) if need else None for need, d, like in results))


def _of_both(products, grad, t_grad, x, t_x, weight):
    """wgrad(x', g) + wgrad(x, g') of one tangent where windows are few: those of two batches as of one, else None."""
    if t_x is None or t_grad is None or len(t_x) > 1 or not products.by_windows(grad):
        return None
    return products.product_of_windows(torch.cat([grad, t_grad[0]]), torch.cat([t_x[0], x]), weight)[None]


def _of_inputs(products, grad, x, weight, t_x, t_weight, needs, T):
    """dgrad(g, W') and wgrad(x', g), with the tangents abreast along the input channels."""
    wanted = (needs[0] and t_weight is not None, needs[1] and t_x is not None, False)
    if not any(wanted):
        return [None] * 3
    given_x = _shape_only(x, 1, T) if t_x is None else abreast(t_x, 1, products.groups)
    given_weight = _shape_only(weight, 1, T) if t_weight is None else abreast(t_weight, 1, 1)
    d_x, d_weight, _ = products.gradients(grad, given_x, given_weight, wanted)
    return [
        None if d_x is None else apart(d_x, 1, products.groups, T),
        None if d_weight is None else apart(d_weight, 1, 1, T),
        None,
    ]


def _of_cotangent(products, t_grad, x, weight, needs):
    """dgrad(g', W), with the tangents in the batch; wgrad(x, g') and d_b', with them abreast along g's channels."""
    if t_grad is None:
        return [None] * 3
    T = t_grad.shape[0]
    if T == 1:
        return [None if d is None else d[None] for d in products.gradients(t_grad[0], x, weight, needs)]
    d_x = None
    if needs[0]:
        batch = _shape_only(x, 0, T)
        d_x = products.gradients(t_grad.flatten(0, 1), batch, weight, (True, False, False))[0]
        d_x = d_x.unflatten(0, t_grad.shape[:2])
    given = abreast(t_grad, 1, products.groups), x, _shape_only(weight, 0, T)
    others = products.gradients(*given, (False, *needs[1:]))[1:]
    return [d_x, *(None if d is None else apart(d, 0, products.groups, T) for d in others)]


def _everywhere(t_bias, shape):
    """[T, E O, 1] -> [T, E B, O, *S'], for the shape of y."""
    batch, channels, *space = shape
    members = t_bias.shape[1] // channels
    each = t_bias.view(len(t_bias), members, 1, channels, *[1] * len(space))
    return each.expand(-1, -1, batch // members, -1, *space).flatten(1, 2)


def _shape_only(like, axis, times):
    """Stands for a tensor whose values no wanted product reads: ``like`` with ``times`` the length of ``axis``."""
    return like.new_empty((*like.shape[:axis], times * like.shape[axis], *like.shape[axis + 1 :]))
