"""``vmap`` of the four maps: tangents join the axis T, everything else folds into the operator's batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def whole(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """``Signature.batch_shapes`` where every input has the whole batch."""
    return shapes


class Fold:
    """One call under ``vmap`` as one call without it.

    Args:
        size: the length K of the mapped axis.
        tensors: the op's tensor arguments; the first ``n_inputs`` are x, the first ``n_primal`` have no axis T.
        dims: where the mapped axis lies in each of them, ``None`` for one that is not mapped.
        batch_shapes: the operator's ``Signature.batch_shapes``.
    """

    def __init__(
        self,
        size: int,
        tensors: Sequence[Tensor | None],
        dims: Sequence[int | None],
        n_inputs: int,
        n_primal: int,
        batch_shapes: Callable[[Sequence[torch.Size | None]], Sequence[torch.Size | None]],
    ) -> None:
        self.size, self.n_inputs, self.n_primal = size, n_inputs, n_primal
        self.tensors = [None if t is None else _front(t, d, size) for t, d in zip(tensors, dims, strict=True)]
        self.tangents_only = all(d is None for d in dims[:n_primal])
        self.originals = tensors
        self.shapes = [None if t is None else t.shape[1:] for t in self.tensors[:n_primal]]
        self.full = [*batch_shapes(self.shapes[:n_inputs]), *self.shapes[n_inputs:]]
        self.has_tangents = n_primal < len(tensors)

    def arguments(self) -> list[Tensor | None]:
        primals, tangents = self.tensors[: self.n_primal], self.tensors[self.n_primal :]
        if self.tangents_only:
            joined = [None if t is None else t.flatten(0, 1) for t in tangents]  # [K, T, ...] -> [K T, ...]
            return [*self.originals[: self.n_primal], *joined]
        folded = [_fold(p, shape, self.size, 0) for p, shape in zip(primals, self.full, strict=True)]
        # [K, T, B, ...] -> [T, K B, ...]; the primed arguments are the first of x, y, r, g, in their order
        primed = [None if t is None else t.movedim(0, 1) for t in tangents]
        return [*folded, *(_fold(t, s, self.size, 1) for t, s in zip(primed, self._primed_shapes(primed), strict=True))]

    def results(self, outputs: Sequence[Tensor], needs: Sequence[bool] | None) -> tuple[tuple, tuple]:
        """The outputs with the mapped axis set apart again, and where it lies.

        ``needs``: of the outputs that are gradients of x, which are; the others are empty tensors.
        """
        axis = 1 if self.has_tangents and not self.tangents_only else 0
        values: list[Tensor] = []
        dims: list[int | None] = []
        for i, output in enumerate(outputs):
            if needs and not needs[i]:
                values.append(output)
                dims.append(None)
                continue
            value = output.unflatten(axis, (self.size, self._each(output, axis, i if needs else 0)))
            if needs and not self.tangents_only:  # an axis that was expanded to the batch is summed again
                shape = self.shapes[i]
                assert shape is not None
                value = value.sum_to_size(*value.shape[: axis + 1], *shape)
            values.append(value)
            dims.append(axis)
        return tuple(values), tuple(dims)

    def _each(self, output: Tensor, axis: int, i: int) -> int:
        """The length at ``axis`` of one member's output: the gradient of input ``i``, or y or r, with x's batch."""
        if self.size:
            return output.shape[axis] // self.size
        if self.tangents_only:
            return next(t.shape[1] for t in self.tensors[self.n_primal :] if t is not None)
        shape = self.full[i]
        assert shape is not None
        return shape[0]

    def _primed_shapes(self, primed: Sequence[Tensor | None]) -> list[torch.Size | None]:
        """A tangent of x may lack the batch; y', r' and g' have it (and y may be another tensor, ``needs_output``)."""
        own = [None if t is None else t.shape[2:] for t in primed[self.n_inputs :]]
        return [*self.full[: self.n_inputs], *own][: len(primed)]


def _front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped axis in front; a tensor without one repeats."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _fold(tensor: Tensor | None, shape: torch.Size | None, size: int, axis: int) -> Tensor | None:
    """[..., K, b, ...] at ``axis`` -> [..., K B, ...], an input's own batch b expanded to the operator's B first."""
    if tensor is None:
        return None
    assert shape is not None
    return tensor.expand(*tensor.shape[:axis], size, *shape).flatten(axis, axis + 1)
