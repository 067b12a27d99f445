"""The half-diagonal against torch.fft.fft2 and the transform's definition; result files."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from alternet.analysis.features import Tap
from alternet.analysis.fourier import Fourier, FourierResult, frequencies, log_amplitudes
from alternet.analysis.variance import VarianceResult


def maps(*size, seed=0):
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5


def definition(x, frequency):
    """log(|Σ x[h, w] exp(-iπf(h + w))| + 1e-6) [B, C], term by term."""
    h, w = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    wave = torch.exp(-1j * math.pi * frequency * (h + w).to(torch.complex128))
    return ((x * wave).sum((-2, -1)).abs() + 1e-6).log()


def result(network="ViT", axis="exact"):
    taps = [Tap("stem", "stem", 0, 0.0, "blocks.0", "input"), Tap("blocks.0.attn", "msa", 1, 1.0, "norm2", "input")]
    return Fourier(axis).result(network, 7, taps, [(4, 4), (1, 1)], [np.array([3.0, 1.5, 0.1]), np.array([0.3])])


class TestFrequencies:
    @pytest.mark.parametrize(
        ("side", "exact", "paper"),
        [
            (1, [0], [0]),
            (2, [0, 1], [0]),
            (3, [0, 2 / 3], [0, 1]),
            (6, [0, 1 / 3, 2 / 3, 1], [0, 0.5, 1]),
            (7, [0, 2 / 7, 4 / 7, 6 / 7], [0, 1 / 3, 2 / 3, 1]),
        ],
    )
    def test_labels(self, side, exact, paper):
        computed, label = frequencies(side, side)
        assert computed.tolist() == label.tolist() == pytest.approx(exact)
        computed, label = frequencies(side, side, "paper")
        assert label.tolist() == pytest.approx(paper)
        assert computed.tolist() == pytest.approx([2 * k / side for k in range(len(paper))])

    def test_a_map_that_is_not_square_has_those_of_its_longer_side(self):
        assert frequencies(3, 8)[0].tolist() == frequencies(8, 3)[0].tolist() == frequencies(8, 8)[0].tolist()


class TestLogAmplitudes:
    @pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8, 14, 15, 32])
    def test_square_maps_have_the_diagonal_of_fft2(self, side):
        x = maps(side, side)
        diagonal = (torch.fft.fft2(x).abs() + 1e-6).log().diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(log_amplitudes(x), diagonal[..., : side // 2 + 1], rtol=0, atol=1e-9)
        torch.testing.assert_close(log_amplitudes(x, "paper"), diagonal[..., : (side + 1) // 2], rtol=0, atol=1e-9)

    @pytest.mark.parametrize("size", [(3, 8), (8, 3), (1, 5), (6, 1), (7, 5)])
    def test_other_maps_have_the_transform_at_equal_frequencies(self, size):
        x = maps(*size)
        expected = torch.stack([definition(x, f) for f in frequencies(*size)[0].tolist()], dim=-1)
        torch.testing.assert_close(log_amplitudes(x), expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("size", [(8, 8), (3, 8), (7, 4)])
    def test_a_constant_has_no_amplitude_but_at_zero(self, size):
        values = log_amplitudes(torch.full((1, 1, *size), 5.0, dtype=torch.float64))[0, 0]
        assert values[0].item() == pytest.approx(math.log(5 * size[0] * size[1]))
        assert (values[1:] < math.log(1.1e-6)).all()

    def test_a_checkerboard_has_all_its_amplitude_at_pi(self):
        board = (-1.0) ** (torch.arange(6)[:, None] + torch.arange(6))
        values = log_amplitudes(board[None, None].double())[0, 0]
        assert values[-1].item() == pytest.approx(math.log(36))
        assert (values[:-1] < math.log(1.1e-6)).all()

    def test_float32_is_as_good_as_fft2_in_float32(self):
        x = maps(56, 56)
        exact = log_amplitudes(x)
        fft = (torch.fft.fft2(x.float()).abs() + 1e-6).log().diagonal(dim1=-2, dim2=-1)[..., :29]
        assert log_amplitudes(x.float()).dtype == torch.float32
        error, error_of_fft = (log_amplitudes(x.float()) - exact).abs().max(), (fft - exact).abs().max()
        assert error < 4 * error_of_fft

    def test_strides_do_not_matter(self):
        x = maps(6, 6)
        tokens = x.flatten(2).transpose(1, 2).contiguous()  # the memory of a ViT's tokens
        torch.testing.assert_close(log_amplitudes(tokens.transpose(1, 2).unflatten(2, (6, 6))), log_amplitudes(x))


class TestStatistic:
    def test_totals_are_sums_in_float64(self):
        x = maps(6, 6).float()
        total = Fourier().total(x)
        assert total.dtype == torch.float64
        torch.testing.assert_close(total, log_amplitudes(x).double().sum((0, 1)), rtol=1e-14, atol=0)

    def test_an_unknown_axis_is_an_error(self):
        with pytest.raises(ValueError, match="axis: got 'log', expected one of"):
            Fourier(axis="log")


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
        broken = Fourier().result("ViT", 7, result().taps, [(4, 4), (1, 1)], [np.array([1.0, np.nan, 2.0]), np.ones(1)])
        with pytest.raises(ValueError, match="nan"):
            broken.save(path)
        assert path.read_text() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["fourier.json"]
