"""``second_order()``: existing models on this library's operators, without a change to them.

A ``TorchFunctionMode`` sees every call of a PyTorch function made inside it, whatever name the caller imported it by.
The calls that an operator of this library serves exactly are handed to it; everything else goes on to PyTorch.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .activation import gelu
from .attention import attention
from .batch_norm import batch_norm
from .checks import autocasts, is_16_bit
from .convolution import convolution, convolution_pays
from .cross_entropy import cross_entropy
from .dispatcher import is_mapped, reshaped
from .layer_norm import layer_norm
from .linear import linear, linear_pays
from .recomputation import recompute_inside

Served = Callable[..., "Tensor | None"]

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda losses: losses,
    "mean": torch.mean,
    "sum": torch.sum,
}


class second_order(TorchFunctionMode):
    """Inside, PyTorch's functions run on the operators of this library wherever these give the same answer.

    >>> with second_order():
    ...     loss = criterion(model(images), targets)

    Served: ``scaled_dot_product_attention`` (thereby timm, torchvision and Hugging Face transformers, and
    ``nn.MultiheadAttention``), ``layer_norm``, ``batch_norm``, ``instance_norm`` without running statistics, ``gelu``
    and ``cross_entropy``; on a CPU convolutions where PyTorch's double backward of them is slow
    (``convolution_pays``), and ``linear`` in 16 bits outside ``torch.func`` (``linear_pays``);
    ``mse_loss``, by plain operations, which have the forward derivative of a gradient that PyTorch's own lacks. Only
    the forward pass must run inside: derivatives of every kind belong to its result, whenever they are taken, also of
    stretches that are recomputed (``torch.utils.checkpoint`` without reentry). What an operator cannot serve (dropout
    of attention weights, a tensor subclass, …) goes to PyTorch unchanged, and raises there if PyTorch has no second
    derivative for it. The nested-tensor fast path of ``nn.TransformerEncoder`` (eval, no gradients,
    ``src_key_padding_mask``) is not taken inside, so that padded positions hold values where that path holds zeros.
    ``second_order_model`` is the permanent form.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if all(kind is Tensor for kind in types):  # a tensor subclass with rules of its own keeps them
            serve = _SERVED.get(func)
            result = None if serve is None else _result(serve, args, kwargs)
            if result is not None:
                recompute_inside(second_order)
                return result
            if func in _COMPOSITE:
                with self:
                    return _without_override_check(func)(*args, **kwargs)
        return func(*args, **kwargs)


