"""Figure 4's results and their files; the numbers are tested in tests/kernels/test_feature_spectrum.py."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from alternet.analysis.features import Tap
from alternet.analysis.features.fourier import Fourier, FourierResult
from alternet.analysis.features.variance import VarianceResult
from alternet.kernels.feature_spectrum import Spectrum


def spectrum(side, values):
    return Spectrum((side, side), 7, torch.tensor(values, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))


def result(network="ViT", axis="exact"):
    taps = [Tap("stem", "stem", 0, 0.0, "blocks.0", "input"), Tap("blocks.0.attn", "msa", 1, 1.0, "norm2", "input")]
    return Fourier(axis).result(network, 7, taps, [spectrum(4, [3.0, 1.5, 0.1]), spectrum(1, [0.3])])


def test_an_unknown_axis_is_an_error():
    with pytest.raises(ValueError, match="axis: got 'log', expected one of"):
        Fourier(axis="log")


def test_the_paper_axis_ends_before_the_nyquist_frequency():
    exact, paper = result(), result(axis="paper")
    assert exact.log_amplitudes[0].tolist() == [3.0, 1.5, 0.1]
    assert paper.log_amplitudes[0].tolist() == [3.0, 1.5]
    assert paper.frequencies[0].tolist() == [0, 1]


class TestResult:
    def test_relative_amplitudes_start_at_zero_and_end_at_the_highest_frequency(self):
        found = result()
        assert found.relative[0] == pytest.approx([0, -1.5, -2.9])
        assert found.frequencies[0].tolist() == [0, 0.5, 1]
        assert found.high_frequency[0] == pytest.approx(-2.9)

    def test_a_single_pixel_has_no_high_frequency(self):
        assert math.isnan(result().high_frequency[1])

    def test_files_give_back_what_was_saved(self, tmp_path):
        path = tmp_path / "fourier.json"
        saved = result()
        saved.save(path)
        loaded = FourierResult.load(path)
        for name in ("network", "images", "axis", "taps", "map_sizes"):
            assert getattr(loaded, name) == getattr(saved, name)
        for name in ("frequencies", "log_amplitudes"):
            for mine, theirs in zip(getattr(loaded, name), getattr(saved, name), strict=True):
                np.testing.assert_array_equal(mine, theirs)

    def test_csv_has_a_line_per_tap_and_frequency(self, tmp_path):
        path = tmp_path / "fourier.csv"
        result().save_csv(path)
        rows = list(csv.DictReader(path.open()))
        assert [row["tap"] for row in rows] == ["stem", "stem", "stem", "blocks.0.attn"]
        assert [float(row["relative"]) for row in rows] == pytest.approx([0, -1.5, -2.9, 0])

    def test_other_files_are_an_error(self, tmp_path):
        path = tmp_path / "fourier.json"
        with pytest.raises(FileNotFoundError):
            FourierResult.load(path)
        path.write_text("epoch,loss")
        with pytest.raises(ValueError, match=r"fourier\.json: expected a JSON file .* and it is not JSON"):
            FourierResult.load(path)
        result().save(path)
        with pytest.raises(ValueError, match="'alternet variance analysis', got kind 'alternet Fourier analysis'"):
            VarianceResult.load(path)
        content = json.loads(path.read_text())
        del content["taps"][1]["log_amplitudes"]
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"fourier\.json: .* not whole: KeyError\('log_amplitudes'\)"):
            FourierResult.load(path)

    def test_a_failed_write_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "fourier.json"
        result().save(path)
        before = path.read_text()
        spectra = [spectrum(4, [1.0, math.nan, 2.0]), spectrum(1, [1.0])]
        broken = Fourier().result("ViT", 7, result().taps, spectra)
        with pytest.raises(ValueError, match="nan"):
            broken.save(path)
        assert path.read_text() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["fourier.json"]
