"""What ranks do in these tests; ``launched`` runs this file in every one of them, with ``told`` among its globals."""

import io
import json
import os
import sys
import weakref
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path

import torch
from torch import is_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent))

import toys

from alternet.analysis.curvature.gauss_newton import GaussNewtonOperator
from alternet.analysis.curvature.hessian import HessianOperator
from alternet.analysis.distributed import RankLost, Ranks, distributed, process_group
from alternet.analysis.solvers.density import spectral_density
from alternet.analysis.solvers.lanczos import LanczosProcess, top_eigenvalues
from alternet.analysis.solvers.trace import moments
from alternet.analysis.studies import spectra


def numbers(ranks):
    """Products and everything that solvers return, in float32 and float64."""
    cut = distributed(HessianOperator, toys.network(torch.float32), toys.LOSS, toys.one_batch(), weight_decay=0.1)
    dealt = distributed(HessianOperator, toys.network(), toys.LOSS, toys.batches(), weight_decay=0.1)
    other = distributed(GaussNewtonOperator, toys.network(), toys.LOSS, toys.batches())
    return {"one batch": solved(cut), "batches": solved(dealt), "gauss-newton": product(other)}


def solved(op):
    top = top_eigenvalues(op, 3, tol=1e-4, vectors=True)
    density, trace = spectral_density(op, probes=2, steps=6), moments(op, products=12)
    return {
        "product": product(op),
        "values": top.values,
        "residuals": top.residuals,
        "products": top.products,
        "drafted": top_eigenvalues(op, 3, tol=1e-4, draft=op).values,
        "vectors": torch.stack([op.space.gather(part) for part in top.vectors.t()], dim=1),
        "nodes": torch.from_numpy(density.nodes),
        "weights": torch.from_numpy(density.weights),
        "trace": trace.trace,
        "frobenius": trace.squared_frobenius,
        "images": op.images,
    }


def product(op):
    """H v and H V, whole."""
    whole = toys.vector(op.shape[0], op.dtype)
    part = op.space.part(whole)
    columns = op.matmat(torch.stack([part, -2 * part], dim=1))
    both = torch.stack([op @ part, columns[:, 0], columns[:, 1] / -2], dim=1)
    return torch.stack([op.space.gather(part.contiguous()) for part in both.t()], dim=1)


def unlike(ranks):
    """Numbers of ranks whose LAPACK is not the same."""
    eigh = torch.linalg.eigh

    def other(matrix):
        values, vectors = eigh(matrix)
        return values * (1 + 1e-9 * ranks.rank), vectors

    torch.linalg.eigh = other
    op = distributed(HessianOperator, toys.network(), toys.LOSS, toys.batches())
    top = top_eigenvalues(op, 3, tol=1e-4)
    return top.values.tolist(), top.residuals.tolist(), top.products


def basis_bytes(ranks):
    """Bytes of a Krylov basis of 20 vectors on this rank."""
    op = distributed(HessianOperator, toys.wide(), toys.LOSS, toys.wide_batch())
    process = LanczosProcess(op, 0)
    for _ in range(20):
        process.step()
    return sum(rows.untyped_storage().nbytes() for rows in process.basis._storage)


def refusals(ranks):
    """The messages of what the ranks refuse."""
    other = toys.network()
    if ranks.rank == 1:
        other[1].bias.data[0] += 1
    few = tuple(part[: ranks.size - 1] for part in toys.one_batch())
    cases = {
        "weights": lambda: distributed(HessianOperator, other, toys.LOSS, toys.one_batch()),
        "images": lambda: distributed(HessianOperator, toys.network(), toys.LOSS, few),
        "sum": lambda: distributed(HessianOperator, toys.network(), summed, toys.one_batch()),
        "sum of batches": lambda: distributed(HessianOperator, toys.network(), summed, [toys.one_batch()] * 2),
        "batch norm": lambda: distributed(
            HessianOperator, toys.normed(), toys.LOSS, toys.one_batch(), batch_norm="batch"
        ),
        "dropout": lambda: distributed(HessianOperator, toys.network(), toys.LOSS, toys.one_batch(), dropout="frozen"),
        "none": lambda: distributed(HessianOperator, toys.network(), toys.LOSS, []),
        "length": lambda: distributed(HessianOperator, toys.network(), toys.LOSS, toys.one_batch()) @ torch.zeros(523),
        "kind": lambda: distributed(HessianOperator, toys.network(), toys.LOSS, toys.one_batch()) @ [0.0],
        "group": lambda: process_group().__enter__(),
    }
    return {name: message(case) for name, case in cases.items()}


