"""Checkpoints come back exactly, are replaced whole, and foreign or broken files get one clear error."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alternet.analysis.training.checkpoints import (
    checkpoint_state,
    load_checkpoint,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    tensors = {"a": torch.randn(3, 4).t(), "b": torch.tensor(3), "c": torch.zeros(0, 2, dtype=torch.bfloat16)}
    state = {"epoch": 3, "loss": 0.1 + 0.2, "name": "ViT → 1"}
    save_checkpoint(path, tensors, state)
    loaded, found = load_checkpoint(path)
    assert found == state == checkpoint_state(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"a": torch.ones(2)}, {"epoch": 1})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, {"a": torch.zeros(2)}, {"epoch": float("nan")})
    assert torch.equal(load_checkpoint(path)[0]["a"], torch.ones(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_tied_parameters_are_written_for_each_name(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_checkpoint(tmp_path / "a.safetensors", model.state_dict(), {})
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    load_weights(fresh, tmp_path / "a.safetensors")
    assert torch.equal(fresh[1].weight, model[0].weight)


@pytest.mark.parametrize("content", [b"junk", b"Gjunk", b"hello world\n", b"\x80\x02}q", b"(lp0\n."])
def test_texts_are_no_torch_files(tmp_path, content):
    """Unpicklers raise whatever they stumble over."""
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"checkpoint: .*a\.pth is neither safetensors nor a torch file of tensors: \w"
    ):
        load_weights(small(), tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 100], ids=["empty", "short", "garbage"])
def test_broken_files(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint: .*a\.safetensors cannot be read"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match=r"checkpoint: .*a\.safetensors is neither"):
        load_weights(small(), path)


def test_cut_off_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"a": torch.ones(1000)}, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_checkpoint(path)


def test_files_of_others(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert checkpoint_state(tmp_path / "a.safetensors") is None
    with pytest.raises(ValueError, match="was not written by this program"):
        load_checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="there is no file"):
        load_weights(small(), tmp_path / "absent.pt")


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w}, lambda w: {"model": w, "epoch": 3}])
def test_weights_of_torch_files(tmp_path, wrap):
    source, model = small(), small()
    torch.save(wrap({f"module.{name}": value for name, value in source.state_dict().items()}), tmp_path / "a.pt")
    load_weights(model, tmp_path / "a.pt")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True)
    )


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_not_executed(tmp_path):
    torch.save({"state_dict": Malicious()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match=rf"{name} is neither safetensors nor a torch file"):
            load_weights(small(), tmp_path / name)


def test_weights_of_another_network(tmp_path):
    weights = small().state_dict()
    weights["0.weight"] = torch.zeros(4, 5)
    del weights["2.bias"]
    save_file({**weights, "head.weight": torch.ones(1), "head.bias": torch.ones(1)}, tmp_path / "a.safetensors")
    model = small()
    before = model.state_dict()["0.bias"].clone()
    with pytest.raises(
        ValueError,
        match=r"does not fit Sequential: weights 1 missing \(2\.bias\); 2 unknown \(head\.bias, head\.weight\); "
        r"1 of another shape \(0\.weight\)",
    ):
        load_weights(model, tmp_path / "a.safetensors")
    assert torch.equal(model.state_dict()["0.bias"], before)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_optimizer_goes_on_as_if_it_had_not_stopped(tmp_path, kind):
    def steps(model, optimizer, count, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.randn(8, 3, generator=generator)).square().sum().backward()
            optimizer.step()

    options = {"lr": 0.01} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    model = small()
    optimizer = kind(model.parameters(), **options)
    steps(model, optimizer, 3, seed=0)
    optimizer.param_groups[0]["lr"] = 0.005
    tensors, rest = optimizer_tensors(optimizer)
    save_checkpoint(tmp_path / "a.safetensors", tensors, rest)
    copy = small()
    copy.load_state_dict(model.state_dict())
    resumed = kind(copy.parameters(), **options)
    restore_optimizer(resumed, *load_checkpoint(tmp_path / "a.safetensors"))
    steps(model, optimizer, 3, seed=1)
    steps(copy, resumed, 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))
