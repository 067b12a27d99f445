"""Two and three ranks against one: products, eigenvalues, densities, traces, and what each rank keeps."""

import pytest
import torch

from alternet.analysis.curvature.gauss_newton import GaussNewtonOperator
from alternet.analysis.curvature.hessian import HessianOperator
from alternet.analysis.distributed import Ranks, process_group
from alternet.analysis.solvers.density import spectral_density
from alternet.analysis.solvers.lanczos import top_eigenvalues
from alternet.analysis.solvers.trace import moments

from . import toys
from .launched import run

TOLERANCE = {"one batch": 1e-6, "batches": 1e-12}  # the first is in float32
CASES = pytest.mark.parametrize("case", TOLERANCE)


def operator(case):
    dtype, data = {"one batch": (torch.float32, toys.one_batch()), "batches": (torch.float64, toys.batches())}[case]
    return HessianOperator(toys.network(dtype), toys.LOSS, data, weight_decay=0.1)


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def found(request, tmp_path_factory):
    return run("numbers", request.param, tmp_path_factory.mktemp("ranks"))


def error(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@CASES
def test_products_are_those_of_one_rank(found, case):
    op = operator(case)
    expected = (op @ toys.vector(op.shape[0], op.dtype))[:, None].expand(-1, 3)  # by @, and two columns of matmat
    for rank in found:
        assert error(rank[case]["product"], expected) < TOLERANCE[case]
        assert rank[case]["images"] == sum(toys.SIZES)


def test_gauss_newton(found):
    op = GaussNewtonOperator(toys.network(), toys.LOSS, toys.batches())
    expected = op @ toys.vector(op.shape[0])
    assert error(found[0]["gauss-newton"][:, 0], expected) < 1e-12


@CASES
def test_top_eigenvalues_are_those_of_one_rank(found, case):
    one, several = top_eigenvalues(operator(case), 3, tol=1e-4, vectors=True), found[0][case]
    assert bool(one.converged.all())
    assert several["products"] == one.products
    assert error(several["values"], one.values) < TOLERANCE[case]
    assert error(several["drafted"], one.values) < TOLERANCE[case]
    overlaps = (several["vectors"].double() * one.vectors.double()).sum(0).abs()
    assert float(overlaps.sub(1).abs().max()) < 100 * TOLERANCE[case]


@CASES
def test_density_and_moments_are_those_of_one_rank(found, case):
    density = spectral_density(operator(case), probes=2, steps=6)
    trace = moments(operator(case), products=12)
    several = found[0][case]
    assert error(several["nodes"], torch.from_numpy(density.nodes)) < TOLERANCE[case]
    assert error(several["weights"], torch.from_numpy(density.weights)) < 10 * TOLERANCE[case]
    assert several["trace"] == pytest.approx(trace.trace, rel=TOLERANCE[case])
    assert several["frobenius"] == pytest.approx(trace.squared_frobenius, rel=TOLERANCE[case])


@CASES
def test_all_ranks_have_the_same_bits(found, case):
    for rank in found[1:]:
        for name, value in found[0][case].items():
            assert torch.equal(torch.as_tensor(rank[case][name]), torch.as_tensor(value)), name


def test_data_that_draw_are_the_same_for_any_number_of_ranks(tmp_path):
    one, two = (run("drawn", count, tmp_path)[0] for count in (1, 2))
    for name, expected in one.items():
        assert error(two[name], expected) < 1e-12, name
    op = HessianOperator(toys.network(), toys.LOSS, toys.loader())
    assert error(one["loader"][:, 0], op @ toys.vector(op.shape[0])) < 1e-12


def test_check_runs_the_network_of_every_rank_twice(tmp_path):
    first, second = run("checks", 2, tmp_path)
    assert first["right"] is first["draft"] is None
    assert "two passes over the same images" in first["fading"]
    assert first == second


def test_ranks_that_compute_otherwise_take_the_same_steps(tmp_path):
    first, second = run("unlike", 2, tmp_path)
    assert first == second


def test_refusals(tmp_path):
    first, second = run("refusals", 2, tmp_path)
    assert "weights: expected the same on all ranks" in first["weights"]
    assert first["weights"] == second["weights"]
    assert first["images"] == "ValueError: data: got 1 images for 2 ranks, expected at least one for each"
    assert "loss: expected a mean over the batch" in first["sum"]
    assert "loss: expected a mean over the batch" in first["sum of batches"]
    assert "1 takes the statistics of the batch, which must stay whole" in first["batch norm"]
    assert "dropout: masks would depend on the number of ranks" in first["dropout"]
    assert first["none"] == "ValueError: data: got no batches, expected at least one (images, targets)"
    assert first["length"] == "ValueError: vector: expected [262], the slice of rank 0, got [523]"
    assert second["length"] == "ValueError: vector: expected [261], the slice of rank 1, got [523]"
    assert first["kind"] == "TypeError: vector: expected a tensor [262], got list"
    assert "initialised already" in first["group"]


def test_a_rank_that_dies_ends_the_others(tmp_path):
    message, nothing = run("death", 2, tmp_path, dies=1)
    assert nothing is None
    assert message.startswith("rank 0 of 2, ")
    assert "another rank has ended or does not answer" in message


def test_a_rank_that_hangs_is_not_waited_for_without_end(tmp_path):
    message, _ = run("silence", 2, tmp_path)
    assert message.startswith("rank 0 of 2, gathering a tensor: another rank has ended or does not answer")


def test_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"), process_group():
        pass
    with pytest.raises(ValueError, match="not initialised"):
        Ranks()
