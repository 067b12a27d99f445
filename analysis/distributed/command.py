"""A command under ``torchrun``: one of its ranks shows and writes, all of them work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch

from alternet.analysis.distributed.launch import process_group, started_by_torchrun
from alternet.analysis.distributed.ranks import Ranks
from alternet.analysis.files import discarding


@contextmanager
def sharing(device: str | torch.device | None) -> Iterator[Ranks | None]:
    """The ranks that ``torchrun`` started, None without it. Inside, all but the first print and write nothing.

    What raises, raises on its own rank, and can be printed outside. See ``process_group`` for ``device`` and errors.
    """
    if not started_by_torchrun():
        yield None
        return
    with process_group(device) as ranks:
        if ranks.is_first:
            yield ranks
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere), discarding():
            yield ranks