def second_order_model(model: nn.Module) -> nn.Module:
    """Make every forward pass of ``model`` run inside ``second_order()``, for good; returns ``model``.

    Parameters, state dict, classes and results stay as they are; copies and pickles of the model keep the property.
    Modules with timm's ``fused_attn`` switch are set to call ``scaled_dot_product_attention``, which some (Swin) do not
    by default. Calling it twice changes nothing. A forward pass that ends by Ctrl-C leaves ``second_order()`` on, for
    PyTorch then skips the hook that ends it; after any other exception it is off.

    Raises:
        TypeError: ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if _enter not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_enter, prepend=True)  # _leave runs even where another one raises
        model.register_forward_hook(_leave, always_call=True)
    for module in model.modules():
        if "fused_attn" in vars(module):
            vars(module)["fused_attn"] = True
    return model


_mode = second_order()


def _enter(module: nn.Module, args: Any) -> None:
    _mode.__enter__()


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _mode.__exit__(None, None, None)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    if dropout_p > 0 or (is_causal and attn_mask is not None):
        return None
    return attention(query, key, value, attn_mask, scale=scale, is_causal=is_causal, enable_gqa=enable_gqa)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor | None:
    axes = len(normalized_shape)
    if axes == 0 or tuple(input.shape[-axes:]) != tuple(normalized_shape):
        return None
    if any(t is not None and tuple(t.shape) != tuple(normalized_shape) for t in (weight, bias)):
        return None
    if not _dtypes_fit(input, weight, bias):
        return None
    flat = (None if t is None else t.flatten() for t in (weight, bias))
    return reshaped(layer_norm(input.flatten(-axes), *flat, eps=eps), input.shape)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    running = [t for t in (running_mean, running_var) if t is not None]
    if training and not eps > 0:
        return None
    if not _dtypes_fit(input, weight, bias, *running) or any(t.requires_grad for t in running):
        return None
    if training and running and any(t is not None and _is_mapped(t) for t in (input, weight, bias, *running)):
        return None  # vmap: ours moves one pair of statistics by one batch
    y = batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    order = _memory_order(input)
    if order is None or input.dim() not in (4, 5) or order != [0, *range(2, input.dim()), 1]:
        return y
    return y.movedim(1, -1).contiguous().movedim(-1, 1)  # channels last


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """A batch norm of one image, whose channels are those of all images."""
    if not use_input_stats or running_mean is not None or running_var is not None or input.dim() < 3:
        return None
    images, channels, *size = input.shape
    weight, bias = (None if t is None else t.repeat(images) for t in (weight, bias))
    y = _batch_norm(input.reshape(1, images * channels, *size), None, None, weight, bias, training=True, eps=eps)
    return None if y is None else reshaped(y, input.shape)


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: Any = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    if size_average is not None or reduce is not None:
        return None
    if target.is_floating_point() and ignore_index >= 0:
        return None
    keywords = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
    return cross_entropy(input, target, weight=weight, **keywords)


def _mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Any = "mean",
    weight: Tensor | None = None,
) -> Tensor | None:
    """By plain operations: in torch 2.14 ``jvp(grad(F.mse_loss))`` raises."""
    if size_average is not None or reduce is not None or weight is not None or reduction not in _REDUCTIONS:
        return None
    if not (isinstance(input, Tensor) and isinstance(target, Tensor) and input.shape == target.shape):
        return None
    input, target = (t.float() if is_16_bit(t) and autocasts(t.device) else t for t in (input, target))
    if input.dtype not in (torch.float32, torch.float64):
        return None
    if (input.dtype, input.device) != (target.dtype, target.device):
        return None
    return _REDUCTIONS[reduction]((input - target).square())


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    axes: int,
) -> Tensor | None:
    for tensor in (input, weight):  # nobody has measured GPUs; channels that come last would be copied
        if not (isinstance(tensor, Tensor) and tensor.is_cpu and tensor.is_contiguous()):
            return None
    if weight.dim() != axes + 2 or not convolution_pays(input, weight, stride, groups):
        return None
    if _is_mapped(input):  # vmap over images: ours would copy the weight for each
        return None
    return convolution(input, weight, bias, stride, padding, dilation, groups)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if torch.compiler.is_compiling() or not isinstance(input, Tensor) or not linear_pays(input):
        return None
    return linear(input, weight, bias)


def _gelu(input: Tensor, approximate: Any = "none") -> Tensor | None:
    order = _memory_order(input)
    if order is None:
        return gelu(input, approximate=approximate)
    places = [order.index(axis) for axis in range(input.dim())]
    return gelu(input.permute(order), approximate=approximate).permute(places)


def _dtypes_fit(input: Tensor, *others: Tensor | None) -> bool:
    """Whether PyTorch takes them together: all of one dtype, or 16 bits and all others in float32."""
    dtypes = {t.dtype for t in others if t is not None}
    return dtypes <= {input.dtype} or (is_16_bit(input) and dtypes == {torch.float32})


def _is_mapped(tensor: Tensor) -> bool:
    return not torch.compiler.is_compiling() and is_mapped(tensor)


def _memory_order(tensor: Tensor) -> list[int] | None:
    """The axes as they lie in memory, the outermost first; None where they lie in order, or on one another."""
    strides = tensor.stride()
    if tensor.is_contiguous() or 0 in strides:
        return None
    order: list[int] = []
    for axis, stride in enumerate(strides):  # sorted() takes no sizes that torch.compile has as symbols
        place = len(order)
        while place and strides[order[place - 1]] < stride:
            place -= 1
        order.insert(place, axis)
    return None if order == list(range(len(order))) else order


def _result(serve: Served, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """What ``serve`` answers; None where PyTorch is to answer."""
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    if any(t.layout != torch.strided or t.is_nested for t in tensors):
        return None
    try:
        return serve(*args, **kwargs)
    except (TypeError, ValueError, NotImplementedError):  # PyTorch serves it, or refuses it in its own words
        return None


# A function of PyTorch -> ours with its arguments, which returns None where it must not serve the call.
_SERVED: dict[Any, Served] = {
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.cross_entropy: _cross_entropy,
    F.mse_loss: _mse_loss,
    F.gelu: _gelu,
    F.linear: _linear,
    torch.conv1d: functools.partial(_convolution, axes=1),
    torch.conv2d: functools.partial(_convolution, axes=2),
    torch.conv3d: functools.partial(_convolution, axes=3),
}

# Python functions that call a served one: they are seen as a whole, and what they call only if they are run inside.
_COMPOSITE = {F.multi_head_attention_forward}


@functools.cache
def _without_override_check(function: types.FunctionType) -> types.FunctionType:
    """``function`` itself rather than the question whether somebody overrides it, which would come back to us."""
    names = {**function.__globals__, "has_torch_function": lambda arguments: False}
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
