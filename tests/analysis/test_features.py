"""Taps read the residual stream, the stream is averaged right, and a stopped pass ends with the same numbers."""

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import nn

from alternet import AlterNet, BasicBlock
from alternet.analysis.features import Tap, feature_statistics, observe, taps
from alternet.analysis.features.fourier import Fourier
from alternet.analysis.features.variance import Variance


def small_vit(**options):
    torch.manual_seed(0)
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5} | options
    model = VisionTransformer(**options).double().eval()
    for parameter in model.parameters():  # the default initialisation leaves the branches near 0
        nn.init.normal_(parameter, std=0.3)
    return model


def small_alternet():
    torch.manual_seed(0)
    options = {"widths": (8, 8, 12, 16), "num_heads": (1, 1, 1, 2), "head_dim": 8, "window_size": 4}
    return AlterNet(BasicBlock, (2, 2, 2, 2), (0, 1, 1, 1), num_classes=5, stem_pool=False, **options).eval()


def streams(model, images):
    """Every tap's name -> the maps read there in one forward pass."""
    seen = {}
    with torch.no_grad(), observe(model, lambda tap, maps: seen.update({tap.name: maps.clone()})):
        model(images)
    return seen


def batches(sizes=(3, 3, 2), side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, 3, side, side, generator=generator), torch.zeros(size)) for size in sizes]


def on_grid(tokens, prefix, height, width):
    """[B, prefix + HW, C] -> [B, C, H, W], pixel by pixel."""
    maps = torch.empty(len(tokens), tokens.shape[2], height, width, dtype=tokens.dtype)
    for h in range(height):
        for w in range(width):
            maps[:, :, h, w] = tokens[:, prefix + h * width + w]
    return maps


class TestTaps:
    @pytest.mark.parametrize(
        ("name", "per_stage", "stage_names"),
        [
            ("resnet18", (2, 2, 2, 2), "layer{}.{}"),
            ("resnet50", (3, 4, 6, 3), "layer{}.{}"),
            ("seresnet50", (3, 4, 6, 3), "layer{}.{}"),
        ],
    )
    def test_resnets_have_one_tap_after_every_block(self, name, per_stage, stage_names):
        with torch.device("meta"):
            found = taps(timm.create_model(name))
        expected = [
            stage_names.format(stage, block) for stage, count in enumerate(per_stage, 1) for block in range(count)
        ]
        assert [tap.name for tap in found] == ["stem", *expected]
        assert [tap.kind for tap in found] == ["stem"] + ["conv"] * sum(per_stage)
        assert [tap.stage for tap in found] == [0, *np.repeat([1, 2, 3, 4], per_stage)]
        assert [tap.depth for tap in found] == pytest.approx(np.linspace(0, 1, 1 + sum(per_stage)))

    def test_pre_activation_resnets_count_their_stages_from_one(self):
        with torch.device("meta"):
            found = taps(timm.create_model("resnetv2_50"))
        assert [tap.stage for tap in found] == [0, *np.repeat([1, 2, 3, 4], (3, 4, 6, 3))]

    def test_transformers_have_two_taps_in_every_block(self):
        with torch.device("meta"):
            found = taps(timm.create_model("vit_tiny_patch16_224"))
        assert [tap.kind for tap in found] == ["stem"] + ["msa", "mlp"] * 12
        assert [tap.name for tap in found[:3]] == ["stem", "blocks.0.attn", "blocks.0.mlp"]
        assert {tap.stage for tap in found[1:]} == {1}

    def test_attention_blocks_of_alternet_are_msa(self):
        with torch.device("meta"):
            found = taps(timm.create_model("alternet_50"))
        kinds = "".join({"stem": "-", "conv": "c", "msa": "a"}[tap.kind] for tap in found)
        # blocks 3, 4, 6, 4 of which msa 0, 1, 3, 2: n - 2m convolutions, then m times (convolution, attention)
        assert kinds == "-" + "ccc" + "ccca" + "cacaca" + "caca"

    @pytest.mark.parametrize("model", [nn.Linear(2, 2), pytest.param("convit_tiny", id="convit")])
    def test_other_families_are_an_error_that_says_which_are_supported(self, model):
        model = timm.create_model(model) if isinstance(model, str) else model
        with pytest.raises(TypeError, match=rf"got {type(model).__name__}, expected a timm ResNet .* or an AlterNet"):
            taps(model)

    @pytest.mark.parametrize("block", [ParallelScalingBlock, ParallelThingsBlock])
    def test_blocks_without_a_stream_between_are_an_error(self, block):
        with pytest.raises(TypeError, match=rf"blocks\.0 is a {block.__name__}, expected"):
            taps(small_vit(block_fn=block))

    def test_a_block_with_a_forward_of_its_own_is_an_error(self):
        model = small_vit()

        class Reordered(type(model.blocks[1])):
            def forward(self, x):
                x = x + self.mlp(self.norm2(x))
                return x + self.attn(self.norm1(x))

        model.blocks[1].__class__ = Reordered
        with pytest.raises(TypeError, match=r"blocks\.1 is a Reordered"):
            taps(model)


