"""The commands of ``alternet``, a module each: ``add(commands)`` gives argparse its arguments and what runs it."""

from __future__ import annotations

from alternet.analysis.commands import features, hessian, info, landscape, lesion, noise, poster, similarity, train

COMMANDS = (poster, train, hessian, landscape, features, similarity, noise, lesion, info)
