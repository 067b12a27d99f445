"""What commands work on, made of their arguments: data, recipe, device, networks."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from timm.data import resolve_model_data_config
from torch import nn

from alternet.analysis.files import file_stem
from alternet.analysis.training.batches import Batches, hessian_batches
from alternet.analysis.training.checkpoints import checkpoint_state
from alternet.analysis.training.data import ImageData, load_data
from alternet.analysis.training.networks import Network, check_fit
from alternet.analysis.training.recipe import RECIPES, Recipe, check_batch_size


def data_of(chosen: argparse.Namespace) -> ImageData:
    return load_data(chosen.data, image_size=chosen.image_size, flip=chosen.flip)


def recipe_of(chosen: argparse.Namespace) -> Recipe:
    recipe = RECIPES[chosen.recipe]
    names = ("epochs", "warmup_epochs", "batch_size", "learning_rate", "weight_decay")
    given = {name: getattr(chosen, name, None) for name in names}
    if given["epochs"] is not None and given["warmup_epochs"] is None:  # a short training has a shorter warm-up
        given["warmup_epochs"] = max(min(recipe.warmup_epochs, given["epochs"] - 1), 0)
    return recipe.changed(**given)


def device_of(chosen: argparse.Namespace) -> str:
    if chosen.device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=chosen.device)
    except (RuntimeError, AssertionError) as error:  # unknown, absent, or not in this build of torch
        raise ValueError(f"device: {chosen.device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen.device


def named_network(chosen: argparse.Namespace, classes: int) -> Network:
    """That of ``--model`` and ``--model-args``."""
    return Network(chosen.model, chosen.model, {"num_classes": classes, **dict(chosen.model_args)})


def network_of(chosen: argparse.Namespace, checkpoint: Path, classes: int) -> Network:
    """That of ``--model``, or the one that the checkpoint says it is of."""
    if chosen.model is not None:
        return named_network(chosen, classes)
    state = (checkpoint_state(checkpoint) if checkpoint.suffix == ".safetensors" else None) or {}
    if "network" not in state:
        raise ValueError(f"model: {checkpoint} does not say what network it is of; give --model")
    return Network(**state["network"])


def normalised(data: ImageData, load: Callable[[], nn.Module], chosen: argparse.Namespace) -> ImageData:
    """``data`` as ``--normalise`` wants it for the model that ``load`` gives."""
    if chosen.normalise == "data":
        return data
    config = resolve_model_data_config(load())
    return dataclasses.replace(data, mean=tuple(config["mean"]), std=tuple(config["std"]))


def batches_of(chosen: argparse.Namespace, data: ImageData) -> Batches:
    """Augmented mini-batches, on the CPU: what measures them takes them to its device one at a time."""
    size = chosen.hessian_batch_size
    check_batch_size(size, "hessian_batch_size")
    return hessian_batches(data, recipe_of(chosen), seed=chosen.seed, fraction=chosen.fraction, batch_size=size)


def labelled_models(
    chosen: argparse.Namespace,
    data: ImageData,
    device: str,
    check: Callable[[nn.Module, ImageData], None] = check_fit,
) -> dict[str, nn.Module]:
    """The networks of ``--checkpoint [NAME=]FILE ...`` by the names that results and figures show.

    Raises:
        ValueError: two have names of which the same files would be made, or one does not pass ``check``.
    """
    networks = [(name, network_of(chosen, path, len(data.classes)), path) for name, path in chosen.checkpoint]
    names = [network.name if name is None else name for name, network, _ in networks]
    stem, count = Counter(map(file_stem, names)).most_common(1)[0]
    if count > 1:
        raise ValueError(f"checkpoint: {count} are called {stem!r}, expected one; give them as NAME=FILE")
    models = [network.build(checkpoint=path).to(device) for _, network, path in networks]
    for model in models:
        check(model, data)
    return dict(zip(names, models, strict=True))