class TestObserve:
    """The streams against each family's forward pass, written out."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"init_values": 0.5, "drop_path_rate": 0.3},
            {"reg_tokens": 3, "no_embed_class": True},
            {"class_token": False, "global_pool": "avg"},
            {"pre_norm": True},
        ],
        ids=["plain", "layer scale", "registers", "no class token", "pre-norm"],
    )
    def test_vit_sub_blocks(self, options):
        model = small_vit(**options)
        images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
        seen = streams(model, images)
        prefix = model.num_prefix_tokens
        with torch.no_grad():
            x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
            torch.testing.assert_close(seen["stem"], on_grid(x, prefix, 4, 4))
            previous = seen["stem"]
            for number, block in enumerate(model.blocks):
                for name, branch in (
                    ("attn", lambda x, block=block: block.ls1(block.attn(block.norm1(x)))),
                    ("mlp", lambda x, block=block: block.ls2(block.mlp(block.norm2(x)))),
                ):
                    stream, added = seen[f"blocks.{number}.{name}"], branch(x)
                    assert added.abs().max() > 0.01
                    torch.testing.assert_close(stream - previous, on_grid(added, prefix, 4, 4))
                    x, previous = x + added, stream

    def test_vit_with_norms_behind_the_branches(self):
        model = small_vit(block_fn=ResPostBlock)
        images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
        seen = streams(model, images)
        with torch.no_grad():
            x = model._pos_embed(model.patch_embed(images))
            for number, block in enumerate(model.blocks):
                x = x + block.norm1(block.attn(x))
                torch.testing.assert_close(seen[f"blocks.{number}.attn"], on_grid(x, 1, 4, 4))
                x = x + block.norm2(block.mlp(x))
                torch.testing.assert_close(seen[f"blocks.{number}.mlp"], on_grid(x, 1, 4, 4))

    def test_distilled_deit_drops_both_tokens(self):
        model = timm.create_model(
            "deit_tiny_distilled_patch16_224", img_size=(8, 12), patch_size=4, embed_dim=24, depth=1, num_heads=2
        ).eval()
        images = torch.randn(2, 3, 8, 12)
        seen = streams(model, images)
        tokens = model.forward_intermediates(images, indices=[0], norm=False, intermediates_only=True)[0]
        assert model.num_prefix_tokens == 2
        assert seen["blocks.0.mlp"].shape == (2, 24, 2, 3)
        torch.testing.assert_close(seen["blocks.0.mlp"], tokens)

    def test_the_grid_follows_the_image_where_the_model_does(self):
        model = small_vit(dynamic_img_size=True)
        seen = streams(model, torch.randn(2, 3, 8, 24, dtype=torch.float64))
        assert {tuple(maps.shape) for maps in seen.values()} == {(2, 24, 2, 6)}

    @pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnetv2_18"])
    def test_resnet_blocks(self, name):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, zero_init_last=False).eval()
        images = torch.randn(2, 3, 64, 64)
        seen = streams(model, images)
        with torch.no_grad():
            if name == "resnetv2_18":
                x = model.stem(images)
                stages = [(f"stages.{i}.blocks", stage.blocks) for i, stage in enumerate(model.stages)]
            else:
                x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
                stages = [(f"layer{i}", getattr(model, f"layer{i}")) for i in range(1, 5)]
            torch.testing.assert_close(seen.pop("stem"), x)
            for path, stage in stages:
                for number, block in enumerate(stage):
                    x = block(x)
                    torch.testing.assert_close(seen.pop(f"{path}.{number}"), x)
        assert not seen

    def test_alternet_blocks_add_their_branch(self):
        model = small_alternet()
        images = torch.randn(2, 3, 16, 16)
        seen = streams(model, images)
        with torch.no_grad():
            torch.testing.assert_close(seen["stem"], model.layer0(images))
            for name, before in (("layer1.1", "layer1.0"), ("layer2.1", "layer2.0"), ("layer4.1", "layer4.0")):
                block = model.get_submodule(name)
                added = block.branch(block.activate(seen[before]))
                torch.testing.assert_close(seen[name] - seen[before], added, rtol=1e-4, atol=1e-5)

    def test_hooks_are_gone_after_an_error(self):
        model = small_vit()

        def fail(tap, maps):
            raise RuntimeError("stop here")

        with pytest.raises(RuntimeError, match="stop here"), observe(model, fail):
            model(torch.zeros(1, 3, 16, 16, dtype=torch.float64))
        model(torch.zeros(1, 3, 16, 16, dtype=torch.float64))
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def test_dropped_patches_are_an_error(self):
        model = small_vit(patch_drop_rate=0.5).train()
        with pytest.raises(ValueError, match="got 8 patch tokens, expected 4 x 4"):
            streams(model, torch.zeros(1, 3, 16, 16, dtype=torch.float64))


class Stopped(Exception):
    """What stands for a kill in the tests."""


class TestFeatureStatistics:
    def test_every_image_weighs_the_same(self):
        model = small_vit()
        data = batches((3, 2))
        (variance,) = feature_statistics(model, data, [Variance()], network="ViT")
        every = streams(model, torch.cat([images for images, _ in data]).double())
        assert variance.images == 5
        for tap, value in zip(variance.taps, variance.variance, strict=True):
            assert value == pytest.approx(every[tap.name].var((-2, -1)).mean().item(), rel=1e-12)

    def test_sums_are_float64_for_a_float32_network(self):
        model = small_alternet()
        data = batches((2,) * 3)
        (variance,) = feature_statistics(model, data, [Variance()], network="AlterNet")
        per_batch = [streams(model, images)["layer1.1"].double().var((-2, -1)).mean().item() for images, _ in data]
        index = [tap.name for tap in variance.taps].index("layer1.1")
        assert variance.variance[index] == pytest.approx(np.mean(per_batch), rel=1e-6)

    def test_half_precision_networks_are_read_in_float32(self):
        model = small_vit().to(torch.bfloat16)
        fourier, variance = feature_statistics(model, batches((2,)), [Fourier(), Variance()], network="ViT")
        reference = streams(model, batches((2,))[0][0].bfloat16())["blocks.0.attn"].double()
        assert variance.variance[1] == pytest.approx(reference.var((-2, -1)).mean().item(), rel=1e-5)
        spectrum = (torch.fft.fft2(reference).abs() + 1e-6).log().mean((0, 1)).diagonal()
        assert fourier.log_amplitudes[1] == pytest.approx(spectrum[:3].numpy(), abs=1e-4)

    def test_the_model_comes_back_as_it_was(self):
        model = small_alternet().train()
        model.layer2.eval()
        modes = [module.training for module in model.modules()]
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        feature_statistics(model, batches((2,)), [Variance()], network="AlterNet")
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        bad = [(torch.full((2, 3, 16, 16), torch.nan), None)]
        with pytest.raises(ValueError, match="not finite"):
            feature_statistics(model, bad, [Variance()], network="AlterNet")
        assert [module.training for module in model.modules()] == modes
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def test_progress_counts_batches(self):
        calls = []
        feature_statistics(
            small_vit(),
            batches(),
            [Variance()],
            network="ViT",
            progress=lambda done, total: calls.append((done, total)),
        )
        assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def test_images_of_two_sizes_are_an_error(self):
        model = small_vit(dynamic_img_size=True)
        with pytest.raises(ValueError, match="batch 1 has feature maps of other sizes than batch 0"):
            feature_statistics(model, batches((2,)) + batches((2,), side=24), [Variance()], network="ViT")

    def test_no_batches_are_an_error(self):
        with pytest.raises(ValueError, match="batches: got none"):
            feature_statistics(small_vit(), [], [Variance()], network="ViT")


class TestResume:
    statistics = (Fourier(), Variance())

    def run(self, path, stop_after=None, data=None, model=None, statistics=statistics):
        """One pass, ended by an exception after that many batches; how many forward passes there were."""
        model = model or small_alternet()
        passes = []
        model.register_forward_hook(lambda *_: passes.append(1))

        def progress(done, total):
            if done == stop_after:
                raise Stopped

        results = None
        try:
            results = feature_statistics(
                model, data or batches(), statistics, network="AlterNet", out=path, progress=progress
            )
        except Stopped:
            assert stop_after is not None
        return results, len(passes)

    @pytest.mark.parametrize("stop_after", [1, 2, 3])
    def test_a_stopped_pass_ends_with_the_same_numbers(self, tmp_path, stop_after):
        (fourier, variance), passes = self.run(None)
        assert passes == 3
        path = tmp_path / "new folder" / "sums.jsonl"
        assert self.run(path, stop_after) == (None, stop_after)
        (again_fourier, again_variance), passes = self.run(path)
        assert passes == 3 - stop_after
        assert again_fourier.images == again_variance.images == 8
        np.testing.assert_array_equal(variance.variance, again_variance.variance)
        for values, again in zip(fourier.log_amplitudes, again_fourier.log_amplitudes, strict=True):
            np.testing.assert_array_equal(values, again)
        assert [entry.name for entry in path.parent.iterdir()] == ["sums.jsonl"]

    def test_a_line_that_was_being_written_is_computed_again(self, tmp_path):
        (_, expected), _ = self.run(None)
        path = tmp_path / "sums.jsonl"
        self.run(path, 2)
        path.write_bytes(path.read_bytes()[:-20])
        (_, variance), passes = self.run(path)
        assert passes == 2
        np.testing.assert_array_equal(variance.variance, expected.variance)

    def test_another_model_is_an_error(self, tmp_path):
        path = tmp_path / "sums.jsonl"
        self.run(path, 1)
        model = small_alternet()
        with torch.no_grad():
            model.layer1[0].bn.bias[0] += 1e-6
        with pytest.raises(ValueError, match=r"sums\.jsonl belongs to another study: weights was"):
            self.run(path, model=model)

    @pytest.mark.parametrize("options", [{"num_heads": 4}, {"act_layer": nn.ReLU}], ids=["settings", "structure"])
    def test_another_network_with_the_same_weights_is_an_error(self, tmp_path, options, request):
        path = tmp_path / "sums.jsonl"
        model, other = small_vit(), small_vit(**options)
        other.load_state_dict(model.state_dict())
        feature_statistics(model, batches(), [Variance()], network="ViT", out=path)
        feature_statistics(model.train(), batches(), [Variance()], network="ViT", out=path)
        with pytest.raises(ValueError, match=rf"another study: .*{request.node.callspec.id} was \S+ and is"):
            feature_statistics(other, batches(), [Variance()], network="ViT", out=path)

    def test_a_row_that_two_processes_wrote_is_not_counted_twice(self, tmp_path):
        path = tmp_path / "sums.jsonl"
        self.run(path)
        path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
        with pytest.raises(ValueError, match=r"sums\.jsonl holds 4 rows, expected at most 3; remove it"):
            self.run(path)

    def test_other_statistics_are_read_off_the_same_sums(self, tmp_path):
        path = tmp_path / "sums.jsonl"
        (exact, _), passes = self.run(path)
        (paper,), more_passes = self.run(path, statistics=(Fourier(axis="paper"),))
        assert (passes, more_passes) == (3, 0)
        np.testing.assert_array_equal(paper.log_amplitudes[0], exact.log_amplitudes[0][: len(paper.frequencies[0])])

    def test_other_images_are_an_error(self, tmp_path):
        path = tmp_path / "sums.jsonl"
        self.run(path, 2)
        with pytest.raises(ValueError, match=r"sums\.jsonl holds other images as batch 1"):
            self.run(path, data=[batches()[0], *batches(seed=1)[1:]])
        with pytest.raises(ValueError, match="another study: batches was 3 and is 2"):
            self.run(path, data=batches((3, 3)))


def test_a_tap_is_its_row_in_a_result_file():
    tap = taps(small_vit())[1]
    assert Tap.from_row({**vars(tap), "variance": 1.0}) == tap
    with pytest.raises(KeyError):
        Tap.from_row({"name": "stem"})
