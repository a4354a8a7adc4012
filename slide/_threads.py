"""Numbers of threads, with joblib's meaning of ``n_jobs``."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from joblib import effective_n_jobs
from threadpoolctl import ThreadpoolController

from slide._kernels import build_info

if hasattr(os, "register_at_fork"):
    # A child has none of its parent's other threads, and would wait for them in its first loop.
    os.register_at_fork(before=build_info.end_threads)


def n_threads(n_jobs: int | None) -> int:
    """Return the number of threads that `n_jobs` stands for.

    Raises
    ------
    TypeError
        If it is neither an integer nor None.
    ValueError
        If it is 0.
    """
    if n_jobs is not None:
        if isinstance(n_jobs, bool) or not hasattr(n_jobs, "__index__"):
            raise TypeError(f"n_jobs must be an integer or None, got {n_jobs!r}")
        if n_jobs == 0:
            raise ValueError("n_jobs=0 has no meaning; use 1 for one thread, -1 for all processors")
    if not build_info.openmp:
        return 1
    return min(effective_n_jobs(n_jobs), 1024)


_controller: ThreadpoolController | None = None
_blas_lock = threading.Lock()
_blas_users = 0
_blas_limits: Any = None


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread: matrix products run inside our own threads.

    The limit is the process's: the last of several users at a time lifts it.
    """
    global _controller, _blas_users, _blas_limits
    with _blas_lock:
        if _blas_users == 0:
            # Looking for the loaded libraries takes milliseconds: once.
            if _controller is None:
                _controller = ThreadpoolController()
            _blas_limits = _controller.limit(limits=1, user_api="blas")
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limits.restore_original_limits()
