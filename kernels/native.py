"""The compiled extension ``alternet._C``: loaded once, or the reason why it is not."""

from __future__ import annotations

import functools
import importlib
import importlib.util


def load() -> None:
    """Load the extension, which registers ``torch.ops.alternet_native.*``.

    Raises:
        RuntimeError: it is not built, or does not load; the message says which.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise RuntimeError(reason)


@functools.cache
def unavailable_reason() -> str | None:
    """Why the C++ kernels cannot run here, or ``None``."""
    if importlib.util.find_spec("alternet._C") is None:
        return (
            "the C++ extension is not built; with a C++ compiler and ninja: "
            "ALTERNET_NATIVE=require pip install --no-build-isolation ."
        )
    try:
        importlib.import_module("alternet._C")
    except (ImportError, OSError) as error:
        return f"the C++ extension does not load: {error}"
    return None
