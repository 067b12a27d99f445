"""One line about the machine that a figure was measured on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def describe() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{_cpu_name()}, {torch.get_num_threads()} threads, {capability}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
