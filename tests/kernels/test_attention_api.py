"""The public function: PyTorch's conventions, every kind of input, one clear error for each bad one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp

from alternet.kernels import attention, available_backends, use_backend
from alternet.kernels.attention.cases import inputs, neighbours, relative_position_bias

CPU_BUILT = available_backends()["cpu"] is None


def close(mine, theirs, tolerance=1e-10):
    torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("causal", [False, True])
def test_leading_axes_as_in_pytorch(lead, causal, backend):
    q, k, v = (torch.randn(*lead, n, 4, dtype=torch.float64) for n in (5, 7, 7))
    close(attention(q, k, v, is_causal=causal), F.scaled_dot_product_attention(q, k, v, is_causal=causal))


@pytest.mark.parametrize("shape", [(7,), (5, 7), (1, 7), (5, 1), (3, 5, 7), (1, 5, 7), (2, 1, 5, 7), (2, 3, 1, 7)])
@pytest.mark.parametrize("kind", ["float", "bool"])
def test_bias_broadcasts_as_in_pytorch(shape, kind, backend):
    q, k, v, _ = inputs(2, 3, 5, 7, 4, 4)
    bias = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bias = bias > -0.5 if kind == "bool" else bias
    theirs = F.scaled_dot_product_attention(q, k, v, bias.expand(2, 3, 5, 7))
    close(attention(q, k, v, bias), theirs)


def test_five_axes_with_a_bias_that_broadcasts_in_the_middle(backend):
    q, k, v = (torch.randn(2, 3, 2, n, 4, dtype=torch.float64) for n in (5, 6, 6))
    bias = torch.randn(2, 1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    out, theirs = attention(q, k, v, bias), F.scaled_dot_product_attention(q, k, v, bias.expand(2, 3, 2, 5, 6))
    close(out, theirs)
    close(torch.autograd.grad(out.pow(2).sum(), bias), torch.autograd.grad(theirs.pow(2).sum(), bias))


def test_key_and_value_broadcast_over_query(backend):
    q = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    k = torch.randn(1, 1, 6, 4, dtype=torch.float64, requires_grad=True)
    out, theirs = attention(q, k, k), F.scaled_dot_product_attention(q, k.expand(2, 3, 6, 4), k.expand(2, 3, 6, 4))
    close(torch.autograd.grad(out.pow(2).sum(), k), torch.autograd.grad(theirs.pow(2).sum(), k))


def test_rows_that_see_nothing_give_zeros_as_in_pytorch(backend):
    q, k, v, _ = (t if t is None else t.requires_grad_() for t in inputs(1, 2, 4, 5, 3, 3))
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1] = False
    out, theirs = attention(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask)
    close(out, theirs)
    assert (out[:, :, 1] == 0).all()
    for a, b in zip(torch.autograd.grad(out.sin().sum(), (q, k, v)), _grads_without_row(q, k, v, 1), strict=True):
        close(a, b)


def _grads_without_row(q, k, v, row):
    keep = [i for i in range(q.shape[2]) if i != row]
    out = F.scaled_dot_product_attention(q[:, :, keep], k, v)
    return torch.autograd.grad(out.sin().sum(), (q, k, v))


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)])
def test_empty_inputs_have_empty_or_zero_derivatives(shape, backend):
    b, h, n, m = shape
    q, k, v, _ = inputs(b, h, n, m, 4, 5)
    assert attention(q, k, v).shape == (b, h, n, 5)
    assert (attention(q, k, v) == 0).all()
    _, tangents = jvp(grad(lambda *x: attention(*x).sin().sum(), argnums=(0, 1, 2)), (q, k, v), (q, k, v))
    for t, x in zip(tangents, (q, k, v), strict=True):
        assert t.shape == x.shape
        assert (t == 0).all()


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "qkv"])
def test_strides(layout, backend):
    if layout == "qkv":  # as a transformer cuts them out of one projection
        qkv = torch.randn(2, 6, 3, 2, 4, dtype=torch.float64).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
    else:
        q, k, v, _ = inputs(2, 2, 6, 6, 4, 4)
        make = {
            "transposed": lambda t: t.mT.contiguous().mT,
            "sliced": lambda t: torch.cat([t, t], -1)[..., ::2],
            "expanded": lambda t: t[:, :, :1].expand_as(t),
        }[layout]
        q, k, v = make(q), make(k), make(v)
    close(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
    mine = jvp(grad(lambda *x: attention(*x).pow(3).sum(), (0, 1, 2)), (q, k, v), (v, q, k))
    dense = jvp(grad(lambda q, k, v: ((q @ k.mT / 2).softmax(-1) @ v).pow(3).sum(), (0, 1, 2)), (q, k, v), (v, q, k))
    for a, b in zip((*mine[0], *mine[1]), (*dense[0], *dense[1]), strict=True):
        close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_as_good_as_pytorchs_own(dtype, backend):
    """err(ours) <= 2 err(same dtype in eager PyTorch) + one rounding, both against float64."""
    exact = inputs(1, 2, 33, 49, 16, 16, (1, 2, 33, 49))
    rounded = tuple(t.to(dtype) for t in exact)

    def eager(q, k, v, b):
        return (q @ k.mT / 4 + b).softmax(-1) @ v

    def run(f, x):
        return (f(*x), *grad(lambda *x: f(*x).float().sin().sum() if f is not eager else f(*x).sin().sum(), (0, 3))(*x))

    truth = run(eager, tuple(t.double() for t in rounded))
    for mine, theirs, true in zip(run(attention, rounded), run(eager, rounded), truth, strict=True):
        assert mine.dtype == dtype
        err, own = ((t.double() - true).abs().max() for t in (mine, theirs))
        assert err <= 2 * own + 2 * torch.finfo(dtype).eps * true.abs().max()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_autocast_computes_in_the_lower_precision(requires_grad):
    q, k, v, b = (t.float().requires_grad_(requires_grad) for t in inputs(1, 2, 5, 5, 4, 4, (1, 1, 5, 5)))
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q, k, v, b)
        theirs = F.scaled_dot_product_attention(q, k, v, b.detach().expand(1, 2, 5, 5))
    assert out.dtype == theirs.dtype == torch.bfloat16
    close(out.float(), theirs.float(), 2e-2)


def test_backend_is_the_one_asked_for(monkeypatch):
    """Also in the backward pass, when that runs after the block."""
    from alternet.kernels.attention import reference

    calls = []
    for name in ("forward", "backward"):
        original = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *a, _o=original, _n=name, **k: (calls.append(_n), _o(*a, **k))[1])
    q, k, v, _ = (t if t is None else t.requires_grad_() for t in inputs(1, 1, 2, 2, 2, 2))
    with use_backend("reference"):
        out = attention(q, k, v)
    out.sum().backward()
    assert calls == ["forward", "backward"]


@pytest.mark.skipif(not CPU_BUILT, reason="the C++ extension is not built")
def test_a_cpu_tensor_goes_to_the_native_kernels(monkeypatch):
    from alternet.kernels.attention import cpu

    calls = []
    original = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *a, **k: (calls.append("cpu"), original(*a, **k))[1])
    attention(*inputs(1, 1, 2, 2, 2, 2)[:3])
    assert calls == ["cpu"]


def test_unavailable_backend_says_why():
    q, k, v, _ = inputs(1, 1, 2, 2, 2, 2)
    with use_backend("triton"), pytest.raises(RuntimeError, match="backend 'triton' cannot run this call"):
        attention(q, k, v)


def test_unknown_backend():
    with pytest.raises(ValueError, match="unknown backend 'cudnn', expected one of reference, cpu, triton"):
        use_backend("cudnn")


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("table_lead", [(), (3,), (2, 1, 1)])
def test_tables_broadcast_over_leading_axes(lead, table_lead, backend):
    if len(table_lead) > len(lead):
        pytest.skip("a table has no more axes than the query")
    q, k, v = (torch.randn(*lead, 6, 4, dtype=torch.float64) for _ in range(3))
    table = torch.randn(*table_lead, 3, 5, dtype=torch.float64, requires_grad=True)
    out = attention(q, k, v, table=table, grid=(2, 3))
    theirs = F.scaled_dot_product_attention(q, k, v, relative_position_bias(table, (2, 3)).expand(*lead, 6, 6))
    close(out, theirs)
    close(torch.autograd.grad(out.pow(2).sum(), table), torch.autograd.grad(theirs.pow(2).sum(), table))


def test_neighbourhoods_hide_keys(backend):
    q, k, v = (torch.randn(2, 2, 12, 4, dtype=torch.float64) for _ in range(3))
    mask = neighbours((3, 4), (3, 3))
    close(attention(q, k, v, grid=(3, 4), kernel_size=3), F.scaled_dot_product_attention(q, k, v, mask))
    close(attention(q, k, v, mask, grid=(3, 4)), F.scaled_dot_product_attention(q, k, v, mask))


@pytest.mark.parametrize("lead", [(), (2,), (2, 1)])
@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_grouped_queries_as_in_pytorch(lead, key_heads, backend):
    q = torch.randn(*lead, 6, 5, 4, dtype=torch.float64)
    k, v = (torch.randn(*lead, key_heads, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    out = attention(q, k, v, enable_gqa=True)
    theirs = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    close(out, theirs)
    close(torch.autograd.grad(out.sin().sum(), (k, v)), torch.autograd.grad(theirs.sin().sum(), (k, v)))


GOOD = inputs(2, 2, 5, 7, 4, 3)
BAD = {
    "query: expected a tensor, got list": lambda q, k, v: ([1.0], k, v),
    "query: dtype torch.int64": lambda q, k, v: (q.long(), k, v),
    "value: dtype torch.float32, expected query's dtype torch.float64": lambda q, k, v: (q, k, v.float()),
    "key: is on meta, expected query's device cpu": lambda q, k, v: (q, k.to("meta"), v),
    r"query: shape \(4,\), expected at least two axes": lambda q, k, v: (q[0, 0, 0], k, v),
    "key: head size 5, expected query's 4": lambda q, k, v: (q, torch.cat([k, k[..., :1]], -1), v),
    "query: head size 0, expected 1 to 256": lambda q, k, v: (q[..., :0], k, v),
    "value: head size 300, expected 1 to 256": lambda q, k, v: (q, k, v.repeat(1, 1, 1, 100)),
    "value: 6 tokens, expected key's 7": lambda q, k, v: (q, k, v[:, :, :6]),
    r"leading axes do not broadcast: query \(2, 2, 5, 4\), key \(3, 2, 7, 4\)": lambda q, k, v: (
        q, torch.cat([k, k[:1]]), v,
    ),
    r"bias: shape \(3, 7\), expected one that broadcasts to \(2, 2, 5, 7\)": lambda q, k, v: (
        q, k, v, torch.zeros(3, 7, dtype=torch.float64),
    ),
    r"bias: shape \(1, 2, 2, 5, 7\), expected one that broadcasts": lambda q, k, v: (
        q, k, v, torch.zeros(1, 2, 2, 5, 7, dtype=torch.float64),
    ),
    "bias: dtype torch.int64": lambda q, k, v: (q, k, v, torch.zeros(5, 7, dtype=torch.int64)),
    "query: layout torch.sparse_coo, expected a dense tensor": lambda q, k, v: (q.to_sparse(), k, v),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_clear_error(message):
    with pytest.raises((TypeError, ValueError), match=message):
        attention(*BAD[message](*GOOD[:3]))


TOKENS, TABLE = inputs(2, 2, 6, 6, 4, 4)[:3], torch.zeros(3, 5, dtype=torch.float64)
BAD_POSITIONS = {
    r"grid: expected \(height, width\) with a table or a kernel_size, got None": {"table": TABLE},
    r"grid: \(2, 4\) has 8 tokens, query 6 and key 6": {"table": TABLE, "grid": (2, 4)},
    r"table: shape \(3, 5\), expected \(5, 3\)": {"table": TABLE, "grid": (3, 2)},
    r"table: shape \(3, 3, 5\), expected .* leading axes that broadcast to \(2, 2\)": {
        "table": TABLE.expand(3, 3, 5), "grid": (2, 3),
    },
    "table: dtype torch.float32, expected query's": {"table": TABLE.float(), "grid": (2, 3)},
    "table: expected a tensor, got int": {"table": 3, "grid": (2, 3)},
    r"grid: expected two integers, 1 or more, got \(6,\)": {"table": TABLE, "grid": (6,)},
    r"grid: expected two integers, 1 or more, got \(0, 6\)": {"table": TABLE, "grid": (0, 6)},
    "kernel_size: expected one or two integers, 1 or more, got 1.5": {"kernel_size": 1.5, "grid": (2, 3)},
    "kernel_size: expected one or two integers, 1 or more, got True": {"kernel_size": True, "grid": (2, 3)},
    r"kernel_size: expected one or two integers, 1 or more, got \(3, 0\)": {"kernel_size": (3, 0), "grid": (2, 3)},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_POSITIONS)
def test_bad_positions_get_one_clear_error(message):
    with pytest.raises((TypeError, ValueError), match=message):
        attention(*TOKENS, **BAD_POSITIONS[message])


SCALE = torch.tensor(0.5, dtype=torch.float64)
BAD_SCALES = {
    "scale: expected a number, got 'x'": lambda x: attention(*x, scale="x"),
    "scale: got nan, expected a finite number": lambda x: attention(*x, scale=math.nan),
    "scale: got -inf, expected a finite number": lambda x: attention(*x, scale=-math.inf),
    "scale: expected a number, got a tensor with a derivative": lambda x: attention(
        *x, scale=SCALE.clone().requires_grad_()
    ),
    "a derivative, which scale does not have": lambda x: jvp(lambda s: attention(*x, scale=s), (SCALE,), (SCALE,)),
    "got a tensor with a derivative, which": lambda x: grad(lambda s: attention(*x, scale=s).sum())(SCALE),
}


@pytest.mark.parametrize("message", BAD_SCALES)
def test_bad_scales_get_one_clear_error(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD_SCALES[message](TOKENS)


@pytest.mark.parametrize("scale", [SCALE, np.float32(0.5), np.float64(0.5), 0.5])
def test_a_scale_is_any_number(scale):
    close(attention(*TOKENS, scale=scale), F.scaled_dot_product_attention(*TOKENS, scale=0.5))


def test_sizes_are_any_integers():
    want = attention(*TOKENS, grid=(2, 3), kernel_size=3)
    close(attention(*TOKENS, grid=(np.int64(2), torch.tensor(3)), kernel_size=np.int32(3)), want)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((6, 5, 4), (4, 7, 4), (4, 7, 4)), "key: 4 heads, expected a divisor of query's 6"),
        (((6, 5, 4), (2, 7, 4), (3, 7, 4)), "value: 3 heads, expected key's 2"),
        (((5, 4), (2, 7, 4), (2, 7, 4)), r"query: shape \(5, 4\), expected an axis of heads"),
    ],
)
def test_bad_groups_get_one_clear_error(shapes, message):
    with pytest.raises(ValueError, match=message):
        attention(*(torch.zeros(shape) for shape in shapes), enable_gqa=True)
