"""Figure 7: what can be removed of which network, and that the network without it is the right one."""

import copy
import csv

import numpy as np
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models.resnet import Bottleneck, ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from alternet import AlterNet, blocks
from alternet.analysis import LesionResult, lesion_study
from alternet.analysis.features import taps
from alternet.analysis.interventions import removed, units

from .test_features import small_alternet, small_vit


def with_statistics(model):
    """Weights and norms away from their initial values, so that every branch counts."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.double().eval()


def small_resnet(name, **options):
    return with_statistics(timm.create_model(name, num_classes=5, **options))


def bottleneck_alternet():
    size = {"widths": [4] * 4, "num_heads": [1] * 4, "head_dim": 4, "window_size": 4, "stem_pool": False}
    return with_statistics(AlterNet(blocks.Bottleneck, (1, 2, 2, 1), (0, 1, 0, 0), num_classes=5, **size))


def resnetv2(**options):
    options = {"stem_chs": 8, "conv_layer": create_conv2d, "norm_layer": BatchNormAct2d, "num_classes": 5} | options
    return with_statistics(ResNetV2((2, 1, 2, 1), (8, 8, 12, 12), **options))


def silence(*modules):
    for module in modules:
        for parameter in module.parameters():
            parameter.data.zero_()


def on_paper(model, unit):
    """A copy of ``model`` without ``unit``, by its weights: zeros in the last layer of a branch, or no convolution."""
    without = copy.deepcopy(model)
    block = without.get_submodule(unit.name.removesuffix(".attn").removesuffix(".mlp"))
    if hasattr(block, "mlp"):
        if isinstance(block, ResPostBlock):
            silence(block.norm1 if unit.kind == "msa" else block.norm2)
        else:
            silence(block.attn.proj if unit.kind == "msa" else block.mlp.fc2)
    elif isinstance(block, blocks.AttentionBlock):
        silence(block.attn.attn.to_out[0])
    elif isinstance(block, blocks.Bottleneck):
        block.conv2[2] = nn.Identity()
    elif isinstance(block, blocks.BasicBlock):
        silence(block.conv2[2])
    elif hasattr(block, "conv3"):
        block.conv2 = nn.Identity()
    else:
        silence(block.bn2 if hasattr(block, "bn2") else block.conv2)
    return without


NETWORKS = {
    "vit": small_vit,
    "vit with layer scale": lambda: small_vit(init_values=0.5, drop_path_rate=0.3),
    "vit with norms behind": lambda: small_vit(block_fn=ResPostBlock),
    "resnet18": lambda: small_resnet("resnet18"),
    "seresnet18": lambda: small_resnet("seresnet18", drop_path_rate=0.2),
    "seresnet18 without drop path": lambda: small_resnet("seresnet18"),
    "resnet50": lambda: with_statistics(ResNet(Bottleneck, (2, 1, 1, 2), num_classes=5)),
    "resnetv2 of basic blocks": lambda: resnetv2(basic=True, bottle_ratio=1.0),
    "resnetv2": lambda: resnetv2(),
    "resnetv2 of bottlenecks activated behind": lambda: resnetv2(preact=False),
    "alternet": lambda: with_statistics(small_alternet()),
    "alternet of bottlenecks": bottleneck_alternet,
}


def hooks(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_without_a_unit(name):
    model = NETWORKS[name]()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    whole = model(images)
    assert units(model)
    for unit in units(model):
        with removed(model, unit):
            found = model(images)
        torch.testing.assert_close(found, on_paper(model, unit)(images))
        assert (found - whole).abs().max() > 1e-6 * whole.abs().max()
        assert torch.equal(model(images), whole)
    assert not hooks(model)


class TestUnits:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("resnet18", ["1.0", "1.1", "2.1", "3.1", "4.1"]),
            ("resnet26", ["1.0", "1.1", "2.1", "3.1", "4.1"]),
            # anti-aliasing subsamples behind the convolution, which keeps the size
            ("resnetblur50", [f"{i}.{j}" for i, n in enumerate((3, 4, 6, 3), 1) for j in range(n)]),
        ],
    )
    def test_resnets_lack_what_changes_the_shape(self, name, expected):
        with torch.device("meta"):
            found = units(timm.create_model(name))
        assert [unit.name for unit in found] == [f"layer{place}" for place in expected]
        assert {unit.removal for unit in found} == {"zero" if name == "resnet18" else "identity"}
        assert {unit.module.rpartition(".")[2] for unit in found} == {"bn2" if name == "resnet18" else "conv2"}

    def test_they_are_where_the_taps_behind_them_are(self):
        with torch.device("meta"):
            for name in ("vit_tiny_patch16_224", "resnet50", "alternet_50"):
                model = timm.create_model(name)
                places = {tap.name: tap for tap in taps(model)}
                for unit in units(model):
                    tap = places.pop(unit.name)
                    assert (unit.kind, unit.stage, unit.depth) == (tap.kind, tap.stage, tap.depth)

    def test_a_transformer_has_two_in_every_block(self):
        found = units(small_vit())
        assert [unit.name for unit in found] == ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"]
        assert [unit.kind for unit in found] == ["msa", "mlp"] * 2

    def test_attention_blocks_of_alternet_are_units(self):
        found = units(small_alternet())
        # the first blocks of stages 2 to 4 have a convolution as their shortcut
        assert [(unit.name, unit.kind) for unit in found] == [
            ("layer1.0", "conv"), ("layer1.1", "conv"), ("layer2.1", "msa"), ("layer3.1", "msa"), ("layer4.1", "msa")
        ]  # fmt: skip

    def test_other_networks_are_an_error(self):
        with pytest.raises(TypeError, match="got Linear, expected a timm ResNet"):
            units(nn.Linear(2, 2))
        with torch.device("meta"):
            other = timm.create_model("res2net50_26w_4s")
        with pytest.raises(TypeError, match=r"layer1\.0 is a Bottle2neck, expected blocks of two 3x3 convolutions or"):
            units(other)
        model = small_resnet("resnet18")

        class Reordered(type(model.layer1[1])):
            def forward(self, x):
                return super().forward(-x)

        model.layer1[1].__class__ = Reordered
        with pytest.raises(TypeError, match=r"layer1\.1 is a Reordered"):
            units(model)


def test_a_unit_comes_back_whatever_happens():
    model = small_vit()

    def fail():
        with removed(model, units(model)[0]):
            assert len(hooks(model)) == 1
            raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        fail()
    assert not hooks(model)


def batches(sizes=(4, 4, 2)):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 3, 16, 16, generator=generator), torch.randint(5, (size,), generator=generator))
        for size in sizes
    ]


class TestStudy:
    def test_it_is_the_accuracy_of_the_networks_on_paper(self):
        model = small_vit().train()
        found = lesion_study(model, batches(), network="ViT")
        images, targets = (torch.cat(parts) for parts in zip(*batches(), strict=True))
        assert model.training
        model.eval()
        with torch.no_grad():
            without = [on_paper(model, unit)(images.double()).argmax(1) == targets for unit in found.units]
            assert found.baseline.tolist() == (model(images.double()).argmax(1) == targets).tolist()
        assert found.correct.tolist() == [right.tolist() for right in without]
        assert (found.correct != found.baseline).any()
        np.testing.assert_allclose(
            [each.value for each in found.drops], 100 * (found.baseline.mean() - found.correct.mean(1)), atol=1e-12
        )

    def test_it_resumes_and_refuses_other_networks(self, tmp_path):
        path, model = tmp_path / "lesion.jsonl", small_alternet()
        whole = lesion_study(model, batches(), network="a", out=path)
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
        again = lesion_study(model, batches(), network="a", out=path)
        assert again.correct.tolist() == whole.correct.tolist()
        assert again.units == whole.units
        assert whole.boundaries == pytest.approx((2.5 / 8, 4.5 / 8, 6.5 / 8))
        model.layer1[0].conv1.weight.data.mul_(2)
        with pytest.raises(ValueError, match="belongs to another study: weights was"):
            lesion_study(model, batches(), network="a", out=path)

    def test_the_network_is_whole_again_where_it_fails(self):
        model = small_vit().train()
        hook = model.head.register_forward_hook(lambda module, inputs, output: output.isnan().any() or output)
        model.blocks[1].attn.register_forward_hook(lambda module, inputs, output: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lesion_study(model, batches(), network="a")
        assert model.training
        hook.remove()
        assert len(hooks(model)) == 1

    def test_a_network_without_units_is_an_error(self):
        model = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=5, block_reduce_first=2)
        with pytest.raises(ValueError, match="ResNet has no unit that can be removed, expected at least one"):
            lesion_study(model, batches(), network="a")

    def test_files_give_back_what_was_saved(self, tmp_path):
        saved = lesion_study(small_alternet(), batches(), network="AlterNet")
        saved.save(tmp_path / "lesion.json")
        loaded = LesionResult.load(tmp_path / "lesion.json")
        for name in ("network", "units", "boundaries", "drops"):
            assert getattr(loaded, name) == getattr(saved, name)
        np.testing.assert_array_equal(loaded.correct, saved.correct)
        saved.save_csv(tmp_path / "lesion.csv")
        rows = list(csv.DictReader((tmp_path / "lesion.csv").open()))
        assert [(row["unit"], row["kind"], float(row["accuracy"])) for row in rows] == [
            (unit.name, unit.kind, right.mean()) for unit, right in zip(saved.units, saved.correct, strict=True)
        ]
        (tmp_path / "other.json").write_text('{"kind": "alternet lesion study", "conditions": [{}]}')
        with pytest.raises(ValueError, match=r"other\.json: .* not whole: KeyError"):
            LesionResult.load(tmp_path / "other.json")
