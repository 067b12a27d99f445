"""``alternet hessian`` on several ranks: one process's files, printed by one of them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

from alternet.analysis.cli import main
from alternet.analysis.distributed.launch import local_device

from .launched import run

SIZE = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Arguments that name a network and data: 40 training images in 5 mini-batches."""
    folder = tmp_path_factory.mktemp("measured")
    rng = np.random.default_rng(0)
    images = {f"{split}_x": rng.integers(0, 256, (40, 8, 8, 3), np.uint8) for split in ("train", "test")}
    targets = {f"{split}_y": np.arange(40) % 3 for split in ("train", "test")}
    np.savez(folder / "toy.npz", **images, **targets, classes=np.array(["a", "b", "c"]))
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=3, **SIZE).state_dict(), folder / "vit.pt")
    sizes = [f"{name}={value}" for name, value in SIZE.items()]
    network = ["--model", "vit_tiny_patch16_224", "--model-args", *sizes, "--checkpoint", str(folder / "vit.pt")]
    data = ["--data", str(folder / "toy.npz"), "--fraction", "1", "--hessian-batch-size", "8", "--params", "head"]
    return [*network, *data, "--device", "cpu"]


def on_ranks(arguments, folder):
    (folder / "command.json").write_text(json.dumps(arguments))
    return run("command", 2, folder)


TOP = ("-k", "2", "--tol", "1e-5")


def test_top(measured, tmp_path, capsys):
    arguments = ["hessian", "top", *measured, *TOP]
    (first, out, _), (second, nothing, silence) = on_ranks([*arguments, "--out", str(tmp_path / "two")], tmp_path)
    assert (first, second, nothing, silence) == (0, 0, "", "")
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    two, one = json.loads(out), json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(two["values"], one["values"], rtol=1e-6)
    assert (two["size"], two["products"]) == (one["size"], one["products"])
    assert json.loads((tmp_path / "two" / "top.json").read_text()).items() >= two.items()
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"top.json", "top.png"}


@pytest.mark.slow  # three processes import everything
def test_torchrun(measured, tmp_path):
    arguments = ["-m", "alternet", "hessian", "top", *measured, *TOP, "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*TORCHRUN, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).items() <= json.loads((tmp_path / "top.json").read_text()).items()  # printed once


def test_spectra(measured, tmp_path, capsys):
    arguments = ["hessian", "spectra", *measured, "-k", "2"]
    (first, out, _), (second, nothing, silence) = on_ranks([*arguments, "--out", str(tmp_path / "two")], tmp_path)
    assert (first, second, nothing, silence) == (0, 0, "", "")
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    ((two,), (one,)) = json.loads(out), json.loads(capsys.readouterr().out)
    assert two.keys() == one.keys()
    assert (two["mini_batches"], two["nep"]) == (one["mini_batches"], one["nep"])
    assert two["ape"] == pytest.approx(one["ape"], rel=1e-6)
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert names[0] == names[1]


def test_errors_say_whose_they_are(measured, tmp_path):
    arguments = ["hessian", "trace", *measured, "--products", "1", "--out", str(tmp_path / "out")]
    for rank, (status, out, err) in enumerate(on_ranks(arguments, tmp_path)):
        assert (status, out) == (2, "")
        assert err.splitlines()[-1] == f"alternet (rank {rank}): products: expected at least 3, got 1"


def test_what_is_for_one_process(tmp_path):
    for status, _, err in on_ranks(["info"], tmp_path):
        assert status == 2
        assert "torchrun: only `alternet hessian top|density|trace|spectra` are for several processes" in err


def test_devices(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device("cpu") == torch.device("cpu")
    assert local_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_device("cuda") == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="device: process 3 of this machine has no GPU, there are 2"):
        local_device("cuda")
    with pytest.raises(ValueError, match="device: 'quantum' cannot be used"):
        local_device("quantum")
