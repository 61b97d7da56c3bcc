"""What native libraries do with threads and memory is said in the environment that a process starts with.

Each library reads it once, when it is loaded, and OpenMP keeps a setting for each thread: no call later reaches all.
"""

from __future__ import annotations

from typing import Final

POOLS: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "ARROW_IO_THREADS",
    "RAYON_NUM_THREADS",
)
"""The variables that bound the pools of OpenMP, torch, the BLAS libraries, numexpr, Arrow and Rust's rayon."""

_KEPT_BYTES: Final = 1 << 30
_LARGE_BYTES: Final = 32 << 20  # glibc before 2.35 refuses more, in silence


def pools(threads: int) -> dict[str, str]:
    """Return the variables that let every native pool of a process have so many threads."""
    return dict.fromkeys(POOLS, str(threads))


def replica_environment(threads: int) -> dict[str, str]:
    """Return the variables for a process that computes a model.

    glibc keeps freed buffers of up to 32 MiB, which the next call needs again: else it may give them back to the system
    after each call, and a model on a CPU spends up to a third of its time on page faults.
    """
    kept = {"MALLOC_MMAP_THRESHOLD_": str(_LARGE_BYTES), "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES)}
    return {**pools(threads), **kept}
