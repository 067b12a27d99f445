"""What tells a network from others, also from those with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from alternet.analysis.checksum import checksum, structure_checksum, text_checksum


def fingerprint(model: nn.Module) -> dict[str, str]:
    """The class of ``model``, and checksums of its weights, of its structure and of its modules' settings."""
    return {
        "model": type(model).__name__,
        "weights": checksum([*model.parameters(), *model.buffers()]),
        "structure": structure_checksum(model),
        "settings": text_checksum("\n".join(_settings(model))),
    }


def _settings(model: nn.Module) -> Iterator[str]:
    """Plain attributes of all modules: few say in their repr how many heads they have."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if _is_plain(value) and name != "training" and not name.startswith("_"):
                yield f"{path}.{name}={value!r}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)
