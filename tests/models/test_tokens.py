"""timm's attention on our kernels: the same results, the same state dict, and second derivatives."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention as TimmAttention
from torch import nn
from torch.func import functional_call, grad, jvp

from alternet.layers import Attention, replace_attention

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 4}


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"qkv_bias": True, "qk_norm": True, "norm_layer": nn.LayerNorm},
        {"attn_head_dim": 5, "dim_out": 10},
        {"scale_norm": True, "norm_layer": nn.LayerNorm},
        {"gated": True},
    ],
)
def test_is_timms(arguments, tokens):
    try:
        theirs = TimmAttention(24, num_heads=3, **arguments).double().eval()
    except TypeError as error:
        pytest.skip(f"timm {timm.__version__}: {error}")
    ours = Attention(24, num_heads=3, **arguments).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["boolean", "additive", "causal"])
def test_masks(kind, tokens):
    layer = Attention(24, num_heads=3).double().eval()
    seen = torch.rand(7, 7, generator=torch.Generator().manual_seed(2)) > 0.4
    seen |= torch.eye(7, dtype=torch.bool)
    arguments = {
        "boolean": {"attn_mask": seen},
        "additive": {"attn_mask": torch.where(seen, 0.3, -torch.inf).double()},
        "causal": {"is_causal": True},
    }[kind]
    query, key, value = layer.qkv(tokens).reshape(2, 7, 3, 3, 8).permute(2, 0, 3, 1, 4)
    inner = F.scaled_dot_product_attention(query, key, value, **arguments)
    expected = layer.proj(inner.transpose(1, 2).reshape(2, 7, 24))
    torch.testing.assert_close(layer(tokens, **arguments), expected, rtol=1e-12, atol=1e-13)


def test_replace_attention_in_place(images):
    model = timm.create_model("vit_tiny_patch16_224", **TINY).double().eval()
    expected, names = model(images), list(model.state_dict())
    parameters = list(model.parameters())
    calls = []
    model.blocks[0].attn.register_forward_hook(lambda *_: calls.append(1))

    assert replace_attention(model) is model

    assert [type(block.attn) for block in model.blocks] == [Attention, Attention]
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)
    assert calls == [1]  # hooks stay
    assert replace_attention(model) is model  # a second time changes nothing


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", TINY),
        ("vit_tiny_patch16_224", TINY | {"class_token": False, "global_pool": "map"}),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 16, "patch_size": 4, "window_size": 2, "embed_dim": 8, "depths": (2,), "num_heads": (2,)}
            | {"num_classes": 4},
        ),
    ],
    ids=["vit", "vit-attention-pooling", "swin"],
)
def test_hessian_of_timm_models(name, arguments, images):
    """Hessian-vector products of a converted model: forward over reverse, against reverse over reverse."""
    torch.manual_seed(0)
    model = replace_attention(timm.create_model(name, **arguments).double().eval())
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    vector = {key: torch.randn(p.shape, dtype=p.dtype, generator=generator) for key, p in parameters.items()}

    def loss(parameters):
        return functional_call(model, parameters, (images,)).logsumexp(-1).square().sum()

    _, forward = jvp(grad(loss), (parameters,), (vector,))
    leaves = {key: value.clone().requires_grad_() for key, value in parameters.items()}
    gradient = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(gradient, vector.values(), strict=True))
    reverse = torch.autograd.grad(inner, list(leaves.values()))
    for key, want in zip(leaves, reverse, strict=True):
        torch.testing.assert_close(forward[key], want, rtol=1e-8, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")
    assert sum(product.abs().sum() for product in reverse) > 1


def test_builds_a_vit(images):
    try:
        model = timm.create_model("vit_tiny_patch16_224", **TINY, attn_layer=Attention).double()
    except TypeError as error:
        pytest.skip(f"timm {timm.__version__}: {error}")
    assert [type(block.attn) for block in model.blocks] == [Attention, Attention]
    assert model(images).shape == (3, 4)


def test_bfloat16_autocast(images):
    plain = timm.create_model("vit_tiny_patch16_224", **TINY, qk_norm=True).eval()
    ours = replace_attention(copy.deepcopy(plain))
    with torch.autocast("cpu", torch.bfloat16):
        got, want = ours(images.float()), plain(images.float())
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), plain.double()(images), rtol=0.05, atol=0.05)  # 8 bits, two blocks


def test_models_without_attention_come_back_unchanged():
    model = timm.create_model("resnet10t", num_classes=3)
    before = copy.deepcopy(model.state_dict())
    after = replace_attention(model).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_attention_dropout_is_not_dropped_in_silence(tokens):
    layer = Attention(24, num_heads=3, attn_drop=0.1).double()
    with pytest.raises(NotImplementedError, match=r"attn_drop is 0.1 .*model.eval\(\)"):
        layer(tokens)
    assert layer.eval()(tokens).shape == tokens.shape


def test_unknown_parts_are_not_dropped_in_silence():
    model = nn.Sequential(TimmAttention(24, num_heads=3))
    model[0].sinks = nn.Parameter(torch.zeros(3))
    with pytest.raises(NotImplementedError, match=r"0: unknown parts of timm's Attention: \['sinks'\]"):
        replace_attention(model)


@pytest.mark.parametrize("shape", [(7, 24), (2, 7, 23), (2, 3, 7, 24)])
def test_wrong_tokens(shape):
    with pytest.raises(ValueError, match=r"x must be \[batch, tokens, 24\], got"):
        Attention(24, num_heads=3)(torch.zeros(shape))
