"""What results were made on."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import timm
import torch

import alternet


def describe(device: str | torch.device = "cpu") -> dict[str, str]:
    """Versions, processor and device, for people to read."""
    device = torch.device(device)
    described = {
        "alternet": alternet.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": f"{_processor()}, {torch.get_num_threads()} threads",
    }
    if device.type == "cuda":
        described["GPU"] = torch.cuda.get_device_name(device)
    return described


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
