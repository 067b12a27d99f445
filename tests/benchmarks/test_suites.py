"""Every suite is a table with alternet in every row, and measures what it says."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import spectrum
from benchmarks.suite import Suite


@pytest.mark.parametrize("name", command.SUITES)
def test_rows_compare_alternet_with_the_peers_of_the_table(name):
    suite: Suite = importlib.import_module(f"benchmarks.{name}").SUITE
    rows = suite.rows()
    assert sum(map(len, rows.values())) == len(suite.cells())
    for cells in rows.values():
        assert "alternet" in cells
        assert {"alternet", *suite.peers} >= cells.keys()


def test_an_unknown_suite_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "poetry"])
    with pytest.raises(SystemExit):
        command.main()
    assert f"unknown poetry, expected some of {', '.join(command.SUITES)}" in capsys.readouterr().err


def test_a_suite_is_written_as_table_and_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "available_backends", lambda: {"cpu": None})
    monkeypatch.setattr(command, "peak_memory", lambda cell: None)
    monkeypatch.setattr(spectrum, "SHAPES", {"tiny: 1 x 2 x 4 x 4": (1, 2, 4, 4)})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "spectrum", "--threads", "1", "--out", str(tmp_path)])
    command.main()
    rows = json.loads((tmp_path / "spectrum.json").read_text())["rows"]
    assert [row["task"] for row in rows] == ["contiguous", "channels_last"]
    assert set(rows[0]["seconds"]) == set(spectrum.IMPLEMENTATIONS)
    assert len((tmp_path / "spectrum.md").read_text().splitlines()) == 6


def test_the_peers_of_the_spectrum_compute_it():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = spectrum.feature_spectrum(x).log_amplitude.float()
    torch.testing.assert_close(spectrum.fft2(x)[:5], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(spectrum.product(x), expected, rtol=1e-4, atol=1e-4)
