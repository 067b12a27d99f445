"""``alternet hessian``: top, density, trace of one matrix; spectra of mini-batches; the study of figures 2 and 8d."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alternet.analysis.commands.arguments import (
    add_batches,
    add_data,
    add_fraction,
    add_recipe,
    command,
    epochs,
    numbered_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from alternet.analysis.solvers.operators import LinearOperator
    from alternet.analysis.studies.training_spectra import Snapshot
    from alternet.analysis.training.data import ImageData
    from alternet.analysis.training.networks import Network


def add(commands: Any) -> None:
    text = "Hessian eigenvalues and spectra of the loss"
    hessian = commands.add_parser("hessian", help=text, description=f"{text}.", allow_abbrev=False)
    kinds = hessian.add_subparsers(required=True, metavar="what")

    whole = partial(command, kinds, shared=True, resumes=False)  # of one matrix, by products that nothing keeps
    top = whole("top", _top, "the largest eigenvalues of the Hessian over many images")
    _add_matrix(top)
    top.add_argument("-k", type=int, default=5, help="eigenvalues (5)")
    top.add_argument(
        "--which",
        choices=("LM", "LA", "SA", "BE"),
        default="LM",
        help="largest magnitude, largest, smallest, both ends (LM)",
    )
    top.add_argument("--block-size", type=int, default=1, help="vectors at once: finds as many copies of one (1)")
    top.add_argument(
        "--draft", choices=("bfloat16", "float16"), help="search by products in this precision, then correct (no)"
    )
    top.add_argument("--tol", type=float, default=1e-3, help="residuals relative to the largest (0.001)")

    density = whole("density", _density, "the spectral density of the Hessian over many images")
    _add_matrix(density, several=True)
    density.add_argument("--probes", type=int, default=5, help="random vectors (5)")
    density.add_argument("--steps", type=int, default=50, help="products of each (50)")

    trace = whole("trace", _trace, "trace and Frobenius norm of the Hessian over many images")
    _add_matrix(trace)
    trace.add_argument("--products", type=int, default=60, help="in all (60)")

    spectra = command(
        kinds, "spectra", _spectra, "figure 2: the largest eigenvalues, mini-batch by mini-batch", shared=True
    )
    spectra.add_argument(
        "--checkpoint",
        type=numbered_path,
        nargs="+",
        required=True,
        metavar="[EPOCH=]FILE",
        help="one or several of a training, or of several networks; files of other programs with their epoch",
    )
    add_batches(spectra)
    spectra.add_argument("-k", type=int, default=5, help="eigenvalues of each mini-batch (5)")
    spectra.add_argument("--tol", type=float, default=1e-3, help="residuals relative to the largest (0.001)")
    _add_operator(spectra)

    study = command(kinds, "study", _study, "figures 2 and 8d: train four networks, measure them over epochs, judge")
    add_data(study)
    add_recipe(study)
    add_fraction(study)
    study.add_argument("--less", type=float, default=0.06, help="share of the data for one more ViT (0.06)")
    study.add_argument(
        "--keep-epochs",
        type=epochs,
        metavar="E,E,...",
        help="measure after these and the last (after the warm-up and every third of the rest)",
    )


def _add_matrix(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="safetensors, or a torch file of nothing but tensors"
    )
    add_batches(parser)
    parser.add_argument("--matrix", choices=("hessian", "gauss-newton"), default="hessian", help="(hessian)")
    _add_operator(parser, several=several)


def _add_operator(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Arguments of ``HessianOperator``; ``several``: of one operator for every ``--params``."""
    parser.add_argument(
        "--params",
        nargs="+" if several else 1,
        default=[None],
        metavar="NAME_OR_REGEX",
        help="a parameter, or those of a module, by name; else those in whose name the expression is found (all)"
        + ("; several for a panel each" if several else ""),
    )
    parser.add_argument(
        "--engine", choices=("auto", "graph", "jvp"), default="auto", help="keep graphs, or memory (auto: by memory)"
    )
    parser.add_argument("--micro-batch", type=int, help="at most so many images at a time, for less memory (all)")
    parser.add_argument(
        "--batch-norm", choices=("running", "batch"), default="running", help="by which statistics (running)"
    )
    parser.add_argument("--dropout", choices=("off", "frozen"), default="off", help="off, or with frozen masks (off)")


def _operator_arguments(chosen: argparse.Namespace) -> dict[str, Any]:
    """But for ``params``."""
    return {name: getattr(chosen, name) for name in ("engine", "micro_batch", "batch_norm", "dropout")}


