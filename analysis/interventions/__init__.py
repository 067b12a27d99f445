"""What a network loses in accuracy when something is changed: noise on its images, or one unit of it removed."""

from alternet.analysis.interventions.accuracy import Outcomes, drop
from alternet.analysis.interventions.lesion import LesionResult, Unit, lesion_study, removed, units
from alternet.analysis.interventions.noise import NoiseResult, noise_robustness

__all__ = [
    "LesionResult",
    "NoiseResult",
    "Outcomes",
    "Unit",
    "drop",
    "lesion_study",
    "noise_robustness",
    "removed",
    "units",
]
