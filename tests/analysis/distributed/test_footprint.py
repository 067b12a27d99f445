"""The formulae of the paper table against timm's networks, and against bytes counted in small runs."""

import sys
from pathlib import Path

import pytest
import timm
import torch

from alternet.analysis.curvature.hessian import HessianOperator
from alternet.analysis.distributed.footprint import BESIDE, NETWORKS, Footprint, ViT, table

from . import toys
from .launched import run

RANKS = 3
SMALL = {
    "narrow": ViT(width=48, depth=1, heads=3, image_size=32, patch_size=4, classes=10),
    "deep": ViT(width=48, depth=3, heads=6, image_size=32, patch_size=8, classes=10),
    "wide": ViT(width=96, depth=2, heads=3, image_size=32, patch_size=4, classes=10),
}


class Wide:
    """What stands for a network where a network's formulae are not asked for."""

    parameters = sum(parameter.numel() for parameter in toys.wide().parameters())


def build(vit):
    return timm.create_model(
        "vit_base_patch16_224",
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        img_size=vit.image_size,
        patch_size=vit.patch_size,
        num_classes=vit.classes,
    )


@pytest.mark.parametrize("vit", [*SMALL.values(), *NETWORKS.values()], ids=[*SMALL, *NETWORKS])
def test_parameters(vit):
    with torch.device("meta"):
        assert vit.parameters == sum(parameter.numel() for parameter in build(vit).parameters())


@pytest.mark.parametrize("images", [2, 5])
@pytest.mark.parametrize("vit", SMALL.values(), ids=SMALL)
def test_graph(vit, images):
    model = build(vit)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    data = torch.randn(images, 3, vit.image_size, vit.image_size), torch.arange(images) % vit.classes
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        op = HessianOperator(model, toys.LOSS, data, engine="graph")
        op @ torch.ones(op.shape[0])
    measured = sum(storage.nbytes() for storage in kept.values())
    assert Footprint(vit, 1, images, 1).graph == pytest.approx(measured, rel=1e-3)


def test_basis(tmp_path):
    paper = Footprint(Wide(), RANKS, 2, 20)
    beside = BESIDE * paper.slice
    *full, last = run("basis_bytes", RANKS, tmp_path)
    assert full == [paper.basis - beside] * (RANKS - 1)
    assert 0 <= paper.basis - beside - last < 32 * 4 * RANKS  # its slice is shorter by less than one entry a rank


def test_product(tmp_path):
    for peak in run("held", RANKS, tmp_path):
        assert peak == pytest.approx(Footprint(Wide(), RANKS, 2, 20).product, rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="counts written bytes in /proc")
def test_traffic(tmp_path):
    paper = Footprint(Wide(), RANKS, 2, 20)
    for written in run("sent", RANKS, tmp_path):
        assert written == pytest.approx(paper.traffic * 3 / 2, rel=2e-3)  # over gloo


def test_the_table_of_the_docs_is_this_one():
    text = (Path(__file__).parents[3] / "docs" / "distributed.md").read_text()
    assert table() in text
