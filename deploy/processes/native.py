"""Environment variables that set the threads and the memory of native libraries, before a process starts.

Each library reads them once, when it is loaded. OpenMP keeps a setting for each thread, so a later call cannot change
all threads.
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
"""The variables that limit the thread pools of OpenMP, torch, the BLAS libraries, numexpr, Arrow and Rust's rayon."""

_KEPT_BYTES: Final = 1 << 30
_LARGE_BYTES: Final = 32 << 20  # glibc before 2.35 silently ignores larger values


def pools(threads: int) -> dict[str, str]:
    """Return the variables that limit every native pool of a process to this number of threads."""
    return dict.fromkeys(POOLS, str(threads))


def replica_environment(threads: int) -> dict[str, str]:
    """Return the variables for a process that computes a model.

    They make glibc keep freed buffers of up to 32 MiB for the next call of the model. Otherwise glibc may return them
    to the system after each call, and a model on a CPU spends up to a third of its time on page faults.
    """
    kept = {"MALLOC_MMAP_THRESHOLD_": str(_LARGE_BYTES), "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES)}
    return {**pools(threads), **kept}
