"""The command line: every command on toys, and one line on stderr for what the user can mend."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alternet.analysis import LandscapeResult
from alternet.analysis.cli import main
from alternet.analysis.studies import poster
from alternet.analysis.training.checkpoints import save_checkpoint
from alternet.kernels import available_backends

VIT = ("--model", "vit_tiny_patch16_224", "--model-args", "img_size=8", "patch_size=4", "embed_dim=12", "depth=2")


@pytest.fixture(scope="module")
def trained(npz, tmp_path_factory) -> Path:
    """What `alternet train` left."""
    out = tmp_path_factory.mktemp("trained") / "vit"
    arguments = ["train", *VIT, "num_heads=3", "--data", npz, "--out", str(out), "--epochs", "2"]
    assert main([*arguments, "--batch-size", "16", "--keep-epochs", "0,1"]) == 0
    return out


def error_of(arguments: list[str], capsys) -> str:
    """The one line on stderr of a command that the user got wrong."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("alternet: ")
    return lines[0]


def test_train(trained):
    history = json.loads((trained / "history.json").read_text())
    assert [row["epoch"] for row in history["rows"]] == [1, 2]
    assert history["recipe"]["batch_size"] == 16
    assert history["recipe"]["learning_rate"] == 2e-3  # the short recipe's
    assert history["network"]["arguments"] == {
        "num_classes": 3, "img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3
    }  # fmt: skip


