"""Layer similarity: HSIC by its formula, CKA by its definition, its independence of the batch size, files, resume."""

import csv
import json
import math

import numpy as np
import pytest
import timm
import torch

from alternet.analysis.features import Tap, observe
from alternet.analysis.features.hsic import gram_matrix, hsic
from alternet.analysis.features.similarity import SimilarityResult, layer_similarities, layer_similarity
from alternet.analysis.training.networks import Network

from .small_networks import tiny_alternet

ALTERNET = tiny_alternet(4, 6, 8, 12)
VIT = Network(
    "vit",
    "vit_tiny_patch16_224",
    {"img_size": 8, "num_classes": 3, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2},
)


@pytest.fixture(scope="module")
def model():
    return ALTERNET.build(seed=1)


@pytest.fixture(scope="module")
def vit():
    return VIT.build(seed=2)


def batches(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, 3, 8, 8, generator=generator), torch.zeros(size)) for size in sizes]


def gram(features):
    return (features @ features.mT).double()


def random_features(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hsic_by_its_formula(first, second):
    n = len(first)
    k, other = first - torch.diag(first.diag()), second - torch.diag(second.diag())
    one = torch.ones(n, dtype=k.dtype)
    whole = (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    return ((k @ other).trace() + whole - 2 * (one @ k @ other @ one) / (n - 2)) / (n * (n - 3))


def biased_hsic(first, second):
    centring = torch.eye(len(first), dtype=first.dtype) - 1 / len(first)
    return (first @ centring @ second @ centring).trace() / (len(first) - 1) ** 2


def grams_by_tap(model, images):
    features = []
    with torch.no_grad(), observe(model, lambda tap, maps: features.append(maps.clone().double().flatten(1))):
        model(images)
    return [each @ each.T for each in features]


def cka_by_definition(model, other, data):
    """Pair by pair, from all features in float64; batches weigh as much as they have images."""
    weights = np.array([len(images) for images, _ in data])
    first, second = (
        list(zip(*(grams_by_tap(each, images) for images, _ in data), strict=True)) for each in (model, other)
    )

    def mean(grams, others):
        return weights @ [float(hsic_by_its_formula(*pair)) for pair in zip(grams, others, strict=True)]

    return np.array([[mean(k, x) / math.sqrt(mean(k, k) * mean(x, x)) for x in second] for k in first])


class TestHsic:
    @pytest.mark.parametrize("images", [4, 5, 11])
    def test_all_pairs_by_the_formula(self, images):
        first, second = gram(random_features(3, images, 6) + 2), gram(random_features(2, images, 4, seed=1))
        expected = [[hsic_by_its_formula(k, other) for other in second] for k in first]
        torch.testing.assert_close(
            hsic(first, second), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10
        )

    def test_it_has_no_bias(self):
        """Of independent features the mean is 0 within its scatter, and without the correction it is not."""
        first, second = gram(random_features(400, 5, 8)), gram(random_features(400, 5, 8, seed=1))
        found = hsic(first, second).diagonal()
        biased = torch.stack([biased_hsic(*pair) for pair in zip(first, second, strict=True)])
        assert abs(found.mean()) < 4 * found.std() / 20  # the root of 400
        assert biased.mean() > 20 * biased.std() / 20

    def test_rotations_and_scales_of_features_change_nothing(self):
        x, y = random_features(9, 6), random_features(9, 6, seed=1)
        rotation = torch.linalg.qr(random_features(6, 6, seed=2))[0]
        pairs = [(x, y), (x @ rotation, 7 * y), (x + 3 * random_features(6, seed=3), y)]  # and shifts
        values = []
        for pair in pairs:
            grams = gram(torch.stack(pair))
            matrix = hsic(grams, grams)
            values.append((matrix[0, 1] / (matrix[0, 0] * matrix[1, 1]).sqrt()).item())
        assert values[1:] == pytest.approx(values[:1] * 2, rel=1e-9)
        assert abs(values[0]) > 1e-3

    def test_features_alike_for_all_images_have_none(self):
        alike, other = gram(1e3 + torch.zeros(1, 8, 50) / 3), gram(random_features(1, 8, 5))
        assert hsic(alike, other).item() == hsic(alike, alike).item() == 0

    @pytest.mark.parametrize("images", [1, 3])
    def test_too_few_images(self, images):
        grams = gram(random_features(2, images, 5))
        with pytest.raises(ValueError, match=f"got Gram matrices of {images} images, expected at least 4"):
            hsic(grams, grams)

    def test_other_shapes(self):
        grams = gram(random_features(2, 5, 5))
        for other in (grams[0], grams[:, :4, :4], grams[:, :4]):
            with pytest.raises(ValueError, match=r"expected \[P, B, B\] and \[Q, B, B\]"):
                hsic(grams, other)

    def test_gram_matrices_of_channels_piece_by_piece(self, monkeypatch):
        tokens = 1e3 + random_features(6, 10, 7).float()
        maps = tokens[:, 1:].mT.unflatten(2, (3, 3))  # as those of a ViT lie in memory
        expected = tokens[:, 1:].double().flatten(1)
        monkeypatch.setattr("alternet.analysis.features.hsic.PIECE", 2 * 6 * 9)  # two channels, then one
        torch.testing.assert_close(gram_matrix(maps), expected @ expected.T, rtol=1e-14, atol=0)


class TestLayerSimilarity:
    def test_by_its_definition_from_all_features(self, model):
        data = batches(7, 7, 5)
        found = layer_similarity(model, data, network="a")
        assert found.cka.dtype == np.float64
        assert (found.network, found.other, found.images) == ("a", None, 19)
        assert [tap.name for tap in found.taps[:3]] == ["stem", "layer1.0", "layer1.1"]
        assert found.other_taps == found.taps
        np.testing.assert_allclose(found.cka, cka_by_definition(model, model, data), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.cka.diagonal(), 1, rtol=1e-14)
        np.testing.assert_allclose(found.cka, found.cka.T, rtol=1e-14)
        assert found.cka.min() < 0.95

    def test_two_networks(self, model, vit):
        data = batches(6, 6)
        between = layer_similarity(model, data, network="a", other=("b", vit))
        assert (between.network, between.other) == ("a", "b")
        assert between.cka.shape == (len(between.taps), len(between.other_taps)) == (9, 5)
        np.testing.assert_allclose(between.cka, cka_by_definition(model, vit, data), rtol=1e-9, atol=1e-9)
        first, second, again = layer_similarities([("a", model), ("b", vit)], data)
        np.testing.assert_array_equal(again.cka, between.cka)
        assert [(each.network, each.other) for each in (first, second)] == [("a", None), ("b", None)]
        np.testing.assert_allclose(first.cka, layer_similarity(model, data, network="a").cka, rtol=1e-12)
        np.testing.assert_allclose(second.cka, layer_similarity(vit, data, network="b").cka, rtol=1e-12)

    def test_the_same_network_twice_has_its_own_similarity(self, model):
        own, _, between = layer_similarities([("a", model), ("again", model)], batches(8))
        np.testing.assert_allclose(between.cka, own.cka, rtol=1e-12)

    def test_the_size_of_batches_does_not_matter(self, model, tmp_path):
        """Batches of 8 and of 64 agree within their scatter; estimates with a bias do not."""
        images = batches(512)[0][0]
        found, errors, biased = [], [], []
        for size in (8, 64):
            data = [(part,) for part in images.split(size)]
            path = tmp_path / f"{size}.jsonl"
            found.append(layer_similarity(model, data, network="a", out=path).cka)
            sums = np.array([json.loads(line)["hsic"] for line in path.read_text().splitlines()[1:]])
            errors.append(jackknife_error(sums))
            centred = centred_grams(model, data)
            biased.append(cka_of((centred @ centred.transpose(0, 2, 1)).sum(0)))
        tolerance = 4 * np.hypot(*errors) + 1e-9  # the diagonal has no scatter
        assert (abs(found[0] - found[1]) < tolerance).all()
        assert (abs(biased[0] - biased[1]) > tolerance).mean() > 0.5

    def test_a_last_batch_of_too_few_images_is_left_out(self, model):
        data = batches(6, 6, 3)
        found = layer_similarity(model, data, network="a")
        assert found.images == 12
        np.testing.assert_array_equal(found.cka, layer_similarity(model, data[:2], network="a").cka)

    @pytest.mark.parametrize(("sizes", "number"), [((3, 6), 0), ((6, 2, 6), 1), ((3,), 0)])
    def test_other_batches_of_too_few_images_are_an_error(self, model, sizes, number):
        with pytest.raises(ValueError, match=rf"batch {number} has {sizes[number]} images, expected at least 4"):
            layer_similarity(model, batches(*sizes), network="a")

    def test_a_layer_alike_for_all_images_has_no_similarity(self):
        model = ALTERNET.build(seed=1)
        model.layer1[0].register_forward_hook(lambda module, inputs, output: torch.ones_like(output))
        found = layer_similarity(model, batches(6), network="a").cka
        assert np.isnan(found[1:]).all()  # no image gets behind it
        assert np.isnan(found[:, 1:]).all()
        assert found[0, 0] == pytest.approx(1)

    def test_features_that_are_not_finite(self, model, vit):
        broken = ALTERNET.build(seed=1)
        with torch.no_grad():
            broken.layer2[0].conv1.weight[0, 0] = torch.nan
        with pytest.raises(ValueError, match=r"^b: the features at layer2\.0 are not finite"):
            layer_similarity(vit, batches(5), network="a", other=("b", broken))

    def test_the_models_come_back_as_they_were(self, vit):
        model = ALTERNET.build(seed=1).train()
        model.layer2.eval()
        modes = [module.training for module in model.modules()]
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        bad = [(torch.full((5, 3, 8, 8), torch.nan),)]
        layer_similarity(vit, batches(5), network="b", other=("a", model))
        with pytest.raises(ValueError, match="not finite"):
            layer_similarity(model, bad, network="a", other=("b", vit))
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def test_no_batches_and_other_families(self, model):
        with pytest.raises(ValueError, match="batches: got none"):
            layer_similarity(model, [], network="a")
        with pytest.raises(TypeError, match="got ConVit, expected a timm ResNet"):
            layer_similarity(model, batches(5), network="a", other=("b", timm.create_model("convit_tiny")))


def cka_of(sums):
    own = np.sqrt(sums.diagonal())
    return sums / own[:, None] / own


def jackknife_error(sums):
    """Standard errors of CKA by leaving out each batch in turn: [batches, L, L] -> [L, L]."""
    count = len(sums)
    without = np.stack([cka_of(sums.sum(0) - one) for one in sums])
    return np.sqrt((count - 1) / count * ((without - without.mean(0)) ** 2).sum(0))


def centred_grams(model, data):
    """H K H, flat, at every batch and tap: [batches, taps, B²]; their inner products are HSIC with a bias."""
    grams = torch.stack([torch.stack(grams_by_tap(model, images)) for images, *_ in data])
    centring = torch.eye(grams.shape[-1], dtype=torch.float64) - 1 / grams.shape[-1]
    return (centring @ grams @ centring).flatten(2).numpy()


class Stopped(Exception):
    """What stands for a kill."""


class TestResume:
    def test_a_stopped_pass_ends_with_the_same_numbers(self, model, vit, tmp_path, monkeypatch):
        data, path = batches(6, 6, 5, 2), tmp_path / "new folder" / "cka.jsonl"
        networks = [("a", model), ("b", vit)]
        expected = layer_similarities(networks, data)

        def stop(done, total):
            if done == 2:
                raise Stopped

        with pytest.raises(Stopped):
            layer_similarities(networks, data, out=path, progress=stop)
        path.write_bytes(path.read_bytes() + b'{"data": "ab')  # what a kill leaves of a line
        calls, reports = [], []
        handle = model.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
        again = layer_similarities(networks, data, out=path, progress=lambda *report: reports.append(report))
        handle.remove()
        assert (calls, reports) == ([5], [(2, 4), (3, 4), (4, 4)])
        for first, second in zip(expected, again, strict=True):
            np.testing.assert_array_equal(first.cka, second.cka)
            assert first.images == second.images == 17
        once_more = layer_similarities(networks, data, out=path)
        np.testing.assert_array_equal(once_more[2].cka, expected[2].cka)
        assert [entry.name for entry in path.parent.iterdir()] == ["cka.jsonl"]

    def test_other_networks_and_images_are_an_error(self, model, vit, tmp_path):
        path = tmp_path / "cka.jsonl"
        layer_similarity(model, batches(6, 6), network="a", out=path)
        with pytest.raises(ValueError, match=r"another study: network_1\.weights was \S+ and is"):
            layer_similarity(ALTERNET.build(seed=2), batches(6, 6), network="a", out=path)
        with pytest.raises(ValueError, match="another study: network_2 was absent"):
            layer_similarity(model, batches(6, 6), network="a", other=("b", vit), out=path)
        with pytest.raises(ValueError, match="another study: batches was 2 and is 3"):
            layer_similarity(model, batches(4, 4, 4), network="a", out=path)
        with pytest.raises(ValueError, match=r"cka\.jsonl holds other images as batch 0; remove it"):
            layer_similarity(model, batches(6, 6, seed=1), network="a", out=path)
        layer_similarity(model, batches(6, 6), network="another name", out=path)


STAGES = [0, 1, 1, 2, 2, 2]
TAPS = tuple(Tap(f"tap{i}", "conv" if i else "stem", stage, i / 5, f"b{i}", "output") for i, stage in enumerate(STAGES))


def result(other=None):
    cka = np.eye(6)
    for (i, j), value in {
        (1, 2): 0.9,
        (3, 4): 0.8,
        (4, 5): 0.7,
        (2, 3): 0.6,
        (3, 5): 0.5,
        (1, 3): 0.4,
        (2, 4): 0.2,
    }.items():
        cka[i, j] = cka[j, i] = value
    cka[0] = cka[:, 0] = np.nan
    return SimilarityResult("AlterNet", other, 9, TAPS, TAPS, cka)


class TestResult:
    def test_stages_are_compared_at_equal_distances(self):
        within, between = result().stage_means
        # Distance 1: three pairs of one stage, one of two; distance 2: one and two; farther, only pairs of two stages.
        assert within == pytest.approx(((0.9 + 0.8 + 0.7) / 3 + 0.5) / 2)
        assert between == pytest.approx((0.6 + (0.4 + 0.2) / 2) / 2)

    def test_one_stage_or_two_networks_have_no_comparison(self, vit):
        assert np.isnan(layer_similarity(vit, batches(5), network="b").stage_means).all()
        assert np.isnan(result("ViT").stage_means).all()

    @pytest.mark.parametrize("other", [None, "ViT"])
    def test_files_give_back_what_was_saved(self, tmp_path, other):
        path, saved = tmp_path / "cka.json", result(other)
        saved.save(path)
        content = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
        assert content["within_stages"] == (None if other else saved.stage_means[0])
        loaded = SimilarityResult.load(path)
        for name in ("network", "other", "images", "taps", "other_taps"):
            assert getattr(loaded, name) == getattr(saved, name)
        np.testing.assert_array_equal(loaded.cka, saved.cka)

    def test_csv_has_a_line_per_pair(self, tmp_path):
        path = tmp_path / "cka.csv"
        result("ViT").save_csv(path)
        rows = list(csv.DictReader(path.open()))
        assert len(rows) == 36
        assert (rows[8]["network"], rows[8]["tap"], rows[8]["other"], rows[8]["other_tap"], rows[8]["cka"]) == (
            "AlterNet", "tap1", "ViT", "tap2", "0.9"
        )  # fmt: skip
        assert rows[0]["cka"] == "nan"

    def test_other_files_are_an_error(self, tmp_path):
        path = tmp_path / "cka.json"
        path.write_text('{"kind": "alternet variance analysis"}')
        with pytest.raises(ValueError, match="expected a JSON file of kind 'alternet layer similarity'"):
            SimilarityResult.load(path)
        path.write_text('{"kind": "alternet layer similarity"}')
        with pytest.raises(ValueError, match=r"not whole: KeyError\('network'\)"):
            SimilarityResult.load(path)
