"""The studies of Park & Kim, "How Do Vision Transformers Work?" (ICLR 2022), on any timm network and any images.

Data and training (``data``, ``batches``, ``training``), the figures (``spectra``, ``fourier``, ``variance``), the
judgement of the paper's claims (``claims``), and the job that does all of it (``poster``, ``python -m alternet``).
"""

if __name__ != "alternet.analysis":
    raise ImportError(f"this folder was imported as {__name__!r}; import it as alternet.analysis")

from .density import SpectralDensity, spectral_density
from .features.streaming import feature_statistics
from .fourier import Fourier, FourierResult
from .gauss_newton import GaussNewtonOperator
from .hessian import HessianOperator
from .lanczos import TopEigenvalues, top_eigenvalues
from .spectra import Estimate, SpectraResult, ape, hessian_spectra, nep
from .symmetry import AsymmetryError, Symmetry
from .trace import Moments, moments
from .training_spectra import Snapshot, spectra_over_training
from .variance import Variance, VarianceResult

__all__ = [
    "AsymmetryError",
    "Estimate",
    "Fourier",
    "FourierResult",
    "GaussNewtonOperator",
    "HessianOperator",
    "Moments",
    "Snapshot",
    "SpectraResult",
    "SpectralDensity",
    "Symmetry",
    "TopEigenvalues",
    "Variance",
    "VarianceResult",
    "ape",
    "feature_statistics",
    "hessian_spectra",
    "moments",
    "nep",
    "spectra_over_training",
    "spectral_density",
    "top_eigenvalues",
]
