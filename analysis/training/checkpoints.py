"""Checkpoints: safetensors files whose header carries the rest as JSON, so that one file is one state, whole or absent.

No pickle is written, and none is executed when a file is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models import load_state_dict
from torch import Tensor, nn

from alternet.analysis.files import written_whole

HEADER = "alternet"


def save_checkpoint(path: str | os.PathLike[str], tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write ``tensors`` and ``state`` (JSON values) to one file, in place of what it held or not at all.

    Tensors that share memory (tied parameters) are written once for each name.
    """
    whole = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    with written_whole(path) as temporary:
        temporary.write_bytes(save(whole, metadata={HEADER: json.dumps(state, allow_nan=False)}))


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state that ``save_checkpoint`` wrote.

    Raises:
        ValueError: there is no such file, it cannot be read, or something else wrote it.
    """
    state = checkpoint_state(path)
    if state is None:
        raise ValueError(f"checkpoint: {path} was not written by this program (no {HEADER!r} in its header)")
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 (not a dict)


def checkpoint_state(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The state in the header of a safetensors file; None where something else wrote it.

    Raises:
        ValueError: there is no such file, or it is no whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
        return None if header is None else json.loads(header)
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"checkpoint: {path} cannot be read as safetensors: {error}") from error


def checkpoint_epoch(path: str | os.PathLike[str]) -> int | None:
    """After which epoch of its training a file of ``alternet train`` is; None for files of others.

    Raises:
        ValueError: a safetensors file that is not there or not whole.
    """
    state = checkpoint_state(path) if Path(path).suffix == ".safetensors" else None
    return None if state is None else state.get("epoch")


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Put the weights of a file into ``model``, every one of them.

    The file is safetensors, or what ``torch.save`` wrote of tensors alone (read with ``weights_only=True``); a
    ``state_dict`` or ``model`` inside and the prefix ``module.`` are unwrapped, as timm does.

    Raises:
        ValueError: there is no such file, it cannot be read, or its weights are those of another network.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint: there is no file {path}")
    try:
        weights = load_state_dict(str(path))
    except Exception as error:  # an unpickler raises anything on bytes that are no pickle: struct.error, KeyError, …
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint: {path} is neither safetensors nor a torch file of tensors: {reason}") from error
    expected = model.state_dict()
    found = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    wrong = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:2])}{', …' if len(names) > 2 else ''})"
        for what, names in (
            ("missing", expected.keys() - found.keys()),
            ("unknown", weights.keys() - expected.keys()),
            ("of another shape", {n for n in expected.keys() & found.keys() if expected[n].shape != found[n].shape}),
        )
        if names
    ]
    if wrong:
        raise ValueError(f"checkpoint: {path} does not fit {type(model).__name__}: weights {'; '.join(wrong)}")
    model.load_state_dict(found)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by name and the rest as JSON values."""
    state = optimizer.state_dict()
    flat = {f"{index}.{name}": value for index, values in state["state"].items() for name, value in values.items()}
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    scalars = {name: value for name, value in flat.items() if name not in tensors}
    return tensors, {"scalars": scalars, "groups": state["param_groups"]}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Put what ``optimizer_tensors`` gave back into an optimizer of the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **rest["scalars"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})
