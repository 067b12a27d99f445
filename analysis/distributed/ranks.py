"""The few ways in which ranks exchange something: every one of them ends in a clear error if another rank is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class RankLost(ConnectionError):
    """Another rank has ended, or did not answer in time."""


class Ranks:
    """The processes of a ``torch.distributed`` group, by default of all that there are.

    rank: the number of this process in the group; size: how many there are.

    Every method but ``is_first`` is collective: all ranks call it, in the same order, or it raises ``RankLost``.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise ValueError("group: torch.distributed is not initialised; run inside process_group(), under torchrun")
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes results and shows progress."""
        return self.rank == 0

    def gather(self, part: Tensor) -> Tensor:
        """Every rank's part: [*shape], in the order of ranks: [size, *shape]."""
        whole = part.new_empty(self.size, *part.shape)
        with self._reached("gathering a tensor"):
            gather = _named("all_gather_single", "all_gather_into_tensor")
            gather(whole.view(-1), part.reshape(-1), group=self._group)
        return whole

    def reduce_scatter(self, whole: Tensor) -> Tensor:
        """The sum over ranks of whole[rank]: whole [size, *shape] -> [*shape]."""
        part = torch.empty_like(whole[0])
        with self._reached("adding up a tensor"):
            reduce_scatter = _named("reduce_scatter_single", "reduce_scatter_tensor")
            reduce_scatter(part.view(-1), whole.view(-1), group=self._group)
        return part

    def sum(self, part: Tensor) -> Tensor:
        """The sum of a small tensor over the ranks.

        Gathered and then added in the order of ranks, so that every rank has the same bits, whatever the network's
        algorithm: what they decide on it, they decide alike.
        """
        return self.gather(part).sum(0)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first rank's tensor, which has one shape and dtype on all."""
        tensor = tensor.contiguous().clone()
        with self._reached("receiving a tensor"):
            dist.broadcast(tensor, group_src=0, group=self._group)
        return tensor

    def objects(self, value: Any) -> list[Any]:
        """Every rank's value (anything that can be pickled), in the order of ranks."""
        found: list[Any] = [None] * self.size
        with self._reached("gathering results"):
            dist.all_gather_object(found, value, group=self._group)
        return found

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What ``make()`` returns (and can be pickled), or raises, on the first rank, on all of them."""
        outcome: tuple[Any, Exception | None] = None, None
        if self.is_first:
            try:
                outcome = make(), None
            except Exception as raised:  # whatever it is, every rank raises it
                outcome = None, raised
        value, error = self.objects(outcome)[0]
        if error is not None:
            raise error
        return value

    def agree(self, what: str, value: Any) -> None:
        """Raise the same ValueError on every rank unless all of them have the same value."""
        values = self.objects(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(
                    f"{what}: expected the same on all ranks, got {values[0]!r} on 0 and {other!r} on {rank}"
                )

    @contextmanager
    def _reached(self, doing: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo raises nothing more special
            reason = str(error).splitlines()[0]
            raise RankLost(
                f"rank {self.rank} of {self.size}, {doing}: another rank has ended or does not answer ({reason})"
            ) from error


def _named(new: str, old: str) -> Callable[..., Any]:
    """torch 2.14 renamed collectives: the old names warn there, the new ones are absent before."""
    return getattr(dist, new, None) or getattr(dist, old)
