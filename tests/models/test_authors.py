"""The authors' networks: parameter counts, state dicts, outputs."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

# Names and shapes of the authors' state dict, and what their AlterNet-18 for CIFAR gives in float64 for the weights
# and images below.
REFERENCE = json.loads((Path(__file__).parent / "alternet_18_cifar.json").read_text())
CIFAR = {"num_classes": 10, "window_size": 4, "stem_pool": False}


@pytest.mark.parametrize(
    ("name", "arguments", "parameters", "keys"),
    [
        ("alternet_18", CIFAR, 9_452_893, 119),
        ("alternet_18", {}, 9_968_803, 119),
        ("alternet_34", CIFAR, 22_316_784, 239),
        ("alternet_50", CIFAR, 33_878_128, 306),
        ("alternet_50", {}, 35_915_038, 306),
        ("alternet_50", CIFAR | {"num_classes": 100, "msa_depths": (0, 1, 1, 2)}, 33_012_840, 310),
        ("alternet_101", {}, 54_907_166, 612),
        ("alternet_152", {}, 70_550_814, 918),
    ],
)
def test_sizes(name, arguments, parameters, keys):
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(model.state_dict()) == keys


def test_state_dict_names_and_shapes():
    with torch.device("meta"):
        state = timm.create_model("alternet_18", **CIFAR).state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    assert list(shapes.items()) == list(REFERENCE["shapes"].items())  # in the same order, too


def test_outputs():
    model = timm.create_model("alternet_18", **CIFAR).double().eval()
    model.load_state_dict(_reference_state(), strict=True)
    seen = {}
    for name in REFERENCE["feature_mean"]:
        model.get_submodule(name).register_forward_hook(lambda _m, _x, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        logits = model(_reference_images(2, 32))

    torch.testing.assert_close(logits, torch.tensor(REFERENCE["output"], dtype=torch.float64), rtol=0, atol=1e-10)
    assert seen.keys() == REFERENCE["feature_mean"].keys()
    for name, out in seen.items():
        assert out.mean().item() == pytest.approx(REFERENCE["feature_mean"][name], abs=1e-12)
        assert out.std().item() == pytest.approx(REFERENCE["feature_std"][name], abs=1e-12)


def _reference_state() -> dict[str, Tensor]:
    """A low-discrepancy sequence per tensor, seeded by its name; all values exact in float32."""
    state = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in REFERENCE["shapes"].items()}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        index = torch.arange(tensor.numel(), dtype=torch.float64)
        seed = zlib.crc32(name.encode()) % 9973
        unit = torch.frac(index * 0.6180339887498949 + seed * 0.7548776662466927)
        signed = 2 * unit - 1
        is_norm = any(part in name for part in ("bn", "norm", "conv")) and name.endswith("weight")
        if name.endswith("running_var"):
            values = 1 + 0.2 * unit
        elif name.endswith("running_mean"):
            values = 0.1 * signed
        elif tensor.dim() == 1 and is_norm:
            values = 1 + 0.1 * signed
        elif tensor.dim() <= 1:
            values = 0.05 * signed
        elif "pos_embedding" in name:
            values = 0.5 * signed
        else:
            values = signed * math.sqrt(3 / tensor[0].numel())
        tensor.copy_(values.float().reshape(tensor.shape))
    return state


def _reference_images(batch: int, size: int) -> Tensor:
    index = torch.arange(batch * 3 * size * size, dtype=torch.float64)
    values = torch.sin(index * 0.37) + 0.5 * torch.cos(index * 0.0113)
    return values.float().double().reshape(batch, 3, size, size)
