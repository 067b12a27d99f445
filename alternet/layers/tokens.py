"""Attention on tokens, in place of timm's: the same module, on kernels that can be differentiated again."""

from __future__ import annotations

from timm.models.vision_transformer import Attention as TimmAttention
from torch import Tensor

from alternet.kernels import attention


class Attention(TimmAttention):
    """timm's multi-head self-attention (constructor, parameter names, results) on ``alternet.kernels.attention``.

    x: [B, N, dim] -> [B, N, dim_out]. ``timm.create_model("vit_…", attn_layer=Attention)`` builds a ViT with it,
    where timm is new enough to take the argument; ``alternet.kernels.second_order`` serves a model that exists.

    Raises:
        ValueError: ``x`` is not [B, N, dim].
        NotImplementedError: training with ``attn_drop`` > 0; the kernel has no dropout.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != self.qkv.in_features:
            raise ValueError(f"x must be [batch, tokens, {self.qkv.in_features}], got {list(x.shape)}")
        if self.training and self.attn_drop.p > 0:
            raise NotImplementedError(
                f"attn_drop is {self.attn_drop.p} and the module is in training mode, but this attention has no "
                "dropout of its weights: set attn_drop_rate=0, or call model.eval()"
            )
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.q_norm(query), self.k_norm(key)
        out = attention(query, key, value, attn_mask, scale=self.scale, is_causal=is_causal)
        out = out.transpose(1, 2).flatten(2)
        norm, gate = getattr(self, "norm", None), getattr(self, "gate", None)  # timm had neither at first
        if norm is not None:
            out = norm(out)
        if gate is not None:
            out = out * gate(x).sigmoid()
        return self.proj_drop(self.proj(out))
