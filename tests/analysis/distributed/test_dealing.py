"""Studies dealt to ranks: the rows of one process, whoever made them, and whoever died on the way."""

import json

import numpy as np
import pytest

from alternet.analysis.studies import spectra

from . import toys
from .launched import run


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of one process."""
    folder = tmp_path_factory.mktemp("alone")
    toys.study(out=folder / "spectra.jsonl")
    return folder


def rows(path):
    """But for the time it took."""
    _, *rows = map(json.loads, path.read_text().splitlines())
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def check(folder, alone):
    assert sorted(path.name for path in folder.glob("spectra*")) == ["spectra.json", "spectra.jsonl"]
    for row, expected in zip(rows(folder / "spectra.jsonl"), rows(alone / "spectra.jsonl"), strict=True):
        assert row.keys() == expected.keys()
        assert (row["data"], row["sizes"]) == (expected["data"], expected["sizes"])
        np.testing.assert_allclose(row["values"], expected["values"], rtol=1e-12)
    stored, expected = (json.loads((path / "spectra.json").read_text()) for path in (folder, alone))
    assert stored["config"] == expected["config"]


def test_two_ranks_make_the_study_of_one(alone, tmp_path):
    found = run("study", 2, tmp_path)
    check(tmp_path, alone)
    assert [solved for _, _, solved in found] == [4, 3]
    for values, sizes, _ in found:
        assert values.shape == (7, 2)
        assert sizes.tolist() == [*toys.SIZES, *toys.SIZES[:2]]


def test_a_study_whose_rank_died_goes_on(alone, tmp_path):
    dies = tmp_path / "rank 1 dies"
    dies.touch()
    message, _ = run("study", 2, tmp_path, dies=1)
    assert "another rank has ended or does not answer" in message
    assert message.endswith(f"; what is finished is in {tmp_path}, the same run goes on")
    assert [len(rows(tmp_path / f"spectra.rank{rank}.jsonl")) for rank in (0, 1)] == [4, 1]  # 0, 2, 4, 6 and 1
    assert not (tmp_path / "spectra.jsonl").exists()
    dies.unlink()
    assert [solved for _, _, solved in run("study", 3, tmp_path)] == [1, 1, 0]  # 3 and 5
    check(tmp_path, alone)


def test_one_process_goes_on_with_what_ranks_left(alone, tmp_path, monkeypatch):
    (tmp_path / "rank 1 dies").touch()
    run("study", 2, tmp_path, dies=1)
    with (tmp_path / "spectra.rank1.jsonl").open("a") as file:
        file.write('{"piece": 3, "val')  # what a killed process left of a line
    solved = []
    real = spectra.top_eigenvalues
    monkeypatch.setattr(spectra, "top_eigenvalues", lambda *args, **kwargs: solved.append(1) or real(*args, **kwargs))
    toys.study(out=tmp_path / "spectra.jsonl")
    assert len(solved) == 2
    check(tmp_path, alone)


def test_rows_of_other_images_are_refused(alone, tmp_path):
    (tmp_path / "rank 1 dies").touch()
    run("study", 2, tmp_path, dies=1)
    part = tmp_path / "spectra.rank0.jsonl"
    header, first, *rest = part.read_text().splitlines()
    part.write_text("\n".join([header, json.dumps(json.loads(first) | {"data": "other"}), *rest]) + "\n")
    with pytest.raises(ValueError, match="holds other images or targets as batch 0; remove it to start again"):
        toys.study(out=tmp_path / "spectra.jsonl")
