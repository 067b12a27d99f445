"""One self-contained HTML page of a poster's results: no script, no external resource, light and dark.

``page.html`` has the words and the looks; this file has the numbers.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from alternet.analysis import paper
from alternet.analysis.claims import Claim, Verdict
from alternet.analysis.files import written_whole
from alternet.analysis.spectra import Estimate, SpectraResult, ape, nep

TEMPLATE = Path(__file__).with_name("page.html")
MINUS = "\N{MINUS SIGN}"
CSS_CLASSES: dict[Verdict, str] = {"supported": "supported", "not supported": "refuted", "undecided": "undecided"}
PICTURES = {
    "training": "Training: loss and accuracy over epochs",
    "spectra": "Densities of the Hessian eigenvalues of largest magnitude",
    "warmup": "The same densities after the warm-up epochs",
    "fourier": "Relative log amplitudes by frequency and by depth",
    "variance": "Variance of feature maps by depth",
}


@dataclass(frozen=True)
class Page:
    """What the page shows.

    ``settings`` are the poster's configuration; ``parameters`` and ``accuracies`` (0 to 1) go by network, in the order
    of the page; ``figures`` are PNG files by the names of ``PICTURES``, of which "training" and "warmup" may be absent;
    ``seconds`` go by part of the job; ``machine`` is what it ran on; ``command`` remakes it.
    """

    settings: Mapping[str, Any]
    parameters: Mapping[str, int]
    accuracies: Mapping[str, float]
    figures: Mapping[str, Path]
    spectra: Sequence[SpectraResult]
    claims: Sequence[Claim]
    seconds: Mapping[str, float]
    machine: Mapping[str, str]
    command: str


def write_page(page: Page, path: str | os.PathLike[str]) -> Path:
    """Write the page, whole; its path."""
    data = page.settings["data"]
    found = [claim.verdict for claim in page.claims]
    plain = {
        "data": data["name"],
        "networks": ", ".join(page.parameters),
        "train_count": f"{data['train']:,}",
        "test_count": f"{data['test']:,}",
        "image_size": data["image_size"],
        "class_count": data["classes"],
        "training": _training(page),
        "eigenvalues": page.spectra[0].values.shape[1],
        "batch_size": page.spectra[0].sizes[0],
        "paper_accuracies": ", ".join(f"{name} {value:.2f} %" for name, value in paper.ACCURACY.items()),
        "paper_stage_ends": ", ".join(_signed(stage[-1]) for stage in paper.RESNET_STAGES),
        **{f"paper_{name.lower()}_peaks": " and ".join(map(_signed, at)) for name, at in paper.SPECTRA_PEAKS.items()},
        "command": page.command,
        "settings": json.dumps(page.settings, indent=1),
    }
    markup = {
        "counts": " ".join(_badge(verdict, f"{found.count(verdict)} {verdict}") for verdict in CSS_CLASSES),
        "verdicts": "\n".join(map(_verdict, page.claims)),
        "network_table": _network_table(page),
        "spectra_table": _spectra_table(page.spectra),
        "machine_table": _table((), page.machine.items()),
        "seconds_table": _table((), ((part, f"{value:.1f} s") for part, value in _with_total(page.seconds).items())),
        **{f"{name}_picture": _picture(page.figures.get(name), shows) for name, shows in PICTURES.items()},
    }
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    document = template.substitute({name: escape(str(value)) for name, value in plain.items()}, **markup)
    with written_whole(path) as temporary:
        temporary.write_text(document, encoding="utf-8")
    return Path(path)


def _training(page: Page) -> str:
    if "training" not in page.figures:
        return "The weights are those of the checkpoints given."
    recipe = page.settings["recipe"]
    return (
        f"Trained for {recipe['epochs']} epochs, {recipe['warmup_epochs']} of them warm-up, by AdamW: learning rate "
        f"{recipe['learning_rate']:g}, weight decay {recipe['weight_decay']:g}, batches of {recipe['batch_size']}, "
        f"label smoothing {recipe['label_smoothing']:g}, mixup {recipe['mixup']:g}, cutmix {recipe['cutmix']:g}, "
        f"RandAugment {recipe['rand_augment'] or 'off'}, crops moved by up to {recipe['crop_padding']} pixels, "
        f"{'flips' if page.settings['data']['flip'] else 'no flips'}, drop path {recipe['drop_path']:g}. ResNet and "
        "AlterNet are one pre-activation network without and with attention blocks at the ends of its stages."
    )


def _verdict(claim: Claim) -> str:
    cells = (
        escape(claim.statement) + _small(f"{claim.statistic}; claimed: {claim.expected}"),
        _number(claim.value) + _small(f"[{_number(claim.low)}, {_number(claim.high)}]"),
        _badge(claim.verdict, claim.verdict) + _small(claim.detail),
        escape(claim.paper),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _network_table(page: Page) -> str:
    rows = (
        (name, f"{count / 1e6:.2f} million", f"{page.accuracies[name]:.1%}") for name, count in page.parameters.items()
    )
    return _table(("network", "parameters", "test accuracy"), rows)


def _spectra_table(spectra: Sequence[SpectraResult]) -> str:
    columns = ("network", "NEP", "APE", "mini-batches", "products each", "sign unsure", "not converged")
    rows = (
        (
            result.network,
            _estimate(nep(result.values), "{:.1%}"),
            _estimate(ape(result.values), "{:.3g}"),
            str(len(result.values)),
            f"{result.products.mean():.1f}",
            f"{(abs(result.values) <= result.residuals).sum()} of {result.values.size}",
            f"{(~result.converged).sum()} of {result.values.size}",
        )
        for result in spectra
    )
    return _table(columns, rows)


def _with_total(seconds: Mapping[str, float]) -> dict[str, float]:
    return {**seconds, "together": sum(seconds.values())}


def _picture(path: Path | None, shows: str) -> str:
    """An image inside the page; nothing where there is no picture."""
    if path is None:
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{escape(shows)}" src="data:image/png;base64,{content}"></figure>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="wide"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _badge(verdict: Verdict, text: str) -> str:
    return f'<span class="badge {CSS_CLASSES[verdict]}">{escape(text)}</span>'


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>"


def _estimate(estimate: Estimate, form: str) -> str:
    value, low, high = (
        "none" if math.isnan(part) else form.format(part) for part in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3g}".replace("-", MINUS)


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", MINUS)
