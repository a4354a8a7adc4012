"""Arrays for weights: aligned rows and, where the system has them, huge pages."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os

import numpy as np

PAD = 16
"""Rows are padded to a multiple of so many floats: one cache line of 64 bytes."""

HUGE = 1 << 22
"""From so many bytes on, memory comes from mmap, with a wish for huge pages."""


def padded(n: int) -> int:
    """Return n rounded up to a multiple of `PAD`."""
    return -(-n // PAD) * PAD


def aligned_zeros(shape: tuple[int, int]) -> np.ndarray:
    """Return a float32 array of zeros on a 64-byte boundary.

    Random rows of a large matrix come faster from huge pages (one address translation for 2 MB
    instead of 4 KB), and pages that nobody wrote to take no memory. A system without
    ``madvise`` gives ordinary pages.

    Raises
    ------
    MemoryError
        If the system has not so much.
    """
    n_bytes = 4 * math.prod(shape)
    if n_bytes >= HUGE:
        try:
            if hasattr(mmap, "MAP_ANONYMOUS"):
                # Shared memory, the default, has no huge pages and would be that of forked
                # children.
                memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            else:
                memory = mmap.mmap(-1, n_bytes)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise MemoryError(f"{n_bytes / 1e9:,.1f} GB of memory: {error}") from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel built without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(memory, np.float32).reshape(shape)
    raw = np.zeros(n_bytes + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + n_bytes].view(np.float32).reshape(shape)


def available_memory() -> int | None:
    """Return the bytes that this process can still get, or None where the system does not tell."""
    found = []
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    # The limits of a container, in both versions of control groups.
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            found.append(int(file.read()))
    if not found:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def check_memory(what: str, n_bytes: int) -> None:
    """Refuse what would take more memory than there is, before any of it is allocated.

    Raises
    ------
    MemoryError
        With the figures, in GB of 10^9 bytes.
    """
    available = available_memory()
    if available is not None and n_bytes > available:
        raise MemoryError(
            f"{what}: {n_bytes / 1e9:,.1f} GB of memory needed, {available / 1e9:,.1f} GB available"
        )
