"""What a node of autograd's graph is to take into account when its turn comes, left by nodes whose turn is earlier.

x̄ = Jᵀ g has two derivatives by x in the end: ∂⟨u, J(x)ᵀg⟩/∂x, at the node of ``backward``, and J(x)ᵀ ḡ, for the
cotangent ḡ of y that comes of it, at the node of ``forward``. ``backward_tangent(u, ḡ)`` is their sum, in one sweep
instead of two and without two results to add. So the earlier node leaves its share to the later one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import levels
from .maps import MaybeTensors


class Pending:
    """Shares left to one node, apart for every run of autograd's engine over its graph."""

    def __init__(self) -> None:
        self._by_run: dict[int, list[Any]] = {}

    def leave(self, share: Any) -> None:
        """For the node's turn in this run. It has none where nobody wants its gradients: then dropped at the end."""
        run = levels.run()
        if run not in self._by_run:
            self._by_run[run] = []
            levels.at_the_end_of_the_run(lambda: self._drop(run))
        self._by_run[run].append(share)

    def take(self) -> list[Any]:
        return self._by_run.pop(levels.run(), [])

    def _drop(self, run: int) -> None:
        self._by_run.pop(run, None)


def pending_of(results: MaybeTensors) -> Pending | None:
    """That of the node of ``forward`` which gave ``results``: what has the last of them as input has its turn before.

    None where autograd sees no such node.
    """
    last = results[-1]
    return getattr(last.grad_fn, "pending", None) if isinstance(last, Tensor) else None
