"""What stands in the graph behind a tensor."""

from __future__ import annotations

import torch


def ours(tensor: torch.Tensor) -> bool:
    """Whether an operator of this library stands somewhere in the graph behind ``tensor``."""
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("_ruleBackward"):
            return True
        seen.add(node)
        todo += [next_node for next_node, _ in node.next_functions]
    return False
