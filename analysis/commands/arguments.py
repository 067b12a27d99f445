"""Arguments that several commands take, and how their texts are read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from alternet.analysis.files import check_folder

SEEDS = 2**32  # what every generator takes, also with the number of a batch added


def command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    *,
    shared: bool = False,
    resumes: bool = True,
) -> argparse.ArgumentParser:
    """A command that computes something random into a folder: ``run(chosen)`` with what its ``text`` says.

    ``chosen.ranks`` are the processes that ``torchrun`` started for a ``shared`` command, None where there is one.
    ``resumes``: stopped, it keeps what is finished in the folder, and goes on with it.
    """
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    kept = "; a stopped run goes on in it" if resumes else ""
    parser.add_argument("--out", type=Path, required=True, help=f"folder of the results{kept}")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    add_device(parser)
    parser.set_defaults(run=partial(_run_checked, run), shared=shared, resumes=resumes)
    return parser


def _run_checked(run: Callable[[argparse.Namespace], None], chosen: argparse.Namespace) -> None:
    """What hours of work would end in is asked before them."""
    if not 0 <= chosen.seed < SEEDS:
        raise ValueError(f"seed: got {chosen.seed}, expected 0 to {SEEDS - 1}")
    check_folder("out", chosen.out)
    run(chosen)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="torch's name of it (a GPU if there is one)")


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        required=True,
        help="cifar10, cifar100, mnist5k, an .npz file, or a folder with train/ and val/ (or test/)",
    )
    parser.add_argument("--image-size", type=int, help="side to which the pictures of a folder are brought (224)")
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="mirror training pictures (all but mnist5k)"
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", choices=("short", "paper"), default="short", help="short: minutes; paper: 305 epochs (short)"
    )
    parser.add_argument("--epochs", type=int, help="of training, warm-up included (10)")
    parser.add_argument("--warmup-epochs", type=int, help="of them with a rising learning rate (1)")
    parser.add_argument("--batch-size", type=int, help="images per update (32)")
    parser.add_argument("--learning-rate", type=float, help="after the warm-up (0.002)")
    parser.add_argument("--weight-decay", type=float, help="of AdamW, and of the Hessian's L2 term (0.05)")


def add_fraction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fraction", type=float, default=0.1, help="of the training set in Hessian batches (0.1)")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Beside ``--model`` itself."""
    parser.add_argument(
        "--model-args",
        type=named_value,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="arguments of timm.create_model, as in img_size=32 msa_depths=[0,1,1,2]",
    )


def add_measured(parser: argparse.ArgumentParser) -> None:
    """A trained network and the data it is measured on; ``--checkpoint`` itself is the command's."""
    parser.add_argument("--model", help="timm's name of it (what the checkpoint says, if `alternet` wrote it)")
    add_model(parser)
    add_data(parser)
    parser.add_argument(
        "--normalise",
        choices=("data", "model"),
        default="data",
        help="by mean and deviation of the training set, or those that timm lists for the model (data)",
    )


def add_batches(parser: argparse.ArgumentParser) -> None:
    """A trained network and mini-batches of its training set, augmented; ``--checkpoint`` itself is the command's."""
    add_measured(parser)
    add_fraction(parser)
    parser.add_argument("--recipe", choices=("short", "paper"), default="short", help="whose augmentation (short)")
    parser.add_argument("--weight-decay", type=float, help="of the L2 term (the recipe's)")
    parser.add_argument("--hessian-batch-size", type=int, default=16, help="images per mini-batch (16)")


def add_networks(parser: argparse.ArgumentParser) -> None:
    """Trained networks that are measured beside each other (``labelled_models``)."""
    parser.add_argument(
        "--checkpoint",
        type=labelled_path,
        nargs="+",
        required=True,
        metavar="[NAME=]FILE",
        help="trained networks: safetensors, or torch files of nothing but tensors, with names for the figure",
    )


def named_path(text: str) -> tuple[str, str]:
    """``NAME=FILE`` apart."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, got {text!r}")
    return name, path


def numbered_path(text: str) -> tuple[int | None, Path]:
    """``EPOCH=FILE`` apart; None where there is no epoch before the file."""
    number, equals, path = text.partition("=")
    return (int(number), Path(path)) if equals and number.isdecimal() else (None, Path(text))


def labelled_path(text: str) -> tuple[str | None, Path]:
    """``NAME=FILE`` apart; None where there is no name (which has no slash) before the file."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and "/" not in name else (None, Path(text))


def named_value(text: str) -> tuple[str, Any]:
    """A name and a JSON value; what is no JSON is a string."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def epochs(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected epochs as in 0,1,5, got {text!r}") from None
