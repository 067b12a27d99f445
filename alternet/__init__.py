"""Second-order kernels, AlterNet and the analysis of "How Do Vision Transformers Work?" (Park & Kim, ICLR 2022).

Importing this package registers ``alternet_18`` … ``alternet_152`` with timm. ``alternet.kernels`` holds the
operators, ``alternet.layers`` layers made of them, ``alternet.analysis`` the studies (imported when asked for).
"""

from importlib.metadata import version

from .blocks import AttentionBlock, BasicBlock, Bottleneck
from .networks import AlterNet
from .registry import alternet_18, alternet_34, alternet_50, alternet_101, alternet_152

__version__ = version("alternet")

__all__ = [
    "AlterNet",
    "AttentionBlock",
    "BasicBlock",
    "Bottleneck",
    "alternet_18",
    "alternet_34",
    "alternet_50",
    "alternet_101",
    "alternet_152",
]
