"""The studies of Park & Kim, "How Do Vision Transformers Work?" (ICLR 2022), on any timm network and any images.

``curvature`` has the Hessian as a linear operator, ``solvers`` its eigenvalues, density and trace, ``distributed`` both
over many processes. ``landscape`` is the loss around the weights, ``features`` reads feature maps, ``interventions``
measures what changes cost. ``training`` makes the networks, ``studies`` are the whole jobs, ``claims`` what they say of
the paper's; ``figures`` and ``pages`` show it, ``commands`` is ``python -m alternet``.
"""

if __name__ != "alternet.analysis":
    raise ImportError(f"this folder was imported as {__name__!r}; import it as alternet.analysis")

from .curvature.gauss_newton import GaussNewtonOperator
from .curvature.hessian import HessianOperator
from .curvature.symmetry import AsymmetryError, Symmetry
from .features.fourier import Fourier, FourierResult
from .features.similarity import SimilarityResult, layer_similarities, layer_similarity
from .features.streaming import feature_statistics
from .features.variance import Variance, VarianceResult
from .interventions.lesion import LesionResult, lesion_study
from .interventions.noise import NoiseResult, noise_robustness
from .landscape.loss import loss_landscape
from .landscape.plane import Plane, random_plane
from .landscape.result import LandscapeResult
from .memory import keep_freed_memory
from .solvers.density import SpectralDensity, spectral_density
from .solvers.lanczos import TopEigenvalues, top_eigenvalues
from .solvers.trace import Moments, moments
from .studies.spectra import Estimate, SpectraResult, ape, hessian_spectra, nep
from .studies.training_spectra import Snapshot, spectra_over_training

__all__ = [
    "AsymmetryError",
    "Estimate",
    "Fourier",
    "FourierResult",
    "GaussNewtonOperator",
    "HessianOperator",
    "LandscapeResult",
    "LesionResult",
    "Moments",
    "NoiseResult",
    "Plane",
    "SimilarityResult",
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
    "keep_freed_memory",
    "layer_similarities",
    "layer_similarity",
    "lesion_study",
    "loss_landscape",
    "moments",
    "nep",
    "noise_robustness",
    "random_plane",
    "spectra_over_training",
    "spectral_density",
    "top_eigenvalues",
]
