"""Freed memory that stays with the process.

A Hessian-vector product takes and frees gigabytes, and the next one the same again. glibc gives large blocks back to
the system at once, which clears every page of theirs before it lends them anew: up to a tenth of a product's time.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the process from now on; False where it is not glibc.

    For a process that does little else, as the commands of ``alternet`` do. Its peak grows by a few hundredths; what it
    has freed goes back to the system when it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no name for the process itself
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
