"""Statistics of single images: what they are, that their means are the figures' values, and resume."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from alternet.analysis.features import feature_statistics
from alternet.analysis.features.fourier import Fourier
from alternet.analysis.features.per_image import per_image_statistics
from alternet.analysis.features.variance import Variance
from alternet.analysis.training.batches import eval_batches
from alternet.analysis.training.data import ImageData, Pictures, as_tensor
from alternet.analysis.training.networks import Network

from .small_networks import tiny_alternet

ALTERNET = tiny_alternet(4, 4, 4, 4)


@pytest.fixture(scope="module")
def data() -> ImageData:
    rng = np.random.default_rng(0)
    pictures = Pictures(rng.integers(0, 256, (10, 8, 8, 3), np.uint8), np.arange(10) % 3)
    return ImageData("noise", ("a", "b", "c"), 8, pictures, pictures, (0.5,) * 3, (0.3,) * 3)


@pytest.fixture(scope="module")
def model():
    return ALTERNET.build(seed=1)


def test_means_over_images_are_the_figures_values(model, data):
    batches = eval_batches(data, 4)
    fourier, variance = feature_statistics(model, batches, [Fourier(), Variance()], network="a")
    found = per_image_statistics(model, batches, network="a")
    assert (found.taps, found.map_sizes) == (fourier.taps, tuple(tuple(size) for size in fourier.map_sizes))
    assert found.map_sizes[-1] == (1, 1)  # where neither exists
    assert found.high_frequency.shape == found.variance.shape == (10, len(found.taps))
    np.testing.assert_allclose(found.high_frequency.mean(0), fourier.high_frequency, rtol=1e-5)
    np.testing.assert_allclose(found.variance.mean(0), variance.variance, rtol=1e-5)
    images = as_tensor([picture for picture, _ in data.test], data)
    with torch.no_grad():
        predicted = model(images).argmax(1).numpy()
    assert found.correct.tolist() == (predicted == data.test.targets).tolist()


def test_rows_belong_to_images(model, data):
    """The same images in batches of another size."""
    first, second = (per_image_statistics(model, eval_batches(data, size), network="a") for size in (4, 10))
    np.testing.assert_allclose(first.high_frequency, second.high_frequency, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first.variance, second.variance, rtol=1e-4)


def test_it_resumes_behind_the_last_batch(model, data, tmp_path, monkeypatch):
    path = tmp_path / "images.jsonl"
    whole = per_image_statistics(model, eval_batches(data, 4), network="a", out=path)
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(content[:3]) + content[3][:40])  # the header, two batches, and what a kill left
    calls = []
    monkeypatch.setattr(
        type(model), "forward", lambda self, x: calls.append(len(x)) or self.forward_head(self.forward_features(x))
    )
    reports = []
    again = per_image_statistics(
        model, eval_batches(data, 4), network="a", out=path, progress=lambda *report: reports.append(report)
    )
    assert (calls, reports) == ([2], [(2, 3), (3, 3)])
    np.testing.assert_array_equal(again.high_frequency, whole.high_frequency)
    np.testing.assert_array_equal(again.correct, whole.correct)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [json.loads(line) for line in content]


def test_file_of_another_network(model, data, tmp_path):
    path = tmp_path / "images.jsonl"
    per_image_statistics(model, eval_batches(data, 4), network="a", out=path)
    with pytest.raises(ValueError, match=r"images\.jsonl belongs to another study: weights was"):
        per_image_statistics(ALTERNET.build(seed=2), eval_batches(data, 4), network="a", out=path)
    heads = Network("alternet", "alternet_18", ALTERNET.arguments | {"num_heads": [2] * 4, "head_dim": 2})
    other = heads.build()
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"another study: .*settings was \S+ and is \S+; remove it"):
        per_image_statistics(other, eval_batches(data, 4), network="a", out=path)


def test_file_of_other_batches(model, data, tmp_path):
    path = tmp_path / "images.jsonl"
    per_image_statistics(model, eval_batches(data, 4, limit=8), network="a", out=path)
    with pytest.raises(ValueError, match="another study: batches was 2 and is 4"):
        per_image_statistics(model, eval_batches(data, 2, limit=8), network="a", out=path)
    changed = dataclasses.replace(data, test=Pictures(255 - data.test.images, data.test.targets))
    with pytest.raises(ValueError, match=r"images\.jsonl holds other images or targets as batch 0; remove it"):
        per_image_statistics(model, eval_batches(changed, 4, limit=8), network="a", out=path)


def test_a_row_that_two_processes_wrote_is_not_counted_twice(model, data, tmp_path):
    path = tmp_path / "images.jsonl"
    per_image_statistics(model, eval_batches(data, 4), network="a", out=path)
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
    with pytest.raises(ValueError, match=r"images\.jsonl holds 4 rows, expected at most 3; remove it"):
        per_image_statistics(model, eval_batches(data, 4), network="a", out=path)


def test_no_batches_are_an_error(model, data):
    batches = eval_batches(data, 4)
    batches.order = batches.order[:0]
    with pytest.raises(ValueError, match="batches: got none"):
        per_image_statistics(model, batches, network="a")
