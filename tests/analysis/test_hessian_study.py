"""The study of figures 2 and 8d on toy networks: what it leaves, that it goes on after SIGKILL, what it refuses."""

import html
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alternet.analysis.studies import hessian_study as module
from alternet.analysis.studies.hessian_study import HessianStudy, make_hessian_study
from alternet.analysis.studies.spectra import SpectraResult
from alternet.analysis.training import loop as training
from alternet.analysis.training.recipe import SHORT

SCRIPT = Path(__file__).with_name("tiny_poster.py")
RECIPE = SHORT.changed(epochs=2, batch_size=16)
LESS = "ViT-25-of-the-data"
ELSEWHERE = f"{LESS}-on-all"


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "poster_networks", runpy.run_path(str(SCRIPT))["tiny_networks"])
        yield


@pytest.fixture(scope="module")
def finished(npz, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return out, make_hessian_study(HessianStudy(npz, RECIPE, fraction=0.5, less=0.25), out)


def test_measured_epochs_are_those_of_the_figure_unless_told():
    recipe = SHORT.changed(epochs=305, warmup_epochs=5)
    assert HessianStudy("cifar100", recipe).measured == (5, 105, 205, 305)
    assert HessianStudy("cifar100", recipe, epochs=(0, 7)).measured == (0, 7, 305)


def test_what_a_study_leaves(finished):
    out, claims = finished
    networks = ("ResNet", "ViT", "AlterNet", LESS)
    spectra = {f"{network}-{epoch}.{end}" for network in networks for epoch in (1, 2) for end in ("json", "jsonl")}
    spectra |= {f"{ELSEWHERE}-2.json", f"{ELSEWHERE}-2.jsonl"}
    assert {path.name for path in (out / "spectra").iterdir()} == spectra | {"spectra.json", "spectra.csv"}
    assert {path.name for path in (out / "figures").iterdir()} == {
        "spectra.png", "training_spectra.png", "estimates.png", "training.png"
    }  # fmt: skip
    rows = json.loads((out / "spectra" / "spectra.json").read_text())["spectra"]
    assert [row["mini_batches"] for row in rows] == [*[1, 2] * 4, 2]  # early epochs: a third of them
    stored = json.loads((out / "claims.json").read_text())["claims"]
    assert [claim["verdict"] for claim in stored] == [claim.verdict for claim in claims]
    assert len(claims) == 7
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 4
    assert all(html.escape(claim.statement) in page for claim in claims)
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)  # every place of the template is filled


def test_the_vit_on_less_data_sees_a_part_of_it_in_as_many_updates(finished):
    out, _ = finished
    states = [json.loads((out / "networks" / name / "history.json").read_text()) for name in ("vit", "vit_less")]
    assert [state["data"]["train"] for state in states] == [64, 64]
    assert states[1]["data"]["name"] == f"25 % of {states[0]['data']['name']}"
    full, less = (SpectraResult.load(out / "spectra" / f"{name}-2.json") for name in ("ViT", LESS))
    assert full.config["weights"] != less.config["weights"]
    lines = [(out / "spectra" / f"{name}-2.jsonl").read_text().splitlines()[1:] for name in ("ViT", LESS)]
    assert json.loads(lines[0][0])["data"] != json.loads(lines[1][0])["data"]  # measured on what it learned from


def test_it_is_also_measured_where_the_others_are(finished):
    out, _ = finished
    less, elsewhere, vit = (SpectraResult.load(out / "spectra" / f"{name}-2.json") for name in (LESS, ELSEWHERE, "ViT"))
    assert elsewhere.config["weights"] == less.config["weights"] != vit.config["weights"]
    journals = [(out / "spectra" / f"{name}-2.jsonl").read_text().splitlines()[1:] for name in (ELSEWHERE, "ViT")]
    data = [[json.loads(line)["data"] for line in lines] for lines in journals]
    assert data[0] == data[1]


def test_the_claims_on_data_are_of_these_numbers(finished):
    out, claims = finished
    share = {
        name: (SpectraResult.load(out / "spectra" / f"{name}-2.json").values < 0).mean()
        for name in ("ViT", LESS, ELSEWHERE)
    }
    assert all(claim.statement.startswith("More data") for claim in claims[-2:])
    assert claims[-2].value == pytest.approx(share[LESS] - share["ViT"])
    assert claims[-1].value == pytest.approx(share[ELSEWHERE] - share["ViT"])
    assert claims[0].value == share["ViT"]


def test_a_finished_study_is_not_made_again(npz, finished, monkeypatch):
    def no_more(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(training._Run, "train_epoch", no_more)
    monkeypatch.setattr("alternet.analysis.studies.spectra.top_eigenvalues", no_more)
    out, claims = finished
    again = make_hessian_study(HessianStudy(npz, RECIPE, fraction=0.5, less=0.25), out)
    assert repr(again) == repr(claims)  # NaN is not NaN, and too few mini-batches have no interval


def test_another_study_is_refused(npz, finished):
    with pytest.raises(ValueError, match=r"holds a Hessian study with other settings: fraction was 0\.5 and is 1\.0"):
        make_hessian_study(HessianStudy(npz, RECIPE, fraction=1.0, less=0.25), finished[0])
    with pytest.raises(ValueError, match="epochs: got 3, expected 0 to 2"):
        HessianStudy(npz, RECIPE, epochs=(1, 3))
    with pytest.raises(ValueError, match=r"less: got 1\.5, expected more than 0 and less than 1"):
        HessianStudy(npz, RECIPE, less=1.5)


def test_mini_batches_are_looked_at_before_the_training(npz, tmp_path):
    with pytest.raises(ValueError, match=r"fraction: got 0\.1, which is 6 of 64 pictures"):
        make_hessian_study(HessianStudy(npz, RECIPE, fraction=0.1), tmp_path / "new")
    with pytest.raises(ValueError, match="batch_size: got 66, expected at most 64"):
        make_hessian_study(HessianStudy(npz, RECIPE.changed(batch_size=66), fraction=0.5), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_killed_it_goes_on_by_the_same_command(npz, finished, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "hessian", "study", "--data", npz, "--out", str(out), "--epochs", "2"]
    command += ["--batch-size", "16", "--fraction", "0.5", "--less", "0.25"]
    journal = out / "spectra" / "ViT-2.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (journal.exists() and journal.read_text().count("\n") >= 2) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    before = journal.read_text().rpartition("\n")[0]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert journal.read_text().startswith(before)
    assert "More data make the loss of a ViT more convex" in ended.stdout
    ours, theirs = (json.loads((folder / "claims.json").read_text())["claims"] for folder in (out, finished[0]))
    assert [claim["value"] for claim in ours] == pytest.approx([claim["value"] for claim in theirs], rel=1e-3)
