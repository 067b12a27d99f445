"""What Park & Kim, "How Do Vision Transformers Work?" (ICLR 2022, arXiv 2202.06709), report; read off their poster.

Networks of the Fourier and variance figures: ResNet-50 and ViT-Ti, trained on ImageNet.
"""

from __future__ import annotations

from itertools import pairwise

# Δ log amplitude at 1.0π after the stem and after every block, stage by stage.
RESNET_STEM = -6.60
RESNET_STAGES = (
    (-5.63, -5.42, -5.23),
    (-3.51, -3.72, -3.64, -3.66),
    (-2.61, -2.84, -2.79, -2.69, -2.52, -2.57),
    (-1.03, -1.09, -1.03),
)
RESNET_STEPS = tuple(
    round(after - before, 2)
    for stage in ((RESNET_STEM, *RESNET_STAGES[0]), *RESNET_STAGES[1:])  # the stem has the first stage's map size
    for before, after in pairwise(stage)
)

# What each sub-block adds to Δ log amplitude at 1.0π, layer by layer.
VIT_MSA_STEPS = (-0.11, 0.48, 0.37, -0.14, -0.18, -0.21, -0.12, -0.14, -0.03, 0.01, -0.10, -0.02)
VIT_MLP_STEPS = (-0.76, -0.37, -0.20, 0.01, 0.21, 0.13, 0.18, 0.13, 0.08, 0.05, -0.09, 0.30)

# CIFAR-100 test accuracy, per cent.
ACCURACY = {"AlterNet": 84.02, "ResNet": 82.48, "Swin": 76.70, "PiT": 76.04, "ViT": 66.51, "Mixer": 64.41}

# Where the Hessian max-eigenvalue spectra have their peaks.
SPECTRA_PEAKS = {"ViT": (-31, 36), "ResNet": (294,), "AlterNet": (287,)}
