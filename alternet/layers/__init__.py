"""Layers on ``alternet.kernels``: twice differentiable in every mode, for AlterNet and for models of others."""

from .tokens import Attention
from .windows import WindowAttention2d, relative_position_bias

__all__ = ["Attention", "WindowAttention2d", "relative_position_bias"]
