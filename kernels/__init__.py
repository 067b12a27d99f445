"""Fused operators of vision networks with every derivative: reverse, forward, and both over both.

Which implementation runs is decided by the tensors' device
(``available_backends``) and can be overridden (``use_backend``).
"""

if __name__ != "alternet.kernels":
    raise ImportError(
        f"this folder was imported as {__name__!r}; import it as alternet.kernels "
        "(the bare name `kernels` belongs to another package on PyPI)"
    )

from .activation import gelu, relu
from .attention import attention
from .backends import available_backends, use_backend
from .batch_norm import batch_norm
from .convolution import convolution
from .cross_entropy import cross_entropy
from .feature_spectrum import SpectrumAccumulator, feature_spectrum
from .frequency_noise import frequency_noise
from .interception import second_order, second_order_model
from .layer_norm import layer_norm
from .linear import linear
from .matrix_product import tile_products
from .window_attention import window_attention

__all__ = [
    "SpectrumAccumulator",
    "attention",
    "available_backends",
    "batch_norm",
    "convolution",
    "cross_entropy",
    "feature_spectrum",
    "frequency_noise",
    "gelu",
    "layer_norm",
    "linear",
    "relu",
    "second_order",
    "second_order_model",
    "tile_products",
    "use_backend",
    "window_attention",
]
