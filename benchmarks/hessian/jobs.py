"""What runs in a process of its own: a fresh one for every measurement, ended at a time limit."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from ..measure import peak_of
from .problem import PROBLEMS, KeptGraph, by_magnitude, true_eigenvalues
from .tools import PRODUCTS, TOOLS

THREADS = 2


def run(job: Callable[..., Any], arguments: tuple[Any, ...], limit: float) -> Any:
    """What ``job(*arguments)`` returns in a fresh process; {"failed": why} where it raises or takes longer."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, job, arguments))
    process.start()
    there.close()
    try:
        if not here.poll(limit):
            return {"failed": f"more than {limit:.0f} s"}
        return here.recv()
    except EOFError:
        return {"failed": "the process died"}
    finally:
        process.kill()
        process.join()


def _answer(pipe: Connection, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(THREADS)
    try:
        pipe.send(job(*arguments))
    except Exception as error:  # whatever a package raises is its result
        first = (str(error).splitlines() or [""])[0]
        pipe.send({"failed": f"{type(error).__name__}: {first}"[:120]})


def truth(problem: str, k: int) -> list[float]:
    return true_eigenvalues(PROBLEMS[problem], k).tolist()


def top(problem: str, tool: str, k: int, setting: float) -> dict[str, Any]:
    start = time.perf_counter()
    values, products = TOOLS[tool].top(PROBLEMS[problem], k, setting)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "products": products, "values": by_magnitude(values.double()).tolist()}


def density_seconds(problem: str, tool: str, steps: int) -> dict[str, Any]:
    density = TOOLS[tool].density
    assert density is not None
    start = time.perf_counter()
    products = density(PROBLEMS[problem], steps)
    return {"seconds": time.perf_counter() - start, "products": products}


def prepare(problem: str) -> int:
    """Trains the network where nobody has, so that no measured process has to; the number of its parameters."""
    return _size(problem)


def product_peak(problem: str, tool: str) -> dict[str, Any]:
    """Bytes that the operator, its graph and one product add to the process."""
    vector = torch.ones(_size(problem))
    return {"bytes": peak_of(PRODUCTS[tool](PROBLEMS[problem], vector))}


def product_errors(problem: str, tools: list[str]) -> dict[str, Any]:
    """‖Hv - truth‖ / ‖truth‖ of each tool's float32 product with a random v, the truth by float64 double backward."""
    vector = torch.randn(_size(problem), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = KeptGraph(*PROBLEMS[problem].make(torch.float64))(vector)
    products = {tool: PRODUCTS[tool](PROBLEMS[problem], vector.float())().detach().double() for tool in tools}
    return {tool: float((product - true).norm() / true.norm()) for tool, product in products.items()}


def _size(problem: str) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in PROBLEMS[problem].make()[0].parameters())
