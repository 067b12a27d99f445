"""Figure 1: the loss on a plane through the weights of a trained network."""

from __future__ import annotations

from alternet.analysis.landscape.loss import loss_landscape
from alternet.analysis.landscape.plane import Plane, random_plane
from alternet.analysis.landscape.result import LandscapeResult

__all__ = ["LandscapeResult", "Plane", "loss_landscape", "random_plane"]
