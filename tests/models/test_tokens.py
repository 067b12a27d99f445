"""timm's attention on our kernels: the same results, the same state dict, and second derivatives."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention as TimmAttention
from torch import nn

from alternet.kernels import second_order_model
from alternet.layers import Attention

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


def test_builds_a_vit(images):
    try:
        model = timm.create_model("vit_tiny_patch16_224", **TINY, attn_layer=Attention).double()
    except TypeError as error:
        pytest.skip(f"timm {timm.__version__}: {error}")
    assert [type(block.attn) for block in model.blocks] == [Attention, Attention]
    assert model(images).shape == (3, 4)


def test_bfloat16_autocast(images):
    plain = timm.create_model("vit_tiny_patch16_224", **TINY, qk_norm=True).eval()
    ours = second_order_model(copy.deepcopy(plain))
    with torch.autocast("cpu", torch.bfloat16):
        got, want = ours(images.float()), plain(images.float())
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), plain.double()(images), rtol=0.05, atol=0.05)  # 8 bits, two blocks


def test_attention_dropout_is_not_dropped_in_silence(tokens):
    layer = Attention(24, num_heads=3, attn_drop=0.1).double()
    with pytest.raises(NotImplementedError, match=r"attn_drop is 0.1 .*model.eval\(\)"):
        layer(tokens)
    assert layer.eval()(tokens).shape == tokens.shape


@pytest.mark.parametrize("shape", [(7, 24), (2, 7, 23), (2, 3, 7, 24)])
def test_wrong_tokens(shape):
    with pytest.raises(ValueError, match=r"x must be \[batch, tokens, 24\], got"):
        Attention(24, num_heads=3)(torch.zeros(shape))
