"""The variance of maps against torch.var, and result files."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from alternet.analysis.features import Tap
from alternet.analysis.variance import Variance, VarianceResult, spatial_variance


def result():
    taps = [
        Tap("stem", "stem", 0, 0.0, "layer1.0", "input"),
        Tap("layer1.0", "conv", 1, 0.5, "layer1.0", "output"),
        Tap("layer2.0", "msa", 2, 1.0, "layer2.0", "output"),
    ]
    sizes, means = [(4, 4), (4, 4), (1, 1)], [np.array([0.5]), np.array([2.0]), np.array([])]
    return Variance().result("AlterNet", 9, taps, sizes, means)


@pytest.mark.parametrize("size", [(1, 2), (4, 4), (7, 5)])
def test_it_is_the_unbiased_variance_over_pixels(size):
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    expected = ((x - x.mean((-2, -1), keepdim=True)) ** 2).sum((-2, -1)) / (size[0] * size[1] - 1)
    torch.testing.assert_close(spatial_variance(x), expected)
    torch.testing.assert_close(spatial_variance(x), torch.var(x.flatten(2), dim=2))


def test_a_large_mean_does_not_hide_the_variance():
    x = torch.randn(2, 3, 14, 14, dtype=torch.float64) + 1000
    exact = spatial_variance(x.float().double())  # of the values that float32 can hold
    torch.testing.assert_close(spatial_variance(x.float()).double(), exact, rtol=1e-4, atol=0)


def test_a_single_pixel_has_no_variance():
    pixel = torch.ones(2, 3, 1, 1)
    assert spatial_variance(pixel).isnan().all()
    assert Variance().total(pixel).shape == (0,)
    assert math.isnan(result().variance[2])


def test_totals_are_sums_in_float64():
    x = torch.randn(2, 3, 5, 5)
    total = Variance().total(x)
    assert total.shape == (1,)
    assert total.dtype == torch.float64
    assert total.item() == pytest.approx(spatial_variance(x).double().sum().item(), rel=1e-14)


def test_files_give_back_what_was_saved(tmp_path):
    path, saved = tmp_path / "variance.json", result()
    saved.save(path)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    loaded = VarianceResult.load(path)
    for name in ("network", "images", "taps", "map_sizes"):
        assert getattr(loaded, name) == getattr(saved, name)
    np.testing.assert_array_equal(loaded.variance, saved.variance)


def test_csv_has_a_line_per_tap(tmp_path):
    path = tmp_path / "variance.csv"
    result().save_csv(path)
    rows = list(csv.DictReader(path.open()))
    assert [(row["tap"], row["kind"], row["variance"]) for row in rows] == [
        ("stem", "stem", "0.5"),
        ("layer1.0", "conv", "2.0"),
        ("layer2.0", "msa", "nan"),
    ]


def test_other_files_are_an_error(tmp_path):
    path = tmp_path / "variance.json"
    path.write_text('{"kind": "alternet variance analysis"}')
    with pytest.raises(ValueError, match=r"variance\.json: .* not whole: KeyError\('taps'\)"):
        VarianceResult.load(path)
    path.write_bytes(b"\xff\xfe\x00 not text")
    with pytest.raises(ValueError, match="it is not JSON"):
        VarianceResult.load(path)
