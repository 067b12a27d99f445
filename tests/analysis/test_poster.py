"""The whole job on toy networks: what it leaves behind, that it resumes after SIGKILL, and what it refuses."""

import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alternet.analysis.studies import poster as module
from alternet.analysis.studies.poster import Poster, make_poster
from alternet.analysis.training import loop as training
from alternet.analysis.training.checkpoints import save_checkpoint
from alternet.analysis.training.networks import LABELS
from alternet.analysis.training.recipe import SHORT

SCRIPT = Path(__file__).with_name("tiny_poster.py")
RECIPE = SHORT.changed(epochs=3, batch_size=16)
FRACTION = 0.5
COMMAND = "alternet poster --data 'toy & co.npz'"
NAMES = ("resnet", "vit", "alternet")
posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")


@pytest.fixture(scope="session")
def npz(tmp_path_factory) -> str:
    """64 training and 24 test images of 8 x 8 pixels: noise in which the channel that stands out is the class."""
    rng = np.random.default_rng(0)
    arrays = {"classes": np.array(["red", "green", "<b>blue</b>"])}
    for split, count in (("train", 64), ("test", 24)):
        targets = np.arange(count) % 3
        images = rng.integers(0, 60, (count, 8, 8, 3)).astype(np.uint8)
        images[np.arange(count), :, :, targets] += 150
        arrays |= {f"{split}_x": images, f"{split}_y": targets}
    path = tmp_path_factory.mktemp("data") / "toy & co.npz"
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "poster_networks", runpy.run_path(str(SCRIPT))["tiny_networks"])
        yield


@pytest.fixture(scope="session")
def settings(npz) -> Poster:
    return Poster(npz, RECIPE, fraction=FRACTION)


@pytest.fixture(scope="session")
def finished(settings, tmp_path_factory) -> Path:
    """A poster that was made without a stop."""
    out = tmp_path_factory.mktemp("poster") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "poster_networks", runpy.run_path(str(SCRIPT))["tiny_networks"])
        make_poster(settings, out, command=COMMAND)
    return out


def command(npz: str, out: Path) -> list[str]:
    arguments = {"--data": npz, "--out": out, "--epochs": 3, "--batch-size": 16, "--fraction": FRACTION}
    return [sys.executable, str(SCRIPT), "poster", *(str(part) for pair in arguments.items() for part in pair)]


def eigenvalues(out: Path, study: str) -> list[list[float]]:
    lines = (out / "spectra" / f"{study}.jsonl").read_text().splitlines()
    return [json.loads(line)["values"] for line in lines[1:]]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_everything_is_there(finished):
    found = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    expected = {"config.json", "seconds.json", "claims.json", "claims.csv", "index.html"}
    expected |= {f"figures/{name}.png" for name in ("spectra", "warmup", "fourier", "variance", "training")}
    for name in NAMES:
        weights = (f"{file}.safetensors" for file in ("last", "warmup", "model"))
        expected |= {f"networks/{name}/{file}" for file in (*weights, "history.json", "history.csv")}
        expected |= {
            f"spectra/{name}-{phase}.{end}" for phase in ("final", "after-warm-up") for end in ("json", "jsonl")
        }
        expected |= {f"features/{name}-{figure}.{end}" for figure in ("fourier", "variance") for end in ("json", "csv")}
        expected |= {f"features/{name}-{part}.jsonl" for part in ("sums", "images")}
    assert found == expected
    for name in NAMES:
        assert [lines(finished / "spectra" / f"{name}-{p}.jsonl") for p in ("final", "after-warm-up")] == [3, 2]
        assert eigenvalues(finished, f"{name}-final") != eigenvalues(finished, f"{name}-after-warm-up")
    for picture in (finished / "figures").iterdir():
        with Image.open(picture) as image:
            assert image.width > 1000


def test_claims_are_judged_on_these_numbers(finished):
    with (finished / "claims.csv").open(newline="", encoding="utf-8") as file:
        claims = list(csv.DictReader(file))
    nep = {name: (np.array(eigenvalues(finished, f"{name}-final")) < 0).mean() for name in NAMES}
    assert float(claims[0]["value"]) == pytest.approx(nep["vit"] - nep["resnet"])
    accuracy = [json.loads((finished / "networks" / n / "history.json").read_text())["rows"][-1] for n in NAMES]
    expected = ", ".join(
        f"{label} {row['test_accuracy']:.1%}"
        for label, row in zip(("ResNet", "ViT", "AlterNet"), accuracy, strict=True)
    )
    assert claims[-1]["detail"] == expected


def test_a_finished_poster_is_not_made_again(settings, finished, monkeypatch):
    def no_more(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(training._Run, "train_epoch", no_more)
    monkeypatch.setattr("alternet.analysis.studies.spectra.top_eigenvalues", no_more)
    monkeypatch.setattr("alternet.analysis.features.streaming.observe", no_more)
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.suffix in (".json", ".csv", ".png")}
    make_poster(settings, finished, command=COMMAND)
    assert {path: path.read_bytes() for path in before} == before


