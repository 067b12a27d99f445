"""Figure 5: noise of pictures, whatever normalises them; the same for every network and every size of batches."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from alternet.analysis import NoiseResult, noise_robustness
from alternet.analysis.training.batches import eval_batches
from alternet.analysis.training.data import ImageData, Pictures
from alternet.analysis.training.seeding import derived_seed
from alternet.kernels import frequency_noise

from .small_networks import build

BANDS = {"frequencies": [0.25, 1.0, 0.5], "magnitude": 0.7, "half_width": 0.1}  # maps of 8 x 8 have 0, 0.25, … 1


@pytest.fixture(scope="module")
def data() -> ImageData:
    rng = np.random.default_rng(0)
    pictures = Pictures(rng.integers(0, 256, (30, 8, 8, 3), np.uint8), np.arange(30) % 3)
    return ImageData("noise", ("a", "b", "c"), 8, pictures, pictures, (0.5, 0.4, 0.3), (0.3, 0.2, 0.1))


def linear():
    """Which answers hang on every frequency."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double()


def robustness(model, data, size=30, **changed):
    arguments = {"network": "a", "std": data.std, **BANDS, **changed}
    return noise_robustness(model, eval_batches(data, size), **arguments)


@pytest.mark.parametrize("equalize_energy", [False, True])
def test_noise_is_added_to_pictures(data, equalize_energy):
    model = linear()
    found = robustness(model, data, equalize_energy=equalize_energy, seed=3)
    assert found.frequencies.tolist() == [0.25, 0.5, 1.0]
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (data.mean, data.std))
    pictures = torch.from_numpy(data.test.images).permute(0, 3, 1, 2).double() / 255
    seed = derived_seed(3, "frequency noise")
    expected = []
    for frequency in found.frequencies:
        options = {"magnitude": 0.7, "half_width": 0.1, "equalize_energy": equalize_energy, "seed": seed}
        noisy = frequency_noise(pictures, frequency, **options)
        with torch.no_grad():
            expected.append(model((noisy - mean) / std).argmax(1).numpy() == data.test.targets)
    assert found.correct.tolist() == np.array(expected).tolist()
    assert (found.correct != found.baseline).any(1).all()  # else this says nothing
    assert len({tuple(right) for right in found.correct.tolist()}) == 3


def test_batches_do_not_matter(data):
    model = linear()
    whole, parts = robustness(model, data), robustness(model, data, 7)
    assert parts.correct.tolist() == whole.correct.tolist()


def test_every_network_sees_the_same_noise(data):
    seen = {}
    for name in ("convolutional", "vit"):
        model, inputs = build(name), seen.setdefault(name, [])
        hook = model.register_forward_pre_hook(lambda module, images, inputs=inputs: inputs.append(images[0].clone()))
        robustness(model, data, 10)
        hook.remove()
    assert len(seen["vit"]) == 12
    for one, other in zip(*seen.values(), strict=True):
        assert torch.equal(one, other)
    differences = [torch.stack(seen["vit"][i::4]) - torch.stack(seen["vit"][::4]) for i in (1, 2, 3)]
    assert len({round(each.square().mean().item(), 3) for each in differences}) == 3
    assert not torch.equal(differences[0][0], differences[0][1])  # of other images


def test_the_seed_and_the_magnitude_count(data):
    model = linear()
    found = {seed: robustness(model, data, seed=seed).correct for seed in (0, 1)}
    assert (found[0] != found[1]).any()
    still = robustness(model, data, magnitude=0.0)
    assert (still.correct == still.baseline).all()
    assert [each.value for each in still.drops] == [0, 0, 0]


def test_other_noise_does_not_go_on_with_a_file(data, tmp_path):
    model, path = linear(), tmp_path / "noise.jsonl"
    whole = robustness(model, data, 7, out=path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert robustness(model, data, 7, out=path).correct.tolist() == whole.correct.tolist()
    for changed, message in (
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"magnitude": 0.1}, "magnitude was 0.7 and is 0.1"),
        ({"equalize_energy": True}, "equalize_energy was false and is true"),
        ({"frequencies": [0.5, 0.25, 0.75]}, r"frequencies was \[0.25, 0.5, 1.0\] and is \[0.25, 0.5, 0.75\]"),
        ({"std": [1.0]}, r"std was \[0.3, 0.2, 0.1\] and is \[1.0\]"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another study: {message}; remove it"):
            robustness(model, data, 7, out=path, **changed)


def test_bad_arguments_are_an_error(data):
    model = linear()
    for changed, message in (
        ({"frequencies": []}, "frequencies: got none"),
        ({"frequencies": [0.5, 1.5]}, "frequency: got 1.5, expected 0 to 1"),
        ({"frequencies": [0.1], "half_width": 0.05}, "no frequency of a 8 x 8 map is within 0.05 of 0.1"),
        ({"magnitude": -1.0}, "magnitude"),
        ({"std": [0.3, 0.2]}, "std: got 2 numbers, expected one for each of the 3 channels"),
        ({"std": [0.3, 0.0, 0.1]}, r"std: got \[0.3, 0.0, 0.1\], expected positive numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            robustness(model, data, **changed)


def test_files_give_back_what_was_saved(data, tmp_path):
    saved = robustness(linear(), data)
    path = tmp_path / "noise.json"
    saved.save(path)
    loaded = NoiseResult.load(path)
    for name in ("network", "noise", "images", "accuracy", "drops"):
        assert getattr(loaded, name) == getattr(saved, name)
    for name in ("baseline", "correct", "frequencies"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    row = json.loads(path.read_text())["conditions"][1]
    assert row["accuracy"] == saved.correct[1].mean()
    assert row["drop"] == pytest.approx(100 * (saved.baseline.mean() - row["accuracy"]))
    assert row["low"] <= row["drop"] <= row["high"]

    saved.save_csv(tmp_path / "noise.csv")
    rows = list(csv.DictReader((tmp_path / "noise.csv").open()))
    assert [float(row["frequency_pi"]) for row in rows] == [0.25, 0.5, 1.0]
    assert [float(row["drop"]) for row in rows] == [each.value for each in saved.drops]
    assert {row["baseline"] for row in rows} == {str(saved.accuracy)}


def test_few_images_have_no_intervals_in_files(data, tmp_path):
    few = replace(robustness(linear(), data), baseline=np.ones(4, bool), correct=np.zeros((3, 4), bool))
    few.save(tmp_path / "noise.json")
    assert json.loads((tmp_path / "noise.json").read_text())["conditions"][0]["low"] is None
    assert NoiseResult.load(tmp_path / "noise.json").drops[0].value == 100


def test_other_files_are_an_error(tmp_path):
    path = tmp_path / "noise.json"
    path.write_text('{"kind": "alternet noise robustness"}')
    with pytest.raises(ValueError, match=r"noise\.json: .* not whole: KeyError\('conditions'\)"):
        NoiseResult.load(path)
    path.write_text('{"kind": "alternet lesion study"}')
    with pytest.raises(ValueError, match="of kind 'alternet noise robustness', got kind 'alternet lesion"):
        NoiseResult.load(path)