def test_spectra_of_a_checkpoint_that_says_what_it_is(trained, npz, tmp_path, capsys):
    weights = str(trained / "model.safetensors")
    arguments = ["hessian", "spectra", "--checkpoint", weights, "--data", npz, "--out", str(tmp_path)]
    assert main([*arguments, "--fraction", "0.25", "--hessian-batch-size", "8", "-k", "2"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    stored = json.loads((tmp_path / "vit_tiny_patch16_224-2.json").read_text())
    assert (printed["network"], printed["epoch"], printed["mini_batches"]) == ("vit_tiny_patch16_224", 2, 2)
    assert printed["nep"] == stored["summary"]["nep"]["value"]
    assert np.shape(stored["values"]) == (2, 2)
    assert stored["sizes"] == [8, 8]
    assert stored["config"]["weight_decay"] == 0.05
    assert len((tmp_path / "vit_tiny_patch16_224-2.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "spectra.png").exists()
    assert not (tmp_path / "training.png").exists()  # of a single epoch


def test_spectra_of_several_checkpoints(trained, npz, tmp_path, capsys):
    weights = [str(trained / f"epoch-{epoch}.safetensors") for epoch in (1, 0)]
    arguments = ["--data", npz, "--fraction", "0.25", "--hessian-batch-size", "8", "-k", "2", "--params", "head"]
    out = ["--out", str(tmp_path / "own")]
    assert main(["hessian", "spectra", "--checkpoint", *weights, *out, *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["epoch"] for row in printed] == [0, 1]
    assert json.loads((tmp_path / "own" / "spectra.json").read_text())["spectra"] == printed
    for name in ("spectra", "training", "estimates"):
        assert (tmp_path / "own" / f"{name}.png").exists()

    others = []
    for number, path in enumerate(weights):
        torch.save(load_file(path), tmp_path / f"{number}.pt")
        others.append(str(tmp_path / f"{number}.pt"))
    command = ["hessian", "spectra", *VIT, "num_heads=3", *arguments]
    assert main([*command, "--out", str(tmp_path / "counted"), "--checkpoint", *others]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert [row["epoch"] for row in counted] == [1, 2]  # as they were given
    assert [row["ape"] for row in counted] == [row["ape"] for row in reversed(printed)]
    assert main([*command, "--out", str(tmp_path / "jvp"), "--checkpoint", others[0], "--engine", "jvp"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["ape"] == pytest.approx(counted[0]["ape"], rel=1e-4)
    numbered = [f"{epoch}={path}" for epoch, path in zip((30, 7), others, strict=True)]
    assert main([*command, "--out", str(tmp_path / "numbered"), "--checkpoint", *numbered]) == 0
    assert [row["epoch"] for row in json.loads(capsys.readouterr().out)] == [7, 30]
    mixed = [*command, "--out", str(tmp_path / "mixed"), "--checkpoint", numbered[0], others[1]]
    assert f"{others[1]} does not say of which epoch it is; give it as EPOCH=" in error_of(mixed, capsys)
    twice = [*command, "--out", str(tmp_path / "twice"), "--checkpoint", numbered[0], numbered[0]]
    assert "2 are of vit_tiny_patch16_224 after epoch 30, expected one" in error_of(twice, capsys)


def test_hessian_of_a_checkpoint(trained, npz, tmp_path, capsys):
    arguments = ["--checkpoint", str(trained / "model.safetensors"), "--data", npz, "--out", str(tmp_path)]
    arguments += ["--fraction", "0.25", "--hessian-batch-size", "8", "--params", "head", "--weight-decay", "0"]
    found = {}
    for what, more in {"top": ["-k", "3"], "density": ["--probes", "2", "--steps", "39"], "trace": []}.items():
        assert main(["hessian", what, *arguments, *more]) == 0
        printed, shown = capsys.readouterr()
        assert "product" in shown.split("/s")[0].split()[-1] or "s/product" in shown
        assert "batch" not in shown
        found[what] = json.loads(printed)
        stored = json.loads((tmp_path / f"{what}.json").read_text())
        if what == "density":
            (found[what],), (stored,) = found[what], stored["densities"]
        assert stored.items() >= found[what].items()
    assert found["top"]["size"] == found["trace"]["size"] == 39  # 12 features and a bias for each of 3 classes
    assert all(found["top"]["converged"])
    assert main(["hessian", "top", *arguments, "-k", "2", "--which", "SA", "--block-size", "2"]) == 0
    smallest = json.loads(capsys.readouterr().out)
    assert smallest["which"] == "SA"
    assert max(smallest["values"]) < min(found["top"]["values"])
    assert found["trace"]["trace"] >= sum(found["top"]["values"])  # that of a linear layer has no negative eigenvalue
    assert found["density"]["proportion_negative"] == pytest.approx(0.0, abs=0.2)  # zeros round to either side
    for what in found:
        assert (tmp_path / f"{what}.png").exists()
    assert main(["hessian", "top", *arguments, "-k", "3", "--draft", "bfloat16"]) == 0
    drafted = json.loads(capsys.readouterr().out)
    assert drafted["values"] == pytest.approx(found["top"]["values"], abs=1e-3 * found["top"]["values"][0])  # its tol
    assert (drafted["precision"], drafted["draft"]) == ("float32", "bfloat16")
    assert drafted["draft_products"] > 0
    assert main(["hessian", "trace", *arguments, "--matrix", "gauss-newton", "--micro-batch", "4"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert same["trace"] == pytest.approx(found["trace"]["trace"], rel=1e-3)


def test_densities_of_several_blocks(trained, npz, tmp_path, capsys):
    arguments = ["--checkpoint", str(trained / "model.safetensors"), "--data", npz, "--out", str(tmp_path)]
    arguments += ["--fraction", "0.25", "--hessian-batch-size", "8", "--params", "head", r"blocks\.1\.norm"]
    assert main(["hessian", "density", *arguments, "--probes", "2", "--steps", "5"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(block["of"], block["size"]) for block in printed] == [("head", 39), (r"blocks\.1\.norm", 48)]
    stored = json.loads((tmp_path / "density.json").read_text())["densities"]
    assert [np.shape(block["nodes"]) for block in stored] == [(2, 5), (2, 5)]
    assert main(["hessian", "density", *arguments, "--probes", "2", "--steps", "5", "--seed", "1"]) == 0
    other = json.loads((tmp_path / "density.json").read_text())["densities"]
    assert not np.allclose(stored[0]["nodes"][1], other[0]["nodes"][0], rtol=1e-3)  # no probe is of both seeds


def test_features_of_a_file_of_others(trained, npz, tmp_path, capsys):
    torch.save(load_file(trained / "model.safetensors"), tmp_path / "weights.pt")
    arguments = ["features", *VIT, "num_heads=3", "--checkpoint", str(tmp_path / "weights.pt"), "--data", npz]
    assert main([*arguments, "--out", str(tmp_path / "exact")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "paper"), "--axis", "paper", "--normalise", "model"]) == 0
    assert "fourier.png" in capsys.readouterr().out
    for name in ("exact", "paper"):
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            "sums.jsonl", "fourier.json", "fourier.csv", "fourier.png", "variance.json", "variance.csv", "variance.png"
        }  # fmt: skip
    exact, paper = (json.loads((tmp_path / name / "variance.json").read_text()) for name in ("exact", "paper"))
    assert exact["images"] == 24
    assert exact["taps"][0]["variance"] != paper["taps"][0]["variance"]  # normalised in another way
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "exact"), "--normalise", "model"]) == 2
    assert "holds other images as batch 0; remove it to start again" in capsys.readouterr().err


def test_similarity_of_one_network_and_of_two(trained, npz, tmp_path, capsys):
    weights = [f"{name}={trained / file}.safetensors" for name, file in (("early", "epoch-0"), ("later on", "epoch-1"))]
    arguments = ["cka", "--data", npz, "--batch-size", "7", "--checkpoint"]
    assert main([*arguments, weights[0], "--out", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "one" / "cka.png")  # a single stage
    one = {"cka.jsonl", "cka.png", "early-cka.json", "early-cka.csv"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == one
    assert main([*arguments, *weights, "--out", str(tmp_path / "two")]) == 0
    two = {f"{which}-cka.{ending}" for which in ("later-on", "early-later-on") for ending in ("json", "csv")}
    assert {path.name for path in (tmp_path / "two").iterdir()} == one | two
    alone, first, between = (
        json.loads((tmp_path / path).read_text())
        for path in ("one/early-cka.json", "two/early-cka.json", "two/early-later-on-cka.json")
    )
    assert alone["images"] == 21  # of 24: the last three make no batch
    np.testing.assert_allclose(alone["cka"], first["cka"], rtol=1e-9)
    assert [between["network"], between["other"]] == ["early", "later on"]
    assert np.shape(between["cka"]) == (5, 5)
    assert main([*arguments, weights[0], "--seed", "1", "--out", str(tmp_path / "seed")]) == 0
    assert json.loads((tmp_path / "seed" / "early-cka.json").read_text())["cka"] != alone["cka"]
    capsys.readouterr()
    assert main([*arguments, weights[0], "--seed", "1", "--out", str(tmp_path / "one")]) == 2
    assert "cka.jsonl holds other images as batch 0; remove it to start again" in capsys.readouterr().err


def test_stages_are_compared_on_the_command_line(trained, npz, tmp_path, capsys):
    size = ["img_size=8", "window_size=2", "stem_pool=false", "widths=[4,4,4,4]", "num_heads=[1,1,1,1]", "head_dim=4"]
    network = ["--model", "alternet_18", "--model-args", *size]
    assert main(["train", *network, "--data", npz, "--out", str(tmp_path), "--epochs", "1", "--batch-size", "32"]) == 0
    capsys.readouterr()
    weights = str(tmp_path / "model.safetensors")
    assert main(["cka", "--checkpoint", weights, "--data", npz, "--out", str(tmp_path / "cka")]) == 0
    result = json.loads((tmp_path / "cka" / "alternet_18-cka.json").read_text())
    numbers = f"{result['within_stages']:.3f} in a stage, {result['between_stages']:.3f} between two"
    assert capsys.readouterr().out.splitlines()[0] == f"alternet_18: mean CKA at the same distance {numbers}"
    both = ["cka", "--checkpoint", weights, str(trained / "model.safetensors"), "--data", npz]
    message = error_of([*both, "--out", str(tmp_path / "both"), "--normalise", "model"], capsys)
    assert "normalise: got model, in which the networks differ, expected data" in message


def test_noise_of_several_networks(trained, npz, tmp_path, capsys):
    weights = [str(trained / f"{name}.safetensors") for name in ("epoch-0", "model")]
    arguments = ["noise", "--data", npz, "--out", str(tmp_path), "--frequencies", "0.75", "0.25", "--magnitude", "1"]
    checkpoints = ["--checkpoint", f"a ViT, fresh={weights[0]}", weights[1]]
    assert main([*arguments, *checkpoints]) == 0
    printed = capsys.readouterr().out.splitlines()
    files = [f"{name}-noise" for name in ("a-ViT-fresh", "vit_tiny_patch16_224")]
    assert {path.name for path in tmp_path.iterdir()} == {
        "noise.png", *(f"{name}.{kind}" for name in files for kind in ("json", "csv", "jsonl"))
    }  # fmt: skip
    stored = [json.loads((tmp_path / f"{name}.json").read_text()) for name in files]
    assert [result["network"] for result in stored] == ["a ViT, fresh", "vit_tiny_patch16_224"]
    for result in stored:
        assert result["images"] == 24
        assert result["noise"]["magnitude"] == 1
        assert [row["frequency_pi"] for row in result["conditions"]] == [0.25, 0.75]
    assert printed[0] == "a ViT, fresh            accuracy    drop  95 % interval (24 images)"
    assert printed[1] == f"  unchanged             {stored[0]['accuracy']:8.1%}"
    low, high = (stored[1]["conditions"][1][name] for name in ("low", "high"))
    assert printed[7].split() == [
        "0.75π", *(f"{100 * stored[1]['conditions'][1]['accuracy']:.1f}%", f"{stored[1]['conditions'][1]['drop']:.1f}"),
        f"[{low:.1f},", f"{high:.1f}]",
    ]  # fmt: skip
    assert printed[8] == str(tmp_path / "noise.png")

    changed = [*arguments, "--checkpoint", weights[1], "--equalize-energy"]
    assert "another study: equalize_energy was false and is true; remove it" in error_of(changed, capsys)
    assert "another study: std was" in error_of(
        [*arguments, "--checkpoint", weights[1], "--normalise", "model"], capsys
    )

    default = ["noise", "--data", npz, "--out", str(tmp_path / "default"), "--checkpoint", weights[1]]
    assert main(default) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == "alternet: frequency: no frequency of a 8 x 8 map is within 0.06366197723675814 of 0.1"
    assert not (tmp_path / "default").exists()


def test_lesions(trained, npz, tmp_path, capsys):
    torch.save(load_file(trained / "model.safetensors"), tmp_path / "weights.pt")
    arguments = ["lesion", *VIT, "num_heads=3", "--data", npz, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--checkpoint", f"ViT={tmp_path / 'weights.pt'}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    result = json.loads((tmp_path / "out" / "ViT-lesion.json").read_text())
    names = ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"]
    assert [row["name"] for row in result["conditions"]] == names
    assert [line.split()[:2] for line in printed[2:6]] == [["without", name] for name in names]
    assert (tmp_path / "out" / "lesion.png").exists()
    assert len((tmp_path / "out" / "ViT-lesion.csv").read_text().splitlines()) == 5


def test_landscape(trained, npz, tmp_path, capsys):
    weights = [f"{name}={trained / file}.safetensors" for name, file in (("first", "epoch-0"), ("last one", "model"))]
    arguments = ["landscape", "--data", npz, "--out", str(tmp_path), "--fraction", "0.25", "--hessian-batch-size", "8"]
    assert main([*arguments, "--checkpoint", *weights, "--size", "3", "--weight-decay", "0.1"]) == 0
    printed, shown = capsys.readouterr()
    assert printed.strip() == str(tmp_path / "landscape.png")
    assert "point" in shown
    files = {f"{name}-landscape.{ending}" for name in ("first", "last-one") for ending in ("jsonl", "json", "csv")}
    assert {path.name for path in tmp_path.iterdir()} == files | {"landscape.png"}
    first, last = (LandscapeResult.load(tmp_path / f"{name}-landscape.json") for name in ("first", "last-one"))
    assert (last.network, last.images, last.weight_decay, last.l2_form) == ("last one", 16, 0.1, "squared")
    assert last.nll.shape == (3, 3)
    assert last.x.tolist() == [-1, 0, 1]
    assert first.nll[1, 1] != last.nll[1, 1]

    alone = [*arguments, "--checkpoint", str(trained / "model.safetensors"), "--size", "5"]
    assert main([*alone, "--extent", "0.5", "--normalize", "paper", "--l2", "paper", "--seed", "1"]) == 0
    other = LandscapeResult.load(tmp_path / "vit_tiny_patch16_224-landscape.json")
    assert (other.normalize, other.l2_form, other.seed, other.weight_decay) == ("paper", "paper", 1, 0.05)
    assert other.x.tolist() == [-0.5, -0.25, 0, 0.25, 0.5]
    capsys.readouterr()
    twice = [*arguments, "--checkpoint", *[str(trained / f"epoch-{epoch}.safetensors") for epoch in (0, 1)]]
    assert "2 are called 'vit_tiny_patch16_224', expected one; give them as NAME=FILE" in error_of(twice, capsys)
    assert "belongs to another study: " in error_of([*alone, "--extent", "2"], capsys)
    assert "size: got 4, expected an odd number" in error_of([*alone, "--size", "4"], capsys)


def test_poster(npz, tmp_path, capsys, monkeypatch):
    networks = runpy.run_path(str(Path(__file__).with_name("tiny_poster.py")))["tiny_networks"]
    monkeypatch.setattr(poster, "poster_networks", networks)
    out = tmp_path / "a poster"
    arguments = ["poster", "--data", npz, "--out", str(out), "--epochs", "1"]
    assert main([*arguments, "--batch-size", "16", "--fraction", "0.25"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    page = (out / "index.html").read_text()
    assert f"alternet poster --data {npz} --out &#x27;{out}&#x27; --epochs 1" in page
    assert not (out / "figures" / "warmup.png").exists()
    message = error_of([*arguments, "--batch-size", "16", "--fraction", "0.5"], capsys)
    assert message == f"alternet: {out} holds a poster with other settings: fraction was 0.25 and is 0.5"


def test_info(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    for name, reason in available_backends().items():
        assert (f"{name:10} available" if reason is None else f"{name:10} not available: {reason}") in printed


def test_user_errors_are_one_line(trained, npz, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    weights = str(trained / "model.safetensors")
    measured = ["--checkpoint", weights, "--data", npz]
    (tmp_path / "junk.pth").write_bytes(b"junk")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    arrays = dict(np.load(npz))
    small, two = str(tmp_path / "small.npz"), str(tmp_path / "two.npz")
    np.savez(small, **{name: values[:, :4, :4] if name.endswith("x") else values for name, values in arrays.items()})
    labels = {name: arrays[name] % 2 for name in ("train_y", "test_y")}
    np.savez(two, **arrays | labels | {"classes": np.array(["a", "b"])})
    save_checkpoint(tmp_path / "tensors.safetensors", {"a": torch.ones(1)}, {"kind": "of something else"})
    cases = {
        "data: there is no file": ["poster", "--data", "nowhere.npz", *out],
        "is not an npz file": ["poster", "--data", str(tmp_path / "broken.npz"), *out],
        "'imagenet' does not exist; expected cifar10": ["poster", "--data", "imagenet", *out],
        "epochs: got 0": ["poster", "--data", npz, *out, "--epochs", "0"],
        "warmup_epochs: got 9, expected 0 to 1": ["poster", "--data", npz, *out, "--epochs=2", "--warmup-epochs=9"],
        "fraction: got 0.1, which is 6 of 64 pictures, expected at least one mini-batch of 16": [
            "poster", "--data", npz, *out
        ],
        "batch_size: got 66, expected at most 64": ["train", *VIT, "--data", npz, *out, "--batch-size", "66"],
        "expected some of resnet": ["poster", "--data", npz, *out, "--checkpoint", f"swin={weights}"],
        "image_size: only a folder": ["poster", "--data", npz, *out, "--image-size", "32"],
        "timm knows no 'vit_gigantic'": ["train", "--model", "vit_gigantic", "--data", npz, *out],
        "cannot be read as safetensors": [
            "hessian", "top", "--checkpoint", str(tmp_path / "broken.safetensors"), "--data", npz, *out
        ],
        "does not say what network it is of": ["hessian", "spectra", "--checkpoint", "weights.pt", "--data", npz, *out],
        "tensors.safetensors does not say what network it is of": [
            "features", "--checkpoint", str(tmp_path / "tensors.safetensors"), "--data", npz, *out
        ],
        "there is no file absent.pt": ["features", *VIT, "--checkpoint", "absent.pt", "--data", npz, *out],
        "does not fit ResNet": ["features", "--model", "resnet18", "--checkpoint", weights, "--data", npz, *out],
        "fraction: got 2.0": ["hessian", "trace", "--checkpoint", weights, "--data", npz, *out, "--fraction", "2"],
        "keep_epochs: got 11, expected 0 to 10": ["train", *VIT, "--data", npz, *out, "--keep-epochs", "11"],
        "device: 'quantum' cannot be used": ["info", "--device", "quantum"],
        "seed: got -1, expected 0 to 4294967295": ["hessian", "density", *measured, *out, "--seed", "-1"],
        "seed: got 4294967296, expected": ["train", *VIT, "--data", npz, *out, "--seed", "4294967296"],
        "hessian_batch_size: got 0, expected an even number": [
            "hessian", "top", *measured, *out, "--hessian-batch-size", "0"
        ],
        "hessian_batch_size: got -4, expected": ["hessian", "spectra", *measured, *out, "--hessian-batch-size", "-4"],
        "hessian_batch_size: got 3, expected": ["hessian", "trace", *measured, *out, "--hessian-batch-size", "3"],
        "fraction: got 0.1, which is 6 of 64": ["hessian", "trace", *measured, *out],
        "junk.pth is neither safetensors nor a torch file": [
            "features", *VIT, "--checkpoint", str(tmp_path / "junk.pth"), "--data", npz, *out
        ],
        "VisionTransformer does not take pictures of 4 x 4 pixels": [
            "features", "--checkpoint", weights, "--data", small, *out
        ],
        "batch_size: got 3, expected at least 4": ["cka", *measured, *out, "--batch-size", "3"],
        "checkpoint: 2 are called 'vit_tiny_patch16_224', expected one; give them as NAME=FILE": [
            "noise", "--checkpoint", weights, weights, "--data", npz, *out
        ],
        "gives [1, 3] for a picture, expected [1, 2], the classes": [
            "hessian", "trace", "--checkpoint", weights, "--data", two, *out, "--fraction", "1"
        ],
    }  # fmt: skip
    for message, arguments in cases.items():
        assert message in error_of(arguments, capsys), arguments
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--model", "a"],
        ["poster"],
        ["features", "--checkpoint", "a"],
        ["cka", "--checkpoint", "a"],
        *([what, "--checkpoint", "a"] for what in ("noise", "lesion")),
        ["landscape", "--checkpoint", "a"],
        *(["hessian", what, "--checkpoint", "a"] for what in ("top", "density", "trace", "spectra")),
        ["hessian", "study"],
    ],
    ids=" ".join,
)
def test_the_folder_is_looked_at_first(command, tmp_path, capsys, monkeypatch):
    (tmp_path / "afile").touch()
    for out in ("afile", "afile/deeper/still"):
        message = error_of([*command, "--data", "nowhere.npz", "--out", str(tmp_path / out)], capsys)
        afile = tmp_path / "afile"
        assert message == f"alternet: out: got {tmp_path / out}, expected a folder, but {afile} is a file"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    message = error_of([*command, "--data", "nowhere.npz", "--out", str(tmp_path / "new")], capsys)
    assert message.endswith(f"expected a folder to write in, but {tmp_path} is not writable")
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["poster", "--data", "mnist5k"],
        ["poster", "--out", "a", "--data", "mnist5k", "--checkpoint", "vit"],
        ["train", "--out", "a", "--data", "mnist5k", "--model", "a", "--model-args", "wings"],
        ["train", "--out", "a", "--data", "mnist5k", "--model", "a", "--keep-epochs", "last"],
        ["hessian", "--out", "a", "--data", "mnist5k"],
        ["hessian", "spectra", "--out", "a", "--data", "mnist5k"],
        ["poster", "--out", "a", "--data", "mnist5k", "--epoch", "3"],
    ],
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: alternet" in capsys.readouterr().err


def test_interruption(npz, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("alternet.analysis.training.loop.train", interrupted)
    assert main(["train", *VIT, "--data", npz, "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.strip() == "alternet: stopped; the same command goes on from here"


@pytest.mark.parametrize("what", ["top", "density", "trace"])
def test_what_keeps_nothing_does_not_promise_to_go_on(what, trained, npz, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"alternet.analysis.studies.hessian_report.report_{what}", interrupted)
    arguments = ["--checkpoint", str(trained / "model.safetensors"), "--data", npz, "--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main(["hessian", what, *arguments, "--fraction", "0.25"]) == 130
    assert capsys.readouterr().err.strip() == "alternet: stopped; the same command starts again"
    with pytest.raises(SystemExit):
        main(["hessian", what, "--help"])
    assert "goes on" not in capsys.readouterr().out


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("bug")

    monkeypatch.setattr("alternet.analysis.machine.describe", broken)
    with pytest.raises(KeyError):
        main(["info"])


def test_module_and_no_traceback(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "alternet", "poster", "--data", "nowhere.npz", "--out", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ),
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "alternet: data: there is no file nowhere.npz\n"
    assert list(tmp_path.iterdir()) == []