@posix
def test_killed_again_and_again_it_ends_like_one_that_never_was(npz, finished, tmp_path):
    out = tmp_path / "out"
    kept: dict[Path, bytes] = {}
    moments = {  # a file, and how many lines of it to wait for before the kill
        "networks/vit/history.csv": 2,
        "spectra/vit-final.jsonl": 2,
        "features/vit-sums.jsonl": 1,
    }
    for name, count in moments.items():
        with subprocess.Popen(command(npz, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 120
            while lines(out / name) < count and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            output = process.communicate()[1].decode()
        assert process.returncode == -signal.SIGKILL, output
        assert lines(out / name) >= count
        assert not (out / "index.html").exists()
        for path, content in kept.items():  # finished epochs and mini-batches were not computed again
            assert path.read_bytes().startswith(content), path
        for path in out.rglob("*.jsonl"):
            content = path.read_bytes()
            kept[path] = content[: content.rfind(b"\n") + 1]
        kept |= {path: path.read_bytes() for path in out.rglob("model.safetensors")}
    ended = subprocess.run(command(npz, out), capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(out / "index.html")
    for name in NAMES:
        ours, theirs = (load_file(folder / "networks" / name / "model.safetensors") for folder in (out, finished))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        for phase in ("final", "after-warm-up"):
            np.testing.assert_allclose(
                eigenvalues(out, f"{name}-{phase}"), eigenvalues(finished, f"{name}-{phase}"), rtol=1e-4
            )
    for path in ("features/vit-fourier.json", "features/alternet-variance.json"):
        assert json.loads((out / path).read_text()) == json.loads((finished / path).read_text())
    leftovers = [path for path in out.rglob("*") if path.name.startswith(".")]
    assert all(path.stat().st_size < 1e6 for path in leftovers)  # at most what a kill cut off


def test_checkpoints_instead_of_training(npz, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "JUDGED_IMAGES", 7)
    weights = {name: str(finished / "networks" / name / "model.safetensors") for name in NAMES}
    make_poster(Poster(npz, RECIPE, fraction=FRACTION, checkpoints=weights), tmp_path / "out")
    assert not (tmp_path / "out" / "networks").exists()
    for name in NAMES:
        np.testing.assert_allclose(
            eigenvalues(tmp_path / "out", f"{name}-final"), eigenvalues(finished, f"{name}-final"), rtol=1e-4
        )
    page = (tmp_path / "out" / "index.html").read_text()
    assert "The weights are those of the checkpoints given." in page
    assert page.count("data:image/png") == 3
    for name in NAMES:  # not of the images that claims are judged on
        (*_, last) = json.loads((finished / "networks" / name / "history.json").read_text())["rows"]
        assert re.search(rf"<td>{LABELS[name]}</td><td>[\d.]+ million</td><td>{last['test_accuracy']:.1%}</td>", page)
    assert "at most 7, spread evenly" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"recipe": RECIPE.changed(epochs=4)}, r"recipe\.epochs was 3 and is 4"),
        ({"fraction": 0.75}, r"fraction was 0\.5 and is 0\.75"),
        ({"flip": False}, r"data\.flip was true and is false"),
    ],
)
def test_folder_of_another_poster(npz, finished, change, message):
    arguments = {"data": npz, "recipe": RECIPE, "fraction": FRACTION} | change
    with pytest.raises(ValueError, match=f"holds a poster with other settings: {message}$"):
        make_poster(Poster(**arguments), finished)


def test_what_is_refused_leaves_nothing_behind(npz, settings, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds something else than a poster"):
        make_poster(settings, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="checkpoints: got networks swin, expected some of resnet, vit, alternet"):
        Poster(npz, RECIPE, checkpoints={"swin": "a.pt"})
    with pytest.raises(ValueError, match=r"checkpoint: .*absent\.pt cannot be read"):
        make_poster(
            Poster(npz, RECIPE, fraction=FRACTION, checkpoints={"vit": str(tmp_path / "absent.pt")}), tmp_path / "new"
        )
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit AlterNet"):  # not after the training
        make_poster(Poster(npz, RECIPE, fraction=FRACTION, checkpoints={"alternet": str(other)}), tmp_path / "new")
    with pytest.raises(ValueError, match="batch_size: got 66, expected at most 64"):
        make_poster(Poster(npz, RECIPE.changed(batch_size=66), fraction=FRACTION), tmp_path / "new")
    with pytest.raises(ValueError, match=r"fraction: got 0\.1, which is 6 of 64 pictures"):
        make_poster(Poster(npz, RECIPE), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_damaged_configuration(settings, tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "something else"}')
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON file of kind"):
        make_poster(settings, tmp_path)


class Reader(HTMLParser):
    """Collects what a page would load, its text, and checks that its tags are closed."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.resources += [value for name, value in attributes if name in ("src", "srcset", "data", "poster")]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_self_contained(finished):
    page = (finished / "index.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.resources) == 5
    assert all(resource.startswith("data:image/png;base64,") for resource in reader.resources)
    assert not re.search(r"@import|url\(", page)
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)  # every place of the template is filled
    text = " ".join(" ".join(reader.text).split())
    for claim in json.loads((finished / "claims.json").read_text())["claims"]:
        assert claim["statement"] in text
    for shown in ("toy & co", COMMAND, torch.__version__, "prefers-color-scheme: dark"):
        assert shown in text
    assert "toy & co" not in page  # escaped where it stands
