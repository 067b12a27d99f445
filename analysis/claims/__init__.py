"""The paper's claims, judged on the numbers at hand.

Every claim is one statistic and a side of a threshold. It is *supported* where the statistic's whole 95 % bootstrap
interval lies on that side, *not supported* where none of it does, and *undecided* otherwise.

Resampled are mini-batches (the same for both networks) for eigenvalues, test images for accuracies, and test images
and sub-blocks together for what a kind of sub-block does; fewer than six mini-batches or images decide nothing.
Intervals therefore say how the numbers of *these* networks would vary with other data of the same kind; they know
nothing of networks from another seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alternet.analysis.claims.accuracy import judge_accuracy
from alternet.analysis.claims.claim import Claim, Verdict, save_claims, verdict
from alternet.analysis.claims.hessian import judge_spectra, judge_study
from alternet.analysis.claims.sub_blocks import CASES, judge_sub_blocks
from alternet.analysis.features.per_image import PerImage
from alternet.analysis.studies.spectra import SpectraResult

__all__ = ["CASES", "Claim", "Verdict", "judge", "judge_study", "save_claims", "verdict"]


def judge(
    spectra: Mapping[str, SpectraResult], per_image: Mapping[str, PerImage], *, seed: int = 0
) -> tuple[Claim, ...]:
    """The claims that can be judged, in the paper's order.

    Both mappings have networks by the names "resnet", "vit" and "alternet". Claims on one that is missing are left out,
    as are those on kinds of sub-blocks that it does not have.
    """
    rng = np.random.default_rng(seed)
    return (
        *judge_spectra(spectra, rng),
        *judge_sub_blocks(per_image, rng),
        *judge_accuracy(per_image, rng),
    )
