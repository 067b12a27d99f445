"""``alternet`` with toy networks in place of the poster's three, as a script that tests can start and kill."""

from __future__ import annotations

import sys

import torch

from alternet.analysis.cli import main
from alternet.analysis.studies import hessian_study, poster
from alternet.analysis.training.networks import Network


def tiny_networks(image_size: int, num_classes: int) -> tuple[Network, ...]:
    both = {"img_size": image_size, "num_classes": num_classes}
    convolutional = {
        **both,
        "stem_pool": False,
        "window_size": 2,
        "widths": [4, 4, 4, 4],
        "num_heads": [1, 1, 1, 1],
        "head_dim": 4,
    }
    transformer = {**both, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3}
    return (
        Network("resnet", "alternet_18", {**convolutional, "msa_depths": [0, 0, 0, 0]}),
        Network("vit", "vit_tiny_patch16_224", transformer),
        Network("alternet", "alternet_18", {**convolutional, "msa_depths": [0, 1, 1, 1]}),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    poster.poster_networks = hessian_study.poster_networks = tiny_networks
    sys.exit(main())
