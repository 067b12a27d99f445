"""The parts that pages of results are made of. Pages are self-contained: no script, no external resource."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from alternet.analysis.claims import Claim, Verdict
from alternet.analysis.files import written_whole
from alternet.analysis.studies import paper
from alternet.analysis.studies.spectra import Estimate, SpectraResult, ape, nep

FOLDER = Path(__file__).parent
MINUS = "\N{MINUS SIGN}"
CSS_CLASSES: dict[Verdict, str] = {"supported": "supported", "not supported": "refuted", "undecided": "undecided"}


def write_document(
    template: str, path: str | os.PathLike[str], title: str, plain: Mapping[str, object], markup: Mapping[str, str]
) -> Path:
    """Fill the places of ``template``, a file beside this one, and write the page, whole; its path.

    ``title`` and ``plain`` are escaped, ``markup`` is not. What stands before the page's words is ``head.html``, with
    the looks of ``page.css``.
    """
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    head, words = (Template((FOLDER / name).read_text(encoding="utf-8")) for name in ("head.html", template))
    escaped = {name: escape(str(value)) for name, value in plain.items()}
    document = head.substitute(title=escape(title), style=style) + words.substitute(escaped, **markup)
    with written_whole(path) as temporary:
        temporary.write_text(document, encoding="utf-8")
    return Path(path)


def data_places(data: Mapping[str, Any]) -> dict[str, object]:
    """What pages say of a data set's summary."""
    return {
        "data": data["name"],
        "train_count": f"{data['train']:,}",
        "test_count": f"{data['test']:,}",
        "image_size": data["image_size"],
        "class_count": data["classes"],
    }


def paper_peaks() -> dict[str, str]:
    """Where the paper's spectra have their peaks."""
    return {f"paper_{name.lower()}_peaks": " and ".join(map(signed, at)) for name, at in paper.SPECTRA_PEAKS.items()}


def recipe_words(recipe: Mapping[str, Any], flip: bool) -> str:
    """How the networks were trained, and what the two convolutional ones are."""
    return (
        f"Trained for {recipe['epochs']} epochs, {recipe['warmup_epochs']} of them warm-up, by AdamW: learning rate "
        f"{recipe['learning_rate']:g}, weight decay {recipe['weight_decay']:g}, batches of {recipe['batch_size']}, "
        f"label smoothing {recipe['label_smoothing']:g}, mixup {recipe['mixup']:g}, cutmix {recipe['cutmix']:g}, "
        f"RandAugment {recipe['rand_augment'] or 'off'}, crops moved by up to {recipe['crop_padding']} pixels, "
        f"{'flips' if flip else 'no flips'}, drop path {recipe['drop_path']:g}. ResNet and AlterNet are one "
        "pre-activation network without and with attention blocks at the ends of its stages."
    )


def verdict_counts(claims: Sequence[Claim]) -> str:
    found = [claim.verdict for claim in claims]
    return " ".join(_badge(verdict, f"{found.count(verdict)} {verdict}") for verdict in CSS_CLASSES)


def verdict_table(claims: Sequence[Claim]) -> str:
    head = "".join(
        f"<th>{text}</th>"
        for text in ("claim, and the statistic", "yours, 95 % interval", "verdict", "the paper reports")
    )
    rows = "\n".join(map(_verdict, claims))
    return (
        f'<div class="wide"><table class="verdicts">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _verdict(claim: Claim) -> str:
    cells = (
        escape(claim.statement) + _small(f"{claim.statistic}; claimed: {claim.expected}"),
        _number(claim.value) + _small(f"[{_number(claim.low)}, {_number(claim.high)}]"),
        _badge(claim.verdict, claim.verdict) + _small(claim.detail),
        escape(claim.paper),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def spectra_table(spectra: Sequence[SpectraResult]) -> str:
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
    return table(columns, rows)


def picture(path: Path | None, shows: str) -> str:
    """An image inside the page; nothing where there is no picture."""
    if path is None:
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{escape(shows)}" src="data:image/png;base64,{content}"></figure>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
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


def signed(value: float) -> str:
    return f"{value:+g}".replace("-", MINUS)
