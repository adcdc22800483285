"""Memory that a process holds on to when a training is over: the C library's, and the kernels of its shapes."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable

KERNELS_VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
KEPT_KERNELS = 256
"""More than one network needs, forward and backward. By oneDNN's own default of 1,024 the kernels of dozens of networks
stay, which no other network has a use for, and what lies between them in memory cannot be given back."""


def give_back_freed_memory() -> bool:
    """Have the C library, and torch of a GPU in use, give back to the system what they hold free.

    Returns whether the C library had any.

    Students differ in size, so that blocks that one leaves behind seldom fit the next: without this a process grows by
    tens of MiB every hundred trainings (docs/faults.md). Takes milliseconds; does nothing without the GNU C library.
    """
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.empty_cache()  # other processes may share the GPU
    trim = _trim()
    return trim is not None and bool(trim(0))


def keep_few_kernels() -> None:
    """Bound oneDNN's cache of kernels, in a process that has not used it yet; what the user has set stays."""
    os.environ.setdefault(KERNELS_VARIABLE, str(KEPT_KERNELS))


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    return trim
