"""The command ``alternet``: poster, train, hessian, landscape, features, cka, noise, lesion, info.

What the user can mend is one line on stderr and exit status 2. What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from alternet.analysis.commands import COMMANDS
from alternet.analysis.distributed.command import sharing
from alternet.analysis.distributed.launch import started_by_torchrun
from alternet.analysis.memory import keep_freed_memory

USERS_ERRORS = (ValueError, TypeError, FloatingPointError, ModuleNotFoundError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command (by default that of ``sys.argv``); the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = _parser().parse_args(arguments)
    chosen.command_line = shlex.join(["alternet", *arguments])
    keep_freed_memory()
    try:
        with sharing(chosen.device) as chosen.ranks:
            if chosen.ranks is not None and not chosen.shared:
                raise ValueError(
                    "torchrun: only `alternet hessian top|density|trace|spectra` are for several processes"
                )
            chosen.run(chosen)
    except USERS_ERRORS as error:
        rank = f" (rank {os.environ['RANK']})" if started_by_torchrun() else ""
        print(f"alternet{rank}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        then = "goes on from here" if chosen.resumes else "starts again"
        print(f"alternet: stopped; the same command {then}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="alternet", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser
