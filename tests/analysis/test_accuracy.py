"""Accuracy under conditions: drops and their intervals, batches that a stopped study has, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from alternet.analysis.claims.claim import resamples
from alternet.analysis.interventions.accuracy import classify, drop, logits
from alternet.analysis.studies.journal import START_AGAIN

from .small_networks import build

KIND = "alternet test"


def batches(sizes=(4, 4, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.randint(3, (size,), generator=generator))
        for size in sizes
    ]


@pytest.fixture
def model():
    return build("convolutional")


def study(model, data, conditions, *, out=None, settings=None, progress=lambda done, total: None):
    return classify(model, data, conditions, kind=KIND, settings=settings or {}, out=out, progress=progress)


def always(number):
    """A condition under which the network answers class ``number``."""
    return lambda images, first: torch.eye(3)[number].expand(len(images), 3)


class TestDrop:
    def outcomes(self, images=400):
        rng = np.random.default_rng(0)
        baseline = rng.random(images) < 0.7
        return baseline, np.where(rng.random(images) < 0.8, baseline, rng.random(images) < 0.3)

    def test_the_value_is_the_difference_of_accuracies(self):
        baseline, correct = self.outcomes()
        assert drop(baseline, correct).value == pytest.approx(100 * (baseline.mean() - correct.mean()), abs=1e-12)
        assert drop(correct, baseline).value == -drop(baseline, correct).value

    def test_the_interval_is_that_of_resampled_images(self):
        baseline, correct = self.outcomes()
        differences = 100 * (baseline.astype(float) - correct)
        drawn = resamples(len(differences), np.random.default_rng(1))[1:] @ differences / len(differences)
        found = drop(baseline, correct)
        assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.4)
        assert found.high - found.low > 4  # beside which 0.4 is little

    def test_pairs_are_kept(self):
        """Images that are right both times do not make it unsure."""
        baseline = np.arange(100) < 60
        assert drop(baseline, baseline) == drop(baseline, baseline, seed=1)
        assert (drop(baseline, baseline).low, drop(baseline, baseline).high) == (0, 0)
        assert drop(np.ones(9, bool), np.zeros(9, bool)).low == 100

    @pytest.mark.parametrize(("images", "known"), [(5, False), (6, True)])
    def test_few_images_have_no_interval(self, images, known):
        found = drop(np.ones(images, bool), np.arange(images) > 0)
        assert found.value == pytest.approx(100 / images)
        assert math.isnan(found.low) is math.isnan(found.high) is not known


def test_every_condition_meets_every_image(model):
    data = batches()
    firsts = []

    def noted(images, first):
        firsts.append((first, len(images)))
        return logits(model, -images)

    baseline, correct = study(model, data, [noted, always(2)])
    images, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    with torch.no_grad():
        model.eval()
        expected = [model(maps).argmax(1) == targets for maps in (images.double(), -images.double())]
    assert baseline.tolist() == expected[0].tolist()
    assert correct.tolist() == [expected[1].tolist(), (targets == 2).tolist()]
    assert firsts == [(0, 4), (4, 4), (8, 2)]


def test_it_resumes_behind_the_last_batch(model, tmp_path):
    path, data = tmp_path / "accuracy.jsonl", batches()
    whole = study(model, data, [always(0), always(1)], out=path)
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(content[:3]) + content[3][:40])  # the header, two batches, and what a kill left
    firsts, reports = [], []

    def noted(images, first):
        firsts.append(first)
        return always(0)(images, first)

    again = study(model, data, [noted, always(1)], out=path, progress=lambda *report: reports.append(report))
    assert (firsts, reports) == ([8], [(2, 3), (3, 3)])
    for found, expected in zip(again, whole, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [json.loads(line) for line in content]


def test_a_file_of_something_else_is_refused(model, tmp_path):
    path = tmp_path / "accuracy.jsonl"
    study(model, batches(), [always(0)], out=path, settings={"magnitude": 0.1})
    with pytest.raises(ValueError, match=f"magnitude was 0.1 and is 0.2; {START_AGAIN}"):
        study(model, batches(), [always(0)], out=path, settings={"magnitude": 0.2})
    with pytest.raises(ValueError, match=f"holds other images or targets as batch 0; {START_AGAIN}"):
        study(model, batches(seed=1), [always(0)], out=path, settings={"magnitude": 0.1})
    with pytest.raises(ValueError, match="another study: batches was 3 and is 2"):
        study(model, batches((4, 4)), [always(0)], out=path, settings={"magnitude": 0.1})
    model[0].weight.data.mul_(2)
    with pytest.raises(ValueError, match="another study: weights was"):
        study(model, batches(), [always(0)], out=path, settings={"magnitude": 0.1})


def test_modes_come_back_also_where_a_condition_fails(model):
    model[1].eval()
    modes = [module.training for module in model.modules()]

    def fails(images, first):
        assert not model.training
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        study(model, batches(), [fails])
    assert [module.training for module in model.modules()] == modes
    assert True in modes


def test_bad_input_is_an_error(model, tmp_path):
    with pytest.raises(ValueError, match="batches: got none, expected at least one"):
        study(model, [], [always(0)])
    mixed = [(images, torch.eye(3)[targets]) for images, targets in batches()]
    with pytest.raises(ValueError, match=r"got targets float32 \[4, 3\], expected int64 \[4\]"):
        study(model, mixed, [always(0)])
    with pytest.raises(ValueError, match=r"Conv2d gives \[4, 2, 8, 8\], expected logits \[B, classes\]"):
        study(nn.Conv2d(3, 2, 1), batches(), [always(0)])
    model[-1].bias.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="batch 0: the logits are not finite"):
        study(model, batches(), [always(0)], out=tmp_path / "accuracy.jsonl")
    assert not any(tmp_path.iterdir())
