"""Matplotlib pictures of results: one function per figure, result objects in, a PNG file out."""

from __future__ import annotations

from alternet.analysis.figures.density import draw_density, draw_eigenvalues
from alternet.analysis.figures.fourier import draw_fourier
from alternet.analysis.figures.landscape import draw_landscape
from alternet.analysis.figures.lesion import draw_lesion
from alternet.analysis.figures.moments import draw_moments
from alternet.analysis.figures.noise import draw_noise
from alternet.analysis.figures.similarity import draw_similarity
from alternet.analysis.figures.spectra import draw_spectra
from alternet.analysis.figures.training import draw_training
from alternet.analysis.figures.training_spectra import draw_estimates, draw_training_spectra
from alternet.analysis.figures.variance import draw_variance

__all__ = [
    "draw_density",
    "draw_eigenvalues",
    "draw_estimates",
    "draw_fourier",
    "draw_landscape",
    "draw_lesion",
    "draw_moments",
    "draw_noise",
    "draw_similarity",
    "draw_spectra",
    "draw_training",
    "draw_training_spectra",
    "draw_variance",
]
