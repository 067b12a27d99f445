"""Freed memory stays with the process."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap

import pytest

from alternet.analysis import memory

PROGRAM = """
    import resource, sys, torch
    from alternet.analysis.memory import keep_freed_memory

    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    kept = sys.argv[1] == "keep" and keep_freed_memory()
    for _ in range(3):
        torch.zeros(16 << 20)
    before = faults()
    for _ in range(5):
        torch.ones(16 << 20)
    print(int(kept), faults() - before)
"""


def run(argument: str) -> tuple[int, int]:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), argument]
    kept, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(kept), int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_pages_are_cleared_once():
    """64 MiB, five times."""
    (_, before), (kept, after) = run("leave"), run("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    assert before > 5 * (64 << 20) / 2**21  # even if pages are of 2 MiB
    assert after < before / 10


def test_another_c_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
