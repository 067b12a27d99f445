"""Joining the processes that ``torchrun`` started, and leaving them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from alternet.analysis.distributed.ranks import Ranks

# Ranks wait for the slowest product, and in a study for the last mini-batch, of another rank. One that has died is
# noticed at once (its connections close, and torchrun ends the others); this is for one that hangs.
TIMEOUT = timedelta(minutes=30)


def started_by_torchrun() -> bool:
    """Whether the environment describes a process group: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def local_device(device: str | torch.device | None = None) -> torch.device:
    """The device of this process: ``device`` where it names one, else the GPU number LOCAL_RANK, or the CPU.

    Raises:
        ValueError: an unknown device; more processes on this machine than GPUs.
    """
    try:
        wanted = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device: {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    if wanted.type != "cuda" or wanted.index is not None or "LOCAL_RANK" not in os.environ:
        return wanted
    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= count:
        raise ValueError(f"device: process {local} of this machine has no GPU, there are {count}: expected one each")
    return torch.device("cuda", local)


@contextmanager
def process_group(device: str | torch.device | None = None, *, timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """Inside, the processes that ``torchrun`` started are one group: gloo for CPU tensors, NCCL for those on GPUs.

    ``device``: see ``local_device``; it becomes CUDA's current one. ``timeout``: how long ranks wait for each other.

    Raises:
        ValueError: the process was not started by ``torchrun`` (or as it does), a group is there already, or there
            are more processes than GPUs.
    """
    if not started_by_torchrun():
        raise ValueError("RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: expected in the environment; start by torchrun")
    if dist.is_initialized():
        raise ValueError("torch.distributed: initialised already; use Ranks() for the group that is there")
    own = local_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=timeout)
    yield Ranks()
    # After an exception nothing is tidied: NCCL would wait for the other ranks, which notice when this process ends.
    dist.destroy_process_group()
