"""The command ``alternet``: poster, train, spectra, hessian, features, info.

What the user can mend is one line on stderr and exit status 2. What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from alternet.analysis.data import ImageData
    from alternet.analysis.networks import Network
    from alternet.analysis.recipe import Recipe

USERS_ERRORS = (ValueError, TypeError, FloatingPointError, ModuleNotFoundError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command (by default that of ``sys.argv``); the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = _parser().parse_args(arguments)
    chosen.command_line = shlex.join(["alternet", *arguments])
    try:
        chosen.run(chosen)
    except USERS_ERRORS as error:
        print(f"alternet: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("alternet: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


# Commands


def _poster(chosen: argparse.Namespace) -> None:
    from alternet.analysis.poster import Poster, make_poster

    poster = Poster(
        data=chosen.data,
        recipe=_recipe(chosen),
        image_size=chosen.image_size,
        flip=chosen.flip,
        seed=chosen.seed,
        fraction=chosen.fraction,
        checkpoints=dict(chosen.checkpoint),
    )
    page = make_poster(poster, chosen.out, device=_device(chosen), command=chosen.command_line)
    print(page)


def _train(chosen: argparse.Namespace) -> None:
    from alternet.analysis.networks import Network
    from alternet.analysis.training import FINAL, train

    data = _data(chosen)
    network = Network(chosen.model, chosen.model, {"num_classes": len(data.classes), **dict(chosen.model_args)})
    train(network, data, _recipe(chosen), chosen.out, seed=chosen.seed, device=_device(chosen))
    print(chosen.out / FINAL)


def _spectra(chosen: argparse.Namespace) -> None:
    from alternet.analysis.batches import hessian_batches
    from alternet.analysis.figures import draw_spectra
    from alternet.analysis.spectra import hessian_spectra

    network, model, data = _measured(chosen)
    recipe, device = _recipe(chosen), _device(chosen)
    batches = hessian_batches(
        data, recipe, seed=chosen.seed, fraction=chosen.fraction, batch_size=chosen.hessian_batch_size, device=device
    )
    result = hessian_spectra(
        model.to(device),
        batches,
        k=chosen.k,
        weight_decay=recipe.weight_decay,
        seed=chosen.seed,
        out=chosen.out / "spectra.jsonl",
        network=network.name,
    )
    draw_spectra([result], chosen.out / "spectra.png")
    print(json.dumps(result.summary(), indent=1))


def _hessian(chosen: argparse.Namespace) -> None:
    from torch.nn.functional import cross_entropy

    from alternet.analysis import hessian_report
    from alternet.analysis.batches import hessian_batches
    from alternet.analysis.gauss_newton import GaussNewtonOperator
    from alternet.analysis.hessian import HessianOperator

    _, model, data = _measured(chosen)
    recipe, device = _recipe(chosen), _device(chosen)
    batches = hessian_batches(
        data, recipe, seed=chosen.seed, fraction=chosen.fraction, batch_size=chosen.hessian_batch_size
    )
    kind = {"hessian": HessianOperator, "gauss-newton": GaussNewtonOperator}[chosen.matrix]
    op = kind(model.to(device), cross_entropy, batches, params=chosen.params, weight_decay=recipe.weight_decay)
    reports = {
        "top": lambda: hessian_report.report_top(op, chosen.out, k=chosen.k, tol=chosen.tol, seed=chosen.seed),
        "density": lambda: hessian_report.report_density(
            op, chosen.out, probes=chosen.probes, steps=chosen.steps, seed=chosen.seed
        ),
        "trace": lambda: hessian_report.report_trace(op, chosen.out, products=chosen.products, seed=chosen.seed),
    }
    print(json.dumps(reports[chosen.what](), indent=1))


def _features(chosen: argparse.Namespace) -> None:
    from alternet.analysis.batches import eval_batches
    from alternet.analysis.features import feature_statistics
    from alternet.analysis.figures import draw_fourier, draw_variance
    from alternet.analysis.fourier import Fourier
    from alternet.analysis.progress import reporting
    from alternet.analysis.variance import Variance

    network, model, data = _measured(chosen)
    device = _device(chosen)
    with reporting(f"features of {network.name}") as report:
        fourier, variance = feature_statistics(
            model.to(device),
            eval_batches(data, device=device),
            [Fourier(chosen.axis), Variance()],
            network=network.name,
            out=chosen.out / "sums.jsonl",
            progress=report,
        )
    for name, result, draw in (("fourier", fourier, draw_fourier), ("variance", variance, draw_variance)):
        result.save(chosen.out / f"{name}.json")
        result.save_csv(chosen.out / f"{name}.csv")
        draw([result], chosen.out / f"{name}.png")
        print(chosen.out / f"{name}.png")


def _info(chosen: argparse.Namespace) -> None:
    from alternet.analysis.machine import describe
    from alternet.kernels import available_backends

    for what, value in describe(_device(chosen)).items():
        print(f"{what:10} {value}")
    print("backends of alternet.kernels:")
    for name, reason in available_backends().items():
        print(f"  {name:10} {'available' if reason is None else f'not available: {reason}'}")


# What commands share


def _data(chosen: argparse.Namespace) -> ImageData:
    from alternet.analysis.data import load_data

    return load_data(chosen.data, image_size=chosen.image_size, flip=chosen.flip)


def _recipe(chosen: argparse.Namespace) -> Recipe:
    from alternet.analysis.recipe import RECIPES

    names = ("epochs", "warmup_epochs", "batch_size", "learning_rate", "weight_decay")
    return RECIPES[chosen.recipe].changed(**{name: getattr(chosen, name, None) for name in names})


def _measured(chosen: argparse.Namespace) -> tuple[Network, nn.Module, ImageData]:
    """The network of ``--checkpoint``, and the data normalised as it wants them."""
    import dataclasses

    from timm.data import resolve_model_data_config

    from alternet.analysis.networks import Network

    data = _data(chosen)
    network = _network_of(chosen.checkpoint)
    if chosen.model is not None:
        network = Network(chosen.model, chosen.model, {"num_classes": len(data.classes), **dict(chosen.model_args)})
    elif network is None:
        raise ValueError(f"model: {chosen.checkpoint} does not say what network it is of; give --model")
    model = network.build(checkpoint=chosen.checkpoint)
    if chosen.normalise == "model":
        config = resolve_model_data_config(model)
        data = dataclasses.replace(data, mean=tuple(config["mean"]), std=tuple(config["std"]))
    return network, model, data


def _network_of(checkpoint: Path) -> Network | None:
    """The network that a checkpoint of this program says it is of; None for files of others."""
    from alternet.analysis.checkpoints import checkpoint_state
    from alternet.analysis.networks import Network

    state = checkpoint_state(checkpoint) if checkpoint.suffix == ".safetensors" else None
    return None if state is None else Network(**state["network"])


def _device(chosen: argparse.Namespace) -> str:
    import torch

    if chosen.device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=chosen.device)
    except (RuntimeError, AssertionError) as error:  # unknown, absent, or not in this build of torch
        raise ValueError(f"device: {chosen.device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen.device


# Arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="alternet", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="command")

    poster = _command(commands, "poster", _poster, "train the three networks, make the figures and the page")
    _add_data(poster)
    _add_recipe(poster)
    _add_fraction(poster)
    poster.add_argument(
        "--checkpoint",
        type=_named_path,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="weights of resnet, vit or alternet, which then is not trained; several times for several networks",
    )

    train = _command(commands, "train", _train, "train any timm model")
    train.add_argument("--model", required=True, help="timm's name of it")
    _add_model_arguments(train)
    _add_data(train)
    _add_recipe(train)

    spectra = _command(commands, "spectra", _spectra, "figure 2 of any timm model: Hessian max-eigenvalue spectra")
    _add_measured(spectra)
    _add_fraction(spectra)
    _add_hessian_batches(spectra)
    spectra.add_argument("-k", type=int, default=5, help="eigenvalues of each mini-batch (5)")

    hessian = _command(
        commands, "hessian", _hessian, "largest eigenvalues, spectral density or trace, of the loss over many images"
    )
    hessian.add_argument("what", choices=("top", "density", "trace"))
    _add_measured(hessian)
    _add_fraction(hessian)
    _add_hessian_batches(hessian)
    hessian.add_argument("--matrix", choices=("hessian", "gauss-newton"), default="hessian", help="(hessian)")
    hessian.add_argument("--params", help="regular expression: the parameters with it in their name (all)")
    hessian.add_argument("-k", type=int, default=5, help="top: eigenvalues (5)")
    hessian.add_argument("--tol", type=float, default=1e-3, help="top: residuals relative to the largest (0.001)")
    hessian.add_argument("--probes", type=int, default=5, help="density: random vectors (5)")
    hessian.add_argument("--steps", type=int, default=50, help="density: products of each (50)")
    hessian.add_argument("--products", type=int, default=60, help="trace: products in all (60)")

    features = _command(commands, "features", _features, "figures 4 and 6 of a timm ResNet, ViT or AlterNet")
    _add_measured(features)
    features.add_argument(
        "--axis", choices=("exact", "paper"), default="exact", help="frequency axis: exact, or the authors' (exact)"
    )

    info = commands.add_parser("info", help="what runs here, and why something does not")
    _add_device(info)
    info.set_defaults(run=_info)
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    command.add_argument("--out", type=Path, required=True, help="folder of the results; a stopped run goes on in it")
    command.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    _add_device(command)
    command.set_defaults(run=run)
    return command


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", help="torch's name of it (a GPU if there is one)")


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        required=True,
        help="cifar10, cifar100, mnist5k, an .npz file, or a folder with train/ and val/ (or test/)",
    )
    command.add_argument("--image-size", type=int, help="side to which the pictures of a folder are brought (224)")
    command.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="mirror training pictures (all but mnist5k)"
    )


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--recipe", choices=("short", "paper"), default="short", help="short: minutes; paper: 305 epochs (short)"
    )
    command.add_argument("--epochs", type=int, help="of training, warm-up included (10)")
    command.add_argument("--warmup-epochs", type=int, help="of them with a rising learning rate (1)")
    command.add_argument("--batch-size", type=int, help="images per update (32)")
    command.add_argument("--learning-rate", type=float, help="after the warm-up (0.002)")
    command.add_argument("--weight-decay", type=float, help="of AdamW, and of the Hessian's L2 term (0.05)")


def _add_fraction(command: argparse.ArgumentParser) -> None:
    command.add_argument("--fraction", type=float, default=0.1, help="of the training set in Hessian batches (0.1)")


def _add_hessian_batches(command: argparse.ArgumentParser) -> None:
    command.add_argument("--recipe", choices=("short", "paper"), default="short", help="whose augmentation (short)")
    command.add_argument("--weight-decay", type=float, help="of the L2 term (the recipe's)")
    command.add_argument("--hessian-batch-size", type=int, default=16, help="images per mini-batch (16)")


def _add_measured(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint", type=Path, required=True, help="safetensors, or a torch file of nothing but tensors"
    )
    command.add_argument("--model", help="timm's name of it (what the checkpoint says, if `alternet` wrote it)")
    _add_model_arguments(command)
    _add_data(command)
    command.add_argument(
        "--normalise",
        choices=("data", "model"),
        default="data",
        help="by mean and deviation of the training set, or those that timm lists for the model (data)",
    )


def _add_model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model-args",
        type=_named_value,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="arguments of timm.create_model, as in img_size=32 msa_depths=[0,1,1,2]",
    )


def _named_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, got {text!r}")
    return name, path


def _named_value(text: str) -> tuple[str, Any]:
    """A name and a JSON value; what is no JSON is a string."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
