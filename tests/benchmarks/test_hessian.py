"""The benchmark of Hessian tools on a toy: what it measures is right, and it says what a tool cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.hessian import jobs
from benchmarks.hessian.problem import PROBLEMS, KeptGraph, true_eigenvalues
from benchmarks.hessian.tools import PRODUCTS, TOOLS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def files(tmp_path_factory, monkeypatch):
    """Networks are kept once for all tests of this module."""
    folder = tmp_path_factory.getbasetemp() / "hessian-benchmark"
    monkeypatch.setattr("benchmarks.hessian.problem.FILES", folder)


def test_a_problem_is_the_same_in_every_call():
    (model, images, targets), (again, *batch) = PROBLEMS["toy"].make(), PROBLEMS["toy"].make()
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert torch.equal(images, batch[0])
    assert torch.equal(targets, batch[1])
    assert not model.training


@pytest.mark.parametrize("tool", [name for name, tool in TOOLS.items() if tool.installed()])
def test_every_tool_finds_the_largest_eigenvalue(tool):
    want = true_eigenvalues(PROBLEMS["toy"], 1)
    values, products = TOOLS[tool].top(PROBLEMS["toy"], 1, TOOLS[tool].settings[-1])
    torch.testing.assert_close(values.double(), want, rtol=1e-3, atol=0)
    assert products > 1


def test_the_kept_graph_is_the_hessian():
    """Against a difference of gradients in float64."""
    model, images, targets = PROBLEMS["toy"].make(torch.float64)
    product = KeptGraph(model, images, targets)
    parameters = list(model.parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]
    step, gradients = 1e-6, []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, change in zip(parameters, direction, strict=True):
                parameter.add_(change, alpha=sign * step)
        loss = torch.nn.functional.cross_entropy(model(images), targets)
        gradients.append(torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, parameters)]))
    want = (gradients[0] - gradients[1]) / (2 * step)
    with torch.no_grad():
        for parameter, change in zip(parameters, direction, strict=True):
            parameter.add_(change, alpha=step)
    got = KeptGraph(model, images, targets)(torch.cat([change.flatten() for change in direction]))
    assert product.products == 0
    assert float((got - want).norm() / want.norm()) < 1e-6


def _explode() -> None:
    raise RuntimeError("no eigenvalues today\nand more")


def _sleep() -> None:
    import time

    time.sleep(60)


def test_what_a_job_raises_is_its_result():
    assert jobs.run(_explode, (), 60.0) == {"failed": "RuntimeError: no eigenvalues today"}


def test_a_job_ends_at_its_limit():
    assert jobs.run(_sleep, (), 1.0) == {"failed": "more than 1 s"}


def test_the_whole_command(tmp_path):
    command = [sys.executable, "-m", "benchmarks.hessian", "--problem", "toy", "--memory", "toy"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--tool", "alternet", "--out", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "hessian.json").read_text())
    assert results["top"][0]["reached"]
    assert results["density"][0]["products"] == 30
    assert all(row["bytes"] > 0 for row in results["memory"])
    assert set(results["errors"]["toy"]) == {name for name in PRODUCTS if name.startswith("alternet")}
    assert all(error < 1e-5 for error in results["errors"]["toy"].values())
    assert "| a toy | alternet |" in (tmp_path / "hessian.md").read_text()
