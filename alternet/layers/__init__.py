"""Layers on ``alternet.kernels``: twice differentiable in every mode, for AlterNet and for models of others."""

from .token_attention import Attention, replace_attention
from .window_attention import WindowAttention2d, relative_position_bias, window_attention

__all__ = ["Attention", "WindowAttention2d", "relative_position_bias", "replace_attention", "window_attention"]
