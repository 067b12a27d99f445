"""Figure 6's results and their files; the numbers are tested in tests/kernels/test_feature_spectrum.py."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from alternet.analysis.features import Tap
from alternet.analysis.features.variance import Variance, VarianceResult
from alternet.kernels.feature_spectrum import Spectrum


def spectrum(side, variance):
    log_amplitude = torch.zeros(side // 2 + 1, dtype=torch.float64)
    return Spectrum((side, side), 9, log_amplitude, torch.tensor(variance, dtype=torch.float64))


def result():
    taps = [
        Tap("stem", "stem", 0, 0.0, "layer1.0", "input"),
        Tap("layer1.0", "conv", 1, 0.5, "layer1.0", "output"),
        Tap("layer2.0", "msa", 2, 1.0, "layer2.0", "output"),
    ]
    spectra = [spectrum(4, 0.5), spectrum(4, 2.0), spectrum(1, math.nan)]
    return Variance().result("AlterNet", 9, taps, spectra)


def test_a_single_pixel_has_no_variance():
    assert result().variance[:2].tolist() == [0.5, 2.0]
    assert math.isnan(result().variance[2])


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
