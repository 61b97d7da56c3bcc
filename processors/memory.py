"""How a replica's process deals with memory that its model frees."""

from __future__ import annotations

import ctypes

# The parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_KEPT_BYTES = 2**31 - 1  # the most that an int holds
_LARGE_BYTES = 32 * 2**20  # the most that glibc takes


def keep_freed_memory() -> None:
    """Keep freed buffers of up to 32 MiB in this process, which the next call needs again.

    Else glibc gives them back to the system after some calls and asks for them anew, page by page: whether it does
    depends on chance at the start, and a model on a CPU is up to a fifth slower then. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
