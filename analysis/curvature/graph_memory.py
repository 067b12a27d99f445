"""How many bytes a graph of derivatives keeps, and how many there are."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from alternet.analysis.curvature.evaluation import Evaluation

CONTROL_GROUP = Path("/sys/fs/cgroup")  # of this process, as a container sees it


def saved_bytes(build: Callable[[], Any], others: Iterable[Tensor]) -> int:
    """Bytes of the storages that the graph made by ``build`` keeps, each counted once, without those of ``others``.

    ``build`` returns what holds the graph; it must use neither ``torch.func`` nor other saved-tensor hooks.
    """
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = build()  # held until all is counted: a freed address could be given out twice
    for tensor in others:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del graph
    return sum(storages.values())


def predicted_bytes(
    build: Callable[[Evaluation], Any], evaluations: Sequence[Evaluation], enough: float = 0.0
) -> float:
    """Of the graphs of all evaluations together, from small parts of the first: they grow linearly with the images.

    An upper bound, in a third of the time, where that is no more than ``enough``.
    """
    first, sizes = evaluations[0], [len(evaluation.images) for evaluation in evaluations]
    known = [*first.model.parameters(), first.images, first.targets]

    def kept(count: int) -> int:
        return saved_bytes(partial(build, first.part(count)), known)

    few, more = (min(count, len(first.images)) for count in (2, 4))
    of_few = kept(few)
    bound = of_few * sum(max(size / few, 1) for size in sizes)
    if bound <= enough or more == few:
        return bound
    per_image = (kept(more) - of_few) / (more - few)
    return len(sizes) * (of_few - few * per_image) + per_image * sum(sizes)


def available_bytes(device: torch.device) -> int:
    """Memory on ``device`` that can be had without swapping, within the limits of this process's container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(min(_host_bytes(), _container_bytes()))


def _host_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass  # not Linux: all there is, for what is free is not told in a portable way
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_bytes() -> float:
    """What the container's control group leaves; infinity where it sets no limit."""
    for limit, used, statistics, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),  # version 2
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, now = (int((CONTROL_GROUP / name).read_text()) for name in (limit, used))
            lines = (line.split() for line in (CONTROL_GROUP / statistics).read_text().splitlines())
            return most - now + next(int(value) for name, value in lines if name == cache)  # files' pages can be had
        except (OSError, ValueError, StopIteration):  # not there, or "max"
            continue
    return math.inf
