"""The plane and the loss on it: against their definitions, the Hessian, and a pass that was stopped."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from alternet.analysis import HessianOperator, LandscapeResult, loss_landscape, random_plane

from .small_networks import build, inputs
from .test_evaluation import assert_same, in_use, state

SWIN = {"embed_dim": 4, "num_heads": (1,), "depths": (2,)}
NAMES = ["mlp", "convolutional", "norms", "vit", "transformer", "alternet"]


def batches_of(name, dtype=torch.float64, sizes=(3, 2)):
    """Batches of different sizes, with probabilities as targets."""
    images, targets = inputs(name, dtype)
    probabilities = torch.softmax(F.one_hot(targets, 3).to(dtype), 1)
    return list(zip(images.split(sizes), probabilities.split(sizes), strict=True))


def landscape(name, **arguments):
    given = {"network": name, "size": 3, "extent": 0.5, "weight_decay": 0.1} | arguments
    return loss_landscape(build(name), batches_of(name), **given)


def moved(model, plane, x, y):
    """A copy of the network with the weights of a point written into it."""
    model = copy.deepcopy(model).eval()
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.nn.utils.vector_to_parameters(flat + x * plane.first + y * plane.second, model.parameters())
    return model


class TestPlane:
    def test_every_filter_has_the_norm_of_that_of_the_weights(self):
        model = build("convolutional")
        plane = random_plane(model, seed=1)
        for direction in (plane.first, plane.second):
            for name, part in plane.parameters.split(direction).items():
                weight = model.get_parameter(name)
                for filter, of_weight in zip(part, weight, strict=True):
                    expected = 0.0 if weight.dim() == 1 else of_weight.norm().item()
                    assert filter.norm().item() == pytest.approx(expected, rel=1e-12)

    def test_the_authors_take_norms_over_the_first_axis(self):
        model = build("convolutional")
        plane = random_plane(model, normalize="paper")
        for name, part in plane.parameters.split(plane.first).items():
            weight = model.get_parameter(name).detach()
            if weight.dim() > 1:
                torch.testing.assert_close(part.norm(dim=0), weight.norm(dim=0))
                assert not torch.allclose(part.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1), rtol=0.01)

    def test_directions_are_random_and_fixed_by_the_seed(self):
        model = build("convolutional")
        first, again, other = (random_plane(model, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(first.first, again.first)
        assert torch.equal(first.second, again.second)
        large = [first.parameters.split(each)["4.weight"] for each in (first.first, first.second, other.first)]
        flat = [each.flatten() / each.norm() for each in large]  # 432 entries
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert abs(float(flat[a] @ flat[b])) < 0.2

    def test_the_precision_of_the_weights_changes_rounding_only(self):
        planes = [random_plane(build("vit", dtype)) for dtype in (torch.float32, torch.float64)]
        torch.testing.assert_close(planes[0].first.double(), planes[1].first, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize(
        ("model", "fixed"),
        [
            (build("vit"), {"pos_embed", "cls_token"}),
            (nn.Sequential(build("vit")), {"0.pos_embed", "0.cls_token"}),
            (build("alternet"), {"layer2.1.attn.pos_embedding"}),
            (
                timm.create_model("swin_tiny_patch4_window7_224", img_size=16, window_size=2, **SWIN),
                {f"layers.0.blocks.{i}.attn.relative_position_bias_table" for i in range(2)},
            ),
            (nn.ModuleDict({"position_embeddings": nn.Embedding(4, 2)}), {"position_embeddings.weight"}),
        ],
        ids=["vit", "vit inside", "alternet", "swin", "others"],
    )
    def test_position_embeddings_and_vectors_stay(self, model, fixed):
        plane = random_plane(model)
        still = {name for name, part in plane.parameters.split(plane.first).items() if not part.any()}
        vectors = {name for name, parameter in model.named_parameters() if parameter.dim() <= 1}
        assert still == vectors | fixed

    def test_the_centre_is_the_weights(self):
        model = build("alternet", torch.float32)
        for name, tensor in random_plane(model).at(0.0, 0.0).items():
            assert torch.equal(tensor, model.get_parameter(name))
            assert tensor.data_ptr() != model.get_parameter(name).data_ptr()

    def test_squared_norms(self):
        plane = random_plane(build("vit"), seed=2)
        x, y = np.array([-1.0, 0.0, 0.3]), np.array([-0.7, 2.0])
        found = plane.squared_norms(x, y)
        for (i, j), _ in np.ndenumerate(found[0]):
            expected = [tensor.square().sum().item() for tensor in plane.at(x[j], y[i]).values()]
            np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-12, atol=1e-14)


class TestLoss:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_is_that_of_a_network_with_these_weights(self, name):
        found = landscape(name, seed=3)
        model = build(name)
        plane = random_plane(model, seed=3)
        images, targets = (torch.cat(each) for each in zip(*batches_of(name), strict=True))
        np.testing.assert_array_equal(found.x, [-0.5, 0, 0.5])
        np.testing.assert_array_equal(found.y, [-0.5, 0, 0.5])
        for (i, j), nll in np.ndenumerate(found.nll):
            there = moved(model, plane, found.x[j], found.y[i])
            norms = torch.stack([parameter.norm() for parameter in there.parameters()])
            with torch.no_grad():
                expected = F.cross_entropy(there(images), targets).item()
            assert nll == pytest.approx(expected, rel=1e-10)
            assert found.l2[i, j] == pytest.approx(0.05 * norms.square().sum().item(), rel=1e-10)
            paper = replace(found, l2_form="paper")
            assert paper.l2[i, j] == pytest.approx(0.1 * norms.sum().item(), rel=1e-10)
            assert paper.loss[i, j] == nll + paper.l2[i, j]
        assert found.centre == found.loss[1, 1]
        assert (found.images, found.network, found.l2_form) == (5, name, "squared")

    def test_forms_of_l2(self):
        assert landscape("mlp", l2="paper").l2_form == "paper"
        assert not landscape("mlp", weight_decay=0.0).l2.any()

    @pytest.mark.parametrize("normalize", ["filter", "paper"])
    def test_its_second_differences_are_products_of_the_hessian(self, normalize):
        model, batches, step = build("vit"), batches_of("vit"), 1e-3
        found = landscape("vit", extent=step, normalize=normalize).loss
        plane = random_plane(model, normalize=normalize)
        hessian = HessianOperator(model, F.cross_entropy, batches, weight_decay=0.1)
        products = [hessian @ direction for direction in (plane.first, plane.second)]
        curvatures = {
            "x": ((found[1, 0] - 2 * found[1, 1] + found[1, 2]) / step**2, plane.first @ products[0]),
            "y": ((found[0, 1] - 2 * found[1, 1] + found[2, 1]) / step**2, plane.second @ products[1]),
            "both": (
                (found[0, 0] - found[0, 2] - found[2, 0] + found[2, 2]) / (4 * step**2),
                plane.first @ products[1],
            ),
        }
        scale = max(abs(float(expected)) for _, expected in curvatures.values())
        for direction, (difference, expected) in curvatures.items():
            assert difference == pytest.approx(float(expected), abs=1e-4 * scale), direction

    def test_frozen_parameters_neither_move_nor_count(self):
        model = build("mlp")
        model[1].weight.requires_grad_(False)
        found = loss_landscape(model, batches_of("mlp"), network="mlp", size=3, weight_decay=2.0)
        moving = sum(parameter.square().sum().item() for parameter in model.parameters() if parameter.requires_grad)
        assert found.l2[1, 1] == pytest.approx(moving)
        plane = random_plane(model)
        assert plane.parameters.tensors.keys() == {"1.bias", "4.weight", "4.bias"}

    @pytest.mark.parametrize("name", ["convolutional", "vit", "pooled vit"])
    def test_the_model_is_given_back_as_it_came(self, name):
        model = in_use(name)
        before = state(model)
        loss_landscape(model, batches_of("vit", torch.float32), network=name, size=3)
        assert_same(state(model), before)

        def broken(output, targets):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            loss_landscape(model, batches_of("vit"), network=name, size=3, loss=broken)
        assert_same(state(model), before)

    def test_it_overflows_far_away(self):
        model, batches = build("convolutional", torch.float32), batches_of("convolutional", torch.float32)
        found = loss_landscape(model, batches, network="convolutional", size=5, extent=1e20, weight_decay=0.1)
        assert np.isfinite(found.nll).sum() == 1
        assert np.isfinite(found.centre)
        assert np.isfinite(found.l2).all()

    def test_a_network_that_has_diverged(self):
        model = build("mlp")
        with torch.no_grad():
            model[4].bias[0] = torch.inf
        with pytest.raises(FloatingPointError, match=r"batch 0: the loss is (nan|inf) \(diverged weights"):
            loss_landscape(model, batches_of("mlp"), network="mlp")


class Counted(list):
    """Batches that count how often they are read."""

    def __init__(self, batches):
        super().__init__(batches)
        self.read = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.read += 1
            yield batch


class TestJournal:
    def run(self, path, name="convolutional", batches=None, **arguments):
        given = {"network": name, "size": 3, "extent": 0.5} | arguments
        return loss_landscape(build(name, torch.float32), batches or self.batches(), out=path, **given)

    def batches(self):
        return Counted(batches_of("convolutional", torch.float32, sizes=(2, 2, 1)))

    def test_it_resumes_behind_the_last_batch(self, tmp_path, monkeypatch):
        path = tmp_path / "landscape.jsonl"
        batches = self.batches()
        whole = self.run(path, batches=batches)
        assert batches.read == 3  # however many points there are
        content = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(content[:3]) + content[3][:40])  # the header, two batches, and what a kill left
        reports = []
        again = self.run(path, progress=lambda *report: reports.append(report))
        assert reports == [(18, 27), (21, 27), (24, 27), (27, 27)]
        np.testing.assert_array_equal(again.nll, whole.nll)
        assert path.read_bytes() == b"".join(content)

    def test_another_weight_decay_needs_no_new_pass(self, tmp_path):
        path = tmp_path / "landscape.jsonl"
        first, second = self.run(path), self.run(path, weight_decay=0.3, l2="paper")
        np.testing.assert_array_equal(first.nll, second.nll)
        assert second.centre > first.centre

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"size": 5}, "size was 3 and is 5"),
            ({"extent": 0.25}, "extent was 0.5 and is 0.25"),
            ({"normalize": "paper"}, 'normalize was "filter" and is "paper"'),
            ({"seed": 1}, "seed was 0 and is 1"),
            ({"loss": F.mse_loss}, 'loss was "cross_entropy" and is "mse_loss"'),
            ({"name": "alternet"}, "weights was"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_file_of_another_landscape(self, tmp_path, changed, message):
        path = tmp_path / "landscape.jsonl"
        self.run(path)
        with pytest.raises(ValueError, match=rf"landscape\.jsonl belongs to another study: .*{message}"):
            self.run(path, **changed)

    def test_file_of_other_batches_or_another_loss(self, tmp_path):
        path = tmp_path / "landscape.jsonl"
        self.run(path, loss=lambda output, targets: F.cross_entropy(output, targets))
        with pytest.raises(ValueError, match="holds batch 0 with another loss: it was"):
            self.run(path, loss=lambda output, targets: 2 * F.cross_entropy(output, targets))
        batches = self.batches()
        batches[1] = (batches[1][0] + 1, batches[1][1])
        with pytest.raises(ValueError, match=r"landscape\.jsonl holds other images or targets as batch 1; remove it"):
            self.run(path, batches=batches, loss=lambda output, targets: F.cross_entropy(output, targets))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 20}, "size: got 20, expected an odd number, 3 or more"),
        ({"size": 1}, "size: got 1, expected"),
        ({"extent": 0.0}, "extent: got 0.0, expected a finite number, more than 0"),
        ({"weight_decay": -1.0}, r"weight_decay: got -1.0, expected"),
        ({"normalize": "layer"}, r"normalize: expected one of \['filter', 'paper'\], got 'layer'"),
        ({"l2": "cubed"}, r"l2: expected one of \['squared', 'paper'\], got 'cubed'"),
        ({"loss": lambda output, targets: output}, r"loss: expected a floating-point scalar, got shape \[3, 3\]"),
        ({"loss": lambda output, targets: F.cross_entropy(output, targets, reduction="sum")}, "expected a mean over"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        landscape("mlp", **arguments)


def test_no_batches_are_an_error():
    with pytest.raises(ValueError, match="batches: got none"):
        loss_landscape(build("mlp"), [], network="mlp")


class TestResult:
    def test_files(self, tmp_path):
        found = landscape("mlp", l2="paper", seed=4)
        found.nll[0, 1] = np.nan
        found.save(tmp_path / "a.json")
        again = LandscapeResult.load(tmp_path / "a.json")
        assert json.loads((tmp_path / "a.json").read_text())["centre"] == found.centre == again.centre
        for name, value in vars(found).items():
            np.testing.assert_array_equal(getattr(again, name), value)
        found.save_csv(tmp_path / "a.csv")
        header, *rows = (tmp_path / "a.csv").read_text().splitlines()
        assert header == "network,x,y,nll,l2,loss"
        assert len(rows) == 9
        assert rows[1] == f"mlp,0.0,-0.5,nan,{found.l2[0, 1]},nan"
        assert rows[3] == f"mlp,-0.5,0.0,{found.nll[1, 0]},{found.l2[1, 0]},{found.loss[1, 0]}"

    def test_other_files_are_refused(self, tmp_path):
        (tmp_path / "a.json").write_text('{"kind": "alternet variance analysis"}')
        with pytest.raises(ValueError, match="expected a JSON file of kind 'alternet loss landscape'"):
            LandscapeResult.load(tmp_path / "a.json")
        (tmp_path / "a.json").write_text('{"kind": "alternet loss landscape", "network": "a"}')
        with pytest.raises(ValueError, match="it is not whole"):
            LandscapeResult.load(tmp_path / "a.json")
