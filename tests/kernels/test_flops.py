"""PyTorch's counter of operations counts the matrix products of this library's operators."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alternet.kernels import attention, layer_norm, second_order, window_attention
from alternet.kernels.attention import reference as attention_reference
from alternet.kernels.attention.operator import attention_operator
from alternet.kernels.convolution import reference as convolution_reference
from alternet.kernels.convolution.operator import convolution_operator
from alternet.kernels.derivatives import Operator
from alternet.kernels.linear import reference as linear_reference
from alternet.kernels.linear.operator import linear_operator


def count(work: Callable[..., object], *args: object, **keywords: object) -> int:
    with FlopCounterMode(display=False) as counter:
        work(*args, **keywords)
    return counter.get_total_flops()


B, H, N, M, D, V = 2, 4, 5, 7, 3, 6
BY_WIDTH, BY_VALUE_WIDTH = 2 * B * H * N * M * D, 2 * B * H * N * M * V


def qkv() -> tuple[torch.Tensor, ...]:
    return torch.randn(B, H, N, D), torch.randn(B, H, M, D), torch.randn(B, H, M, V)


def loss(*x: torch.Tensor) -> torch.Tensor:
    return attention(*x).square().sum()


def test_attention_forward_and_backward():
    x = tuple(t.requires_grad_() for t in qkv())
    assert count(lambda: attention(*x)) == BY_WIDTH + BY_VALUE_WIDTH
    assert count(lambda: loss(*x).backward()) == 4 * BY_WIDTH + 3 * BY_VALUE_WIDTH


def test_a_hessian_vector_product_of_attention_is_24_products_in_either_mode():
    """2, 5, 5 and 12 of the four maps: 14 with the features of query and key, 10 with those of value."""
    x, t = tuple(a.requires_grad_() for a in qkv()), qkv()

    def double_backward() -> None:
        gradients = torch.autograd.grad(loss(*x), x, create_graph=True)
        torch.autograd.grad(gradients, x, t)

    expected = 14 * BY_WIDTH + 10 * BY_VALUE_WIDTH
    assert count(double_backward) == expected
    assert count(lambda: jvp(grad(loss, argnums=(0, 1, 2)), x, t)) == expected


def test_tangents_of_vmap_share_what_does_not_depend_on_them():
    x, t = qkv(), tuple(torch.randn(3, *a.shape) for a in qkv())
    gradient = grad(loss, argnums=(0, 1, 2))
    counted = count(lambda: vmap(lambda *t: jvp(gradient, x, t)[1])(*t))
    once = 1 + 1 + 3 + 1  # S in all maps, and dQ and dK
    once_value = 1 + 2 + 1  # PV, dP and dV, dP
    assert counted == (once + 3 * (14 - once)) * BY_WIDTH + (once_value + 3 * (10 - once_value)) * BY_VALUE_WIDTH


def subsets(n: int) -> list[tuple[bool, ...]]:
    return list(itertools.product((False, True), repeat=n))


def check_against(reference, operator: Operator, x, parameters, needs: tuple[bool, ...], moving: set[int]) -> None:
    """Of every choice of tangents with one of ``moving``, the products that the reference asks PyTorch for."""
    keywords = {name: value for (_, name), value in zip(operator.signature.parameters, parameters, strict=True)}
    rest = (*parameters, "auto")
    yr = operator.forward(*x, *rest)
    known = yr[: len(operator.signature.residuals) + 1]  # a link is none of the reference's business
    g, T = torch.randn_like(yr[0]), 2
    assert count(operator.forward, *x, *rest) == count(reference.forward, *x, **keywords)
    found = count(operator.backward, *x, *yr, g, list(needs), *rest)
    assert found == count(reference.backward, *x, *known, g, needs=needs, **keywords)
    for chosen in subsets(len(x)):
        if not any(chosen[i] for i in moving) or any(c and a is None for c, a in zip(chosen, x, strict=True)):
            continue
        t = [torch.randn(T, *a.shape) if c else None for c, a in zip(chosen, x, strict=True)]
        found = count(operator.tangent, *x, *yr, *t, *rest)
        assert found == count(reference.tangent, *x, *known, *t, **keywords)
        t_yr = operator.tangent(*x, *yr, *t, *rest)
        for t_g in (None, torch.randn(T, *g.shape)):
            found = count(operator.backward_tangent, *x, *yr, g, *t, *t_yr, t_g, list(needs), *rest)
            primed = (*t, *t_yr[: len(known)], t_g)
            expected = count(reference.backward_tangent, *x, *known, g, *primed, needs=needs, **keywords)
            assert found == expected, (chosen, t_g is not None)


@pytest.mark.parametrize("bias", [False, True])
def test_attention_counts_what_its_reference_multiplies(bias):
    """Where scores move, that is: dP is not needed otherwise, which the reference does not look at."""
    x = (*qkv(), torch.randn(1, H, N, M) if bias else None, None)
    needs = (True, True, True, bias, False)
    check_against(attention_reference, attention_operator, x, (0.5, False, [], []), needs, moving={0, 1, 3})


def test_a_tangent_of_values_alone_needs_no_gradient_of_scores():
    x, t_value = qkv(), torch.randn(1, B, H, M, V)
    rest = (None, None, 0.5, False, [], [])
    out, lse = attention_operator.forward(*x, *rest, "auto")
    t = (None, None, t_value, None, None)
    t_out, t_lse = attention_operator.tangent(*x, None, None, out, lse, *t, *rest[2:], "auto")
    gradients = (*x, None, None, out, lse, out, *t, t_out, t_lse, None, [True, True, True, False, False], *rest[2:])
    products = 3 * BY_WIDTH + BY_VALUE_WIDTH  # S, dP' = G V'^T, dS' K and dS'^T Q; dV' is zero
    assert count(lambda: attention_operator.backward_tangent(*gradients, "auto")) == products


@pytest.mark.parametrize("bias", [False, True])
def test_linear_counts_what_its_reference_multiplies(bias):
    x = torch.randn(1, 5, 4), torch.randn(1, 3, 4), torch.randn(1, 3) if bias else None
    check_against(linear_reference, linear_operator, x, (), (True, True, bias), moving={0, 1, 2})


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_counts_what_its_reference_multiplies(stride):
    x = torch.randn(2, 4, 8, 9), torch.randn(6, 4, 3, 3), torch.randn(6, 1)
    geometry = (6, [stride, stride], [1, 1], [1, 1])
    check_against(convolution_reference, convolution_operator, x, geometry, (True, True, True), moving={0, 1, 2})


def test_grouped_convolutions_count_their_own_channels():
    x = torch.randn(2, 4, 8, 8), torch.randn(6, 2, 3, 3), None
    rest = (6, [1, 1], [1, 1], [1, 1], "auto")
    yr = convolution_operator.forward(*x, *rest)
    each = 2 * yr[0].numel() * 2 * 9
    assert count(lambda: convolution_operator.backward(*x, *yr, yr[0], [True, True, False], *rest)) == 2 * each


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_window_attention_counts_whole_windows(memory_format):
    x, t = (tuple(torch.randn(2, 12, 5, 6).to(memory_format=memory_format) for _ in range(3)) for _ in range(2))

    def windows(*x: torch.Tensor) -> torch.Tensor:
        return window_attention(*x, window_size=2, num_heads=3, shift=1)

    each = 2 * 2 * 3 * (3 * 4) * 4**2 * 4  # 3 x 4 windows of 4 pixels, where 5 x 6 begin with one that is cut off
    assert count(lambda: windows(*x)) == 2 * each
    assert count(lambda: jvp(grad(lambda *x: windows(*x).square().sum(), argnums=(0, 1, 2)), x, t)) == 24 * each


def test_a_model_counts_as_without_second_order():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])

    def training_step() -> None:
        F.cross_entropy(model(images), labels).backward()

    with sdpa_kernel(SDPBackend.MATH):  # of its fused one on a CPU PyTorch counts nothing
        plain = count(training_step)
    with second_order():
        counted = count(training_step)
    scores = 2 * 2 * 3 * 5 * 5 * 64
    assert counted == plain + 2 * scores  # of each block's attention, made anew in the backward pass


def test_element_wise_operators_count_nothing_as_in_pytorch():
    x, weight = torch.randn(4, 8), torch.randn(8)
    assert count(lambda: layer_norm(x, weight)) == count(lambda: F.layer_norm(x, (8,), weight)) == 0
