"""Triton kernels in tests: on a GPU, or in the interpreter, which takes a process of its own.

``TRITON_INTERPRET`` must be set before Triton is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETING else "cuda"

starts_interpreter = pytest.mark.skipif(INTERPRETING, reason="is what started this process")


def passes_in_interpreter(file: str) -> None:
    """Every test of ``file`` that runs in the interpreter passes there, and there are some."""
    command = [sys.executable, "-m", "pytest", file, "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]
    assert " passed" in finished.stdout