def _operators(chosen: argparse.Namespace) -> dict[str, Callable[[], LinearOperator]]:
    """What makes the operator of every ``--params``, by its name."""
    from torch.nn.functional import cross_entropy

    from alternet.analysis.commands.inputs import batches_of, data_of, device_of, network_of, normalised, recipe_of
    from alternet.analysis.curvature.gauss_newton import GaussNewtonOperator
    from alternet.analysis.curvature.hessian import HessianOperator
    from alternet.analysis.distributed import distributed

    data, device = data_of(chosen), device_of(chosen)
    network = network_of(chosen, chosen.checkpoint, len(data.classes))
    model = _load(network, chosen.checkpoint, data, device)
    batches = batches_of(chosen, normalised(data, lambda: model, chosen))
    kind: Callable[..., Any] = {"hessian": HessianOperator, "gauss-newton": GaussNewtonOperator}[chosen.matrix]
    if chosen.ranks is not None:
        kind = partial(distributed, kind)
    rest = {"weight_decay": recipe_of(chosen).weight_decay, "seed": chosen.seed, **_operator_arguments(chosen)}
    return {
        params or "all parameters": partial(kind, model, cross_entropy, batches, params=params, **rest)
        for params in chosen.params
    }


def _operator(chosen: argparse.Namespace) -> LinearOperator:
    (make,) = _operators(chosen).values()
    return make()


def _top(chosen: argparse.Namespace) -> None:
    from alternet.analysis.studies.hessian_report import report_top

    solver = {name: getattr(chosen, name) for name in ("k", "which", "tol", "block_size", "seed", "draft")}
    _print(report_top(_operator(chosen), chosen.out, **solver))


def _density(chosen: argparse.Namespace) -> None:
    from alternet.analysis.studies.hessian_report import report_density

    _print(report_density(_operators(chosen), chosen.out, probes=chosen.probes, steps=chosen.steps, seed=chosen.seed))


def _trace(chosen: argparse.Namespace) -> None:
    from alternet.analysis.studies.hessian_report import report_trace

    ((name, make),) = _operators(chosen).items()
    _print(report_trace(make(), chosen.out, name=name, products=chosen.products, seed=chosen.seed))


def _spectra(chosen: argparse.Namespace) -> None:
    from alternet.analysis.commands.inputs import recipe_of
    from alternet.analysis.figures import draw_estimates, draw_spectra, draw_training_spectra
    from alternet.analysis.studies.training_spectra import course_rows, spectra_over_training

    snapshots, unit = _snapshots(chosen)
    course = spectra_over_training(
        snapshots,
        chosen.out,
        k=chosen.k,
        tol=chosen.tol,
        seed=chosen.seed,
        params=chosen.params[0],
        weight_decay=recipe_of(chosen).weight_decay,
        ranks=chosen.ranks,
        **_operator_arguments(chosen),
    )
    draw_spectra([list(of.values())[-1] for of in course.values()], chosen.out / "spectra.png")
    if any(len(of) > 1 for of in course.values()):
        draw_training_spectra(course, chosen.out / "training.png", unit=unit)
        draw_estimates(course, chosen.out / "estimates.png", unit=unit)
    _print(course_rows(course))


def _snapshots(chosen: argparse.Namespace) -> tuple[list[Snapshot], str]:
    """What ``--checkpoint`` names, and what their numbers count: epochs, or where no file says, the files."""
    from alternet.analysis.commands.inputs import batches_of, data_of, device_of, network_of, normalised
    from alternet.analysis.studies.training_spectra import Snapshot
    from alternet.analysis.training.checkpoints import checkpoint_epoch

    paths = [path for _, path in chosen.checkpoint]
    numbers = [checkpoint_epoch(path) if given is None else given for given, path in chosen.checkpoint]
    unit = "epoch"
    if all(number is None for number in numbers):
        unit, numbers = "checkpoint", list(range(1, 1 + len(paths)))
    data, device = data_of(chosen), device_of(chosen)
    snapshots = []
    for number, path in zip(numbers, paths, strict=True):
        if number is None:
            raise ValueError(f"checkpoint: {path} does not say of which epoch it is; give it as EPOCH={path}")
        network = network_of(chosen, path, len(data.classes))
        load = partial(_load, network, path, data, device)
        batches = batches_of(chosen, normalised(data, load, chosen))
        snapshots.append(Snapshot(network.name, number, load, batches))
    return snapshots, unit


def _load(network: Network, checkpoint: Path, data: ImageData, device: str) -> nn.Module:
    from alternet.analysis.training.networks import check_fit

    model = network.build(checkpoint=checkpoint).to(device)
    check_fit(model, data)
    return model


def _study(chosen: argparse.Namespace) -> None:
    from alternet.analysis.commands.inputs import device_of, recipe_of
    from alternet.analysis.studies.hessian_study import HessianStudy, make_hessian_study

    study = HessianStudy(
        data=chosen.data,
        recipe=recipe_of(chosen),
        image_size=chosen.image_size,
        flip=chosen.flip,
        seed=chosen.seed,
        fraction=chosen.fraction,
        less=chosen.less,
        epochs=chosen.keep_epochs,
    )
    claims = make_hessian_study(study, chosen.out, device=device_of(chosen), command=chosen.command_line)
    print(chosen.out / "index.html")
    for claim in claims:
        print(f"{claim.verdict:14} {claim.statement}")
        print(f"{'':14} {claim.statistic}: {claim.value:.3g} [{claim.low:.3g}, {claim.high:.3g}], {claim.detail}")


def _print(result: Any) -> None:
    print(json.dumps(result, indent=1))
