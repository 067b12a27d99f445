"""Time and memory of competing functions, fairly: interleaved in one process, medians, memory in fresh processes."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .suite import Cell

ROUNDS = 15
SECONDS = 8.0  # of one comparison; slow ones get fewer rounds, never fewer than three


def interleaved_seconds(works: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of every run of every work, taken in turn A B C A B C so that drift of the machine hits all alike."""
    for work in works.values():
        work()  # warm up: allocator, threads, lazy loading
    seconds: dict[str, list[float]] = {name: [] for name in works}
    begin = time.perf_counter()
    for done in range(ROUNDS):
        if done >= 3 and time.perf_counter() - begin > SECONDS:
            break
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def has_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16: without, PyTorch's take minutes."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def worst_error(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The largest error of a result relative to its norm; NaN is larger than any."""
    errors = [
        float((a.detach().to("cpu", torch.float64) - b.detach().cpu()).norm() / b.detach().norm())
        for a, b in zip(got, want, strict=True)
    ]
    return max(errors, key=lambda error: math.inf if math.isnan(error) else error)


def verdict(ask: Callable[[], Sequence[Tensor]], want: Sequence[Tensor], tolerance: float) -> str:
    """``right``, ``**wrong** (relative error)`` or ``refuses (error)``: what ``ask`` gives, beside what it should."""
    try:
        got = ask()
    except Exception as error:  # a package may raise anything; that is the answer
        return f"refuses ({type(error).__name__})"
    if len(got) != len(want):
        return "**wrong** (missing)"
    worst = worst_error(got, want)
    if worst <= tolerance:
        return "right"
    return "**wrong** (NaN)" if worst != worst else f"**wrong** ({100 * worst:.2g} %)"


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of slow / fast: pairs that ran side by side."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def peak_memory(cell: Cell) -> int | None:
    """Bytes one run adds to a fresh process at its peak; ``None`` where there is no Linux /proc to tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([type(cell).__module__])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(_peak_of, (cell,))


def _peak_of(cell: Cell) -> int:
    torch.set_num_threads(2)
    torch.ones(256, 256).mm(torch.ones(256, 256)).softmax(-1)  # libraries and thread pools load before the count
    return peak_of(cell.prepare())


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that one run of ``work`` adds to this process at its peak; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024
