"""Bytes that graphs keep, by hand and by prediction."""

import math
import os

import pytest
import torch
from torch.nn import functional as F

from alternet.analysis.curvature import graph_memory
from alternet.analysis.curvature.gauss_newton import GaussNewtonOperator
from alternet.analysis.curvature.graph_memory import available_bytes, predicted_bytes, saved_bytes
from alternet.analysis.curvature.hessian import HessianOperator

from .small_networks import batch, build


def test_a_storage_counts_once():
    x = torch.randn(1000, requires_grad=True)

    def build_graph():
        y = x.exp()  # keeps y
        return (y * y.view(10, 100).flatten()).sum()  # keeps y, twice

    assert saved_bytes(build_graph, []) == 4000
    assert saved_bytes(lambda: (x * x).sum(), [x]) == 0


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize("name", ["convolutional", "vit", "alternet"])
def test_the_bytes_of_a_batch_follow_from_those_of_a_part(name, kind):
    images, targets = batch()
    data = (images.repeat(4, 1, 1, 1), targets.repeat(4))
    op = kind(build(name), F.cross_entropy, data, engine="jvp")
    (whole,) = op._evaluations
    known = [*whole.model.parameters(), whole.images, whole.targets]
    exact = saved_bytes(lambda: op._graph(whole), known)
    assert exact > 0
    assert predicted_bytes(op._graph, [whole]) == pytest.approx(exact, rel=0.02)
    halves = [whole.part(10), whole.part(10)]
    assert predicted_bytes(op._graph, halves) >= exact


def test_a_bound_that_is_enough_takes_one_small_graph():
    op = HessianOperator(build("vit"), F.cross_entropy, batch(), engine="jvp")
    (whole,) = op._evaluations
    pieces = [whole, whole.part(1)]
    exact = predicted_bytes(op._graph, pieces)
    seen: list[int] = []

    def counting(evaluation):
        seen.append(len(evaluation.images))
        return op._graph(evaluation)

    bound = predicted_bytes(counting, pieces, enough=1e12)
    assert bound >= exact
    assert seen == [2]
    assert predicted_bytes(counting, pieces, enough=bound - 1) == exact
    assert seen == [2, 2, 4]


def test_available_memory_is_part_of_what_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes(torch.device("cpu")) <= total


def test_a_container_sets_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_memory, "CONTROL_GROUP", tmp_path)
    assert graph_memory._container_bytes() == math.inf
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 100\n")
    assert graph_memory._container_bytes() == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    assert graph_memory._container_bytes() == 400
