"""Runs a job of ``jobs.py`` on several ranks: processes forked from a server that has imported everything once."""

import multiprocessing
import runpy
import socket
from pathlib import Path

import torch

JOBS = Path(__file__).with_name("jobs.py")
PRELOADED = [
    "alternet.analysis.distributed",
    "alternet.analysis.curvature.gauss_newton",
    "torch._decomp.decompositions_for_jvp",
]
LIMIT = 300  # seconds


def run(job: str, world: int, folder: Path, dies: int | None = None) -> list:
    """What the job returned on every rank, None for the one that ``dies``. AssertionError where another fails."""
    codes = _exit_codes(job, world, folder)
    assert [rank for rank, code in enumerate(codes) if code != 0] == ([] if dies is None else [dies]), codes
    return [None if rank == dies else torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _exit_codes(job: str, world: int, folder: Path) -> list:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        context.Process(
            target=runpy.run_path,
            args=(str(JOBS),),
            kwargs={"init_globals": {"told": (job, rank, world, port, str(folder))}, "run_name": "job"},
        )
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(LIMIT)
        return [process.exitcode for process in ranks]
    finally:
        for process in ranks:
            process.kill()
