"""The residual stream of a network: where to read it, and statistics of it streamed over a loader."""

from alternet.analysis.features.streaming import Statistic, feature_statistics
from alternet.analysis.features.taps import Tap, observe, taps

__all__ = ["Statistic", "Tap", "feature_statistics", "observe", "taps"]
