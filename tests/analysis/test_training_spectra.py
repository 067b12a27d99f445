"""Spectra of several networks at several epochs: order, files, resuming, the bar over all of them."""

import csv
import json

import numpy as np
import pytest
import torch
from torch import nn

from alternet.analysis.studies.spectra import ape, hessian_spectra, nep
from alternet.analysis.studies.training_spectra import Snapshot, spectra_over_training


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3))


def batches(count, seed=0):
    torch.manual_seed(seed)
    return [(torch.randn(4, 3, 2, 2), torch.randint(0, 3, (4,))) for _ in range(count)]


def snapshots():
    """Of two networks, the later epoch first; 3 + 2 + 2 mini-batches."""
    return [
        Snapshot("ViT, 6 % of it", 10, lambda: model(0), batches(3)),
        Snapshot("ResNet", 2, lambda: model(1), batches(2)),
        Snapshot("ViT, 6 % of it", 2, lambda: model(2), batches(2, seed=1)),
    ]


def test_every_snapshot_has_its_own_spectra(tmp_path):
    course = spectra_over_training(snapshots(), tmp_path, k=2, progress=False)
    assert [(network, [*of]) for network, of in course.items()] == [("ResNet", [2]), ("ViT, 6 % of it", [2, 10])]
    for snapshot in snapshots():
        alone = hessian_spectra(snapshot.load(), snapshot.batches, k=2, progress=False)
        found = course[snapshot.network][snapshot.epoch]
        np.testing.assert_array_equal(found.values, alone.values)
        assert found.network == snapshot.network
    files = {path.name for path in tmp_path.iterdir()}
    studies = ("ResNet-2", "ViT-6-of-it-2", "ViT-6-of-it-10")
    assert files == {f"{study}.{end}" for study in studies for end in ("json", "jsonl")} | {
        "spectra.json", "spectra.csv"
    }  # fmt: skip


def test_the_table_has_the_estimates(tmp_path):
    course = spectra_over_training(snapshots(), tmp_path, k=3, progress=False)
    rows = json.loads((tmp_path / "spectra.json").read_text())["spectra"]
    with (tmp_path / "spectra.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(rows) == len(table) == 3
    for row, line in zip(rows, table, strict=True):
        result = course[row["network"]][row["epoch"]]
        share, average = nep(result.values), ape(result.values)
        assert (row["nep"], row["ape"]) == (share.value, average.value)
        assert [row[f"{name}_{end}"] for name in ("nep", "ape") for end in ("low", "high")] == [None] * 4  # too few
        assert (row["mini_batches"], row["products"]) == (len(result.values), result.products.sum())
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line


class Interrupted(list):
    def __iter__(self):
        yield self[0]
        raise KeyboardInterrupt


def test_a_stopped_study_goes_on_and_the_bar_counts_all_of_it(tmp_path, capsys):
    first, second, third = snapshots()
    stopping = [Snapshot(first.network, first.epoch, first.load, Interrupted(first.batches)), second, third]
    with pytest.raises(KeyboardInterrupt):
        spectra_over_training(stopping, tmp_path, k=2)
    assert "5/7" in capsys.readouterr().err  # the last of the network that comes last was stopped in its second
    kept = {path.name: path.read_text() for path in tmp_path.glob("*.jsonl")}
    assert sum(len(text.splitlines()) - 1 for text in kept.values()) == 5
    assert not (tmp_path / "spectra.json").exists()
    resumed = spectra_over_training(snapshots(), tmp_path, k=2)
    assert "7/7" in capsys.readouterr().err
    assert all((tmp_path / name).read_text().startswith(text) for name, text in kept.items())
    whole = spectra_over_training(snapshots(), tmp_path / "whole", k=2, progress=False)
    assert capsys.readouterr().err == ""
    for network, of in whole.items():
        for epoch, result in of.items():
            np.testing.assert_array_equal(resumed[network][epoch].values, result.values)


def test_what_was_done_before_does_not_count_for_the_speed(tmp_path):
    from alternet.analysis import progress

    bars = []
    with pytest.MonkeyPatch.context() as patch:
        made = progress.progress_bar
        patch.setattr(progress, "progress_bar", lambda *args, **more: bars.append(made(*args, **more)) or bars[-1])
        spectra_over_training(snapshots()[1:2], tmp_path, k=2)
        spectra_over_training(snapshots(), tmp_path, k=2)
    assert [(bar.initial, bar.n, bar.total) for bar in bars] == [(0, 2, 2), (2, 7, 7)]


def test_snapshots_must_be_there_and_differ(tmp_path):
    with pytest.raises(ValueError, match="snapshots: got none"):
        spectra_over_training([], tmp_path)
    with pytest.raises(ValueError, match="snapshots: 2 are of ResNet after epoch 2, expected one"):
        spectra_over_training([*snapshots(), snapshots()[1]], tmp_path)
    assert list(tmp_path.iterdir()) == []
