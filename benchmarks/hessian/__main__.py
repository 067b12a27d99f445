"""``python -m benchmarks.hessian``: top eigenvalues at equal accuracy, a density, errors and memory of one product.

A tool climbs its ladder of settings until its five eigenvalues are within 1e-3 of those of float64 double backward; its
time is that of the first setting that gets there, the building of graphs included, in a process of its own. Tools that
are not installed are left out (``pip install '.[peers]'``). Writes benchmarks/results/hessian.md and hessian.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ..report import RESULTS, line, machine, save
from .jobs import density_seconds, prepare, product_errors, product_peak, run, top, truth
from .problem import PROBLEMS
from .tools import PRODUCTS, TOOLS

WANTED, ACCURACY, STEPS = 5, 1e-3, 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hessian", description=__doc__)
    parser.add_argument("--problem", dest="problems", action="append", choices=PROBLEMS, help="default: vit, resnet")
    parser.add_argument("--memory", choices=PROBLEMS, default="vit16", help="the problem whose memory is measured")
    parser.add_argument("--tool", dest="tools", action="append", choices=TOOLS, help="default: all that are installed")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that one run of one tool may take")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    tools = {name: TOOLS[name] for name in chosen.tools or TOOLS if TOOLS[name].installed()}
    products = [name for name in PRODUCTS if name.split(",")[0] in tools]
    results: dict[str, Any] = {"top": [], "density": [], "errors": {}, "memory": []}
    for name in chosen.problems or ("vit", "resnet"):
        values = run(truth, (name, WANTED), 10 * chosen.limit)
        if isinstance(values, dict):
            parser.exit(1, f"float64 eigenvalues of {PROBLEMS[name].title}: {values['failed']}\n")
        print(f"{PROBLEMS[name].title}: {', '.join(f'{value:.5g}' for value in values)}", flush=True)
        for tool in tools:
            results["top"].append(_climb(name, tool, values, chosen.limit))
            print(results["top"][-1], flush=True)
        for tool, what in tools.items():
            if what.density is not None:
                found = run(density_seconds, (name, tool, STEPS), chosen.limit)
                results["density"].append({"problem": name, "tool": tool} | found)
                print(results["density"][-1], flush=True)
        results["errors"][name] = run(product_errors, (name, products), chosen.limit)
        print(results["errors"][name], flush=True)
    run(prepare, (chosen.memory,), 10 * chosen.limit)  # what training frees would hide a part of the first peak
    for tool in products:
        results["memory"].append({"tool": tool} | run(product_peak, (chosen.memory, tool), chosen.limit))
        print(results["memory"][-1], flush=True)
    _write(chosen.out, results, PROBLEMS[chosen.memory].title)


def _climb(problem: str, tool: str, values: list[float], limit: float) -> dict[str, Any]:
    """The first setting that is accurate, or the last one that was tried; all attempts."""
    attempts = []
    for setting in TOOLS[tool].settings:
        found = run(top, (problem, tool, WANTED, setting), limit)
        if "failed" not in found:
            found["error"] = _error(found.pop("values"), values)
        attempts.append({"setting": setting} | found)
        if "failed" in found or found["error"] <= ACCURACY:
            break
    return {"problem": problem, "tool": tool, "reached": attempts[-1].get("error", 1.0) <= ACCURACY, "tries": attempts}


def _error(got: list[float], want: list[float]) -> float:
    """The largest relative error of an eigenvalue, in order of falling magnitude."""
    got_, want_ = torch.tensor(got, dtype=torch.float64), torch.tensor(want, dtype=torch.float64)
    return float(((got_ - want_) / want_).abs().max())


def _write(folder: Path, results: dict[str, Any], memory: str) -> None:
    made_on = machine()
    sections = [_top_table(results["top"]), _density_table(results["density"])]
    sections += [_error_table(results["errors"]), _memory_table(memory, results["memory"])]
    note = f"{made_on}; float32, two threads, one run each in a process of its own; `make bench-hessian` remakes it."
    save(folder, "hessian", {"machine": made_on} | results, "\n\n".join([*sections, note]))


def _top_table(rows: list[dict[str, Any]]) -> str:
    own = {row["problem"]: row["tries"][-1]["seconds"] for row in rows if row["tool"] == "alternet"}
    what = f"{WANTED} eigenvalues to {ACCURACY:g} by"
    lines = [f"| network | {what} | setting | products | seconds | error | alternet is faster |", "|---" * 7 + "|"]
    for row in rows:
        last = row["tries"][-1]
        title = [PROBLEMS[row["problem"]].title, TOOLS[row["tool"]].title, f"{last['setting']:g}"]
        if "failed" in last:
            lines.append(line([*title, "", last["failed"], "", ""]))
            continue
        ratio = f"{last['seconds'] / own[row['problem']]:.1f}x" if row["reached"] else "not reached"
        lines.append(line([*title, last["products"], f"{last['seconds']:.1f}", f"{last['error']:.0e}", ratio]))
    return "\n".join(lines)


def _density_table(rows: list[dict[str, Any]]) -> str:
    own = {row["problem"]: row["seconds"] for row in rows if row["tool"] == "alternet"}
    lines = [f"| network | density, one probe, {STEPS} steps, by | seconds | alternet is faster |", "|---|---|---|---|"]
    for row in rows:
        title = [PROBLEMS[row["problem"]].title, TOOLS[row["tool"]].title]
        if "failed" in row:
            lines.append(line([*title, row["failed"], ""]))
        else:
            lines.append(line([*title, f"{row['seconds']:.1f}", f"{row['seconds'] / own[row['problem']]:.1f}x"]))
    return "\n".join(lines)


def _error_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| network | one float32 product by | error, relative to float64 double backward |", "|---|---|---|"]
    for problem, errors in rows.items():
        lines += [
            line([PROBLEMS[problem].title, tool, error if isinstance(error, str) else f"{error:.0e}"])
            for tool, error in errors.items()
        ]
    return "\n".join(lines)


def _memory_table(title: str, rows: list[dict[str, Any]]) -> str:
    lines = [f"| {title}: operator and one product by | added at its peak |", "|---|---|"]
    for row in rows:
        lines.append(line([row["tool"], row.get("failed") or f"{row['bytes'] / 2**20:.0f} MiB"]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
