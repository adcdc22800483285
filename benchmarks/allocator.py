"""Keep freed memory within the process, where the C library can be told to: a rung of the ladder of trainings."""

from __future__ import annotations

import ctypes
import functools
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_KEPT = 1 << 25
"""Bytes, the most that the GNU C library allows: larger blocks are handed back to the system and faulted in anew."""


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library's allocator reuse large blocks; returns whether it was told to.

    A training on a CPU allocates and frees the same feature maps thousands of times, and the GNU C library gives blocks
    of that size back to the system each time. No training asks for this: nothing was saved by it (docs/performance.md,
    the ladder), and memory grew by 111 MiB in 60 trainings with it, by 43 without. `benchmarks.training` measures it.
    Affects this process alone, which then holds on to the most memory that it ever used.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    largest = ctypes.c_int(LARGEST_KEPT)
    return bool(mallopt(M_MMAP_THRESHOLD, largest)) and bool(mallopt(M_TRIM_THRESHOLD, ctypes.c_int(2**31 - 1)))
