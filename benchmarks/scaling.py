"""``python -m benchmarks.scaling``: the cost of attention's derivatives as the number of tokens grows, against eager.

Writes benchmarks/results/scaling.json and docs/images/scaling.png. Heads shrink as tokens grow, so that a run of eager
PyTorch keeps within memory and the work of one cell within seconds; times are per head.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from alternet.analysis.figures import style
from alternet.analysis.machine import describe
from alternet.kernels import attention

from .attention import eager
from .measure import interleaved_seconds, median_ratio
from .report import RESULTS
from .tasks import TASKS, prepared

IMAGES = Path(__file__).parents[1] / "docs" / "images"
TOKENS = (49, 100, 197, 257, 577, 1024, 2048, 4096, 8192)
SIZE = 64
SCORES = 2**22  # entries of all score matrices together, at most, as long as there is more than one head
COLOURS = {"forward": "#0072B2", "forward + backward": "#009E73", "double backward": "#D55E00", "jvp(grad)": "#CC79A7"}
LINES = {"alternet": "-", "eager": ":"}


def heads(tokens: int) -> int:
    return max(1, min(256, SCORES // tokens**2))


def compare(tokens: int, task: str) -> dict:
    shapes = [(1, heads(tokens), tokens, SIZE)] * 3
    seconds = interleaved_seconds(
        {"alternet": prepared(task, attention, shapes), "eager": prepared(task, eager, shapes)}
    )
    return {
        "tokens": tokens,
        "heads": heads(tokens),
        "task": task,
        "milliseconds_per_head": {name: 1e3 * statistics.median(s) / heads(tokens) for name, s in seconds.items()},
        "faster_than_eager": median_ratio(seconds["eager"], seconds["alternet"]),
    }


def draw(rows: Sequence[dict], note: str, path: Path) -> None:
    """Left: milliseconds per head of both; right: how many times faster than eager, with a line where they are even."""

    def fill(figure: Figure) -> None:
        costs, ratios = figure.subplots(1, 2)
        for task, colour in COLOURS.items():
            of_task = [row for row in rows if row["task"] == task]
            tokens = [row["tokens"] for row in of_task]
            for name, line in LINES.items():
                costs.plot(tokens, [row["milliseconds_per_head"][name] for row in of_task], line, color=colour)
            ratios.plot(tokens, [row["faster_than_eager"] for row in of_task], "o-", color=colour, ms=4, label=task)
        for name, line in LINES.items():
            costs.plot([], [], line, color=style.GREY, label=name)
        ratios.axhline(1.0, color=style.GREY, linewidth=1)
        costs.set(xscale="log", yscale="log", xlabel="tokens", ylabel="milliseconds per head", title="Cost")
        ratios.set(xscale="log", xlabel="tokens", ylabel="times faster than eager", title="Ratio", ylim=(0, None))
        costs.legend()
        ratios.legend()
        figure.supxlabel(note, fontsize=8, color=style.GREY)

    style.save_figure(path, fill, 4.2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    cells = [(tokens, task) for tokens in options.tokens for task in TASKS]
    rows = [compare(*cell) for cell in tqdm(cells, unit="cell")]
    about = describe()
    note = f"{about['processor']}, torch {about['torch']}, float32, head size {SIZE}; python -m benchmarks.scaling"
    for folder in (options.out, options.images):
        folder.mkdir(parents=True, exist_ok=True)
    (options.out / "scaling.json").write_text(json.dumps({"note": note, "rows": rows}, indent=1) + "\n")
    draw(rows, note, options.images / "scaling.png")


if __name__ == "__main__":
    main()
