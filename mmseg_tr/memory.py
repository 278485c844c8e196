"""Keep the memory that a CPU network has used for its next layer."""

from __future__ import annotations

import ctypes
import os

MMAP_MAX, TOP_PAD, TRIM_THRESHOLD = -4, -2, -1  # of mallopt(3)
SETTINGS = ('GLIBC_TUNABLES', 'MALLOC_')  # beginnings of the variables with which users decide themselves


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory in this process from now on instead of returning it to the system.

    Tensors of more than 32 MB are otherwise mapped anew for every layer, and touching a new page takes longer than the
    arithmetic on it. The process keeps its largest size. Returns False, and changes nothing, without glibc or where the
    user has set its allocator by environment variables.
    """
    if any(name.startswith(SETTINGS) for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL('libc.so.6')
        libc.gnu_get_libc_version  # noqa: B018 (raises where it is another libc)
    except (OSError, AttributeError):
        return False
    return all(libc.mallopt(what, value) for what, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, 64 << 20)))