def drawn(ranks):
    """Products over data that draw, and over that of a loader; what ``check`` says of networks."""
    torch.manual_seed(ranks.rank)
    kinds = {"loader": toys.loader(), "sequence": toys.Noisy(toys.batches()), "cut": toys.Noisy([toys.one_batch()])}
    ops = {name: distributed(HessianOperator, toys.network(), toys.LOSS, data) for name, data in kinds.items()}
    return {name: product(op) for name, op in ops.items()}


def checks(ranks):
    """What ``check`` says: of a network that is right, of its draft, and of one that fades on one rank."""
    op = distributed(HessianOperator, toys.network(torch.float32), toys.LOSS, toys.batches(), engine="graph")
    fading = distributed(HessianOperator, toys.Fading(ranks.rank), toys.LOSS, toys.batches(), engine="graph")
    cases = {"right": op.check, "draft": op.under_autocast().check, "fading": fading.check}
    return {name: message(case) for name, case in cases.items()}


def summed(output, targets):
    return toys.LOSS(output, targets, reduction="sum")


def message(case):
    try:
        case()
    except (ValueError, TypeError, ArithmeticError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def study(ranks):
    """Mini-batch spectra in the journal of the folder that all ranks share, and how many this rank solved."""
    folder = Path(told[4])  # noqa: F821
    solved = []

    def counting(op, *args, **kwargs):
        if ranks.rank == 1 and len(solved) == 1 and (folder / "rank 1 dies").exists():
            os._exit(3)
        solved.append(op)
        return top_eigenvalues(op, *args, **kwargs)

    spectra.top_eigenvalues = counting
    try:
        result = toys.study(out=folder / "spectra.jsonl", ranks=ranks)
    except RankLost as error:
        return str(error)
    return result.values, result.sizes, len(solved)


def sent(ranks):
    """Bytes that this process wrote (to sockets, mostly) for one product."""
    op = distributed(HessianOperator, toys.wide(), toys.LOSS, toys.wide_batch())
    part = op.space.part(torch.ones(op.shape[0]))
    ranks.objects(None)
    before = written()
    op @ part
    return written() - before


def written():
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def held(ranks):
    """Most bytes of the tensors that live at once during a product."""
    op = distributed(HessianOperator, toys.wide(), toys.LOSS, toys.wide_batch(), engine="graph")
    part = op.space.part(torch.ones(op.shape[0])).clone()
    op @ part
    with Live() as live:
        op @ part
    return live.peak


class Live(TorchDispatchMode):
    """Counts the bytes of storages that operations make, until they are freed."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if is_tensor(tensor)}
        for tensor in filter(is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in given and storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return out

    def _freed(self, count):
        self.now -= count


def death(ranks):
    """Rank 1 ends in the middle of a run; the others say so, and that at once."""
    op = distributed(HessianOperator, toys.network(), toys.LOSS, toys.one_batch())
    if ranks.rank == 1:
        os._exit(3)
    try:
        top_eigenvalues(op, 3)
    except RankLost as error:
        return str(error)
    return None


def silence(ranks):
    """Rank 1 does not take part for longer than the timeout."""
    if ranks.rank == 1:
        import time

        time.sleep(4)
        return None
    try:
        ranks.sum(torch.zeros(1))
    except RankLost as error:
        return str(error)
    return None


def command(folder):
    """``alternet`` with the arguments in ``command.json``: its exit status and what it printed."""
    from alternet.analysis import cli

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(json.loads((folder / "command.json").read_text()))
    return status, out.getvalue(), err.getvalue()


def main(job, rank, world, port, folder):
    torch.set_num_threads(1)
    folder = Path(folder)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if job == "command":  # makes its own group
        torch.save(command(folder), folder / f"{rank}.pt")
        return
    with process_group("cpu", timeout=timedelta(seconds=2 if job == "silence" else 120)) as ranks:
        assert isinstance(ranks, Ranks)
        torch.save(globals()[job](ranks), folder / f"{rank}.pt")
        if job in ("death", "silence") or (folder / "rank 1 dies").exists():
            os._exit(0)  # there is no group to leave


main(*told)  # type: ignore[name-defined]  # noqa: F821
