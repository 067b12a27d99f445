"""``alternet info``."""

from __future__ import annotations

import argparse
from typing import Any

from alternet.analysis.commands.arguments import add_device


def add(commands: Any) -> None:
    info = commands.add_parser("info", help="what runs here, and why something does not", allow_abbrev=False)
    add_device(info)
    info.set_defaults(run=run, shared=False, resumes=False)


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.commands.inputs import device_of
    from alternet.analysis.machine import describe
    from alternet.kernels import available_backends

    for what, value in describe(device_of(chosen)).items():
        print(f"{what:10} {value}")
    print("backends of alternet.kernels:")
    for name, reason in available_backends().items():
        print(f"  {name:10} {'available' if reason is None else f'not available: {reason}'}")
