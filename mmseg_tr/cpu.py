"""What a CPU can do, and how memory that a network has used is kept for its next layer."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

MMAP_MAX, TOP_PAD, TRIM_THRESHOLD = -4, -2, -1  # of mallopt(3)
SETTINGS = ('GLIBC_TUNABLES', 'MALLOC_')  # prefixes of the variables by which users configure malloc


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
        libc.gnu_get_libc_version  # noqa: B018 (raises with another libc)
    except (OSError, AttributeError):
        return False
    return all(libc.mallopt(what, value) for what, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, 64 << 20)))


CPUINFO = Path('/proc/cpuinfo')
BFLOAT16 = {'avx512_bf16', 'amx_bf16', 'bf16'}  # features of x86 and of ARM, as Linux names them


def multiplies_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 itself. True also where the system does not list its features."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    listed = [set(line.partition(':')[2].split()) for line in lines if line.lower().startswith(('flags', 'features'))]
    return not listed or bool(listed[0] & BFLOAT16)


# Bytes of hidden values that a layer works on at once on a CPU: they stay in its cache, and below the size from which
# every allocation is a fresh mapping of memory, whose first touch takes longer than the arithmetic.
BAND = 8 * 2**20


def may_overwrite(x: Tensor) -> bool:
    """Whether maps may be written over: in a plain forward on a CPU, where their memory takes most of the time."""
    return x.device.type == 'cpu' and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def band_rows(x: Tensor, grid: tuple[int, int], hidden: int) -> int | None:
    """Return rows of the grid that a layer with `hidden` channels works on at once; None for all of them.

    x: (B, h*w, C) tokens of the grid.
    """
    size = grid[0] * grid[1] * hidden * x.element_size()  # of one image's hidden values
    if not may_overwrite(x) or len(x) * size <= BAND:
        return None
    return max(BAND // (size // grid[0]), 1)


def in_bands(
    layer: Callable[[Tensor, tuple[int, int]], Tensor], x: Tensor, grid: tuple[int, int], rows: int, channels: int
) -> Tensor:
    """layer(x, grid) for a layer that looks one row further up and down, in bands of so many rows.

    x: (B, h*w, C) tokens of the grid -> (B, h*w, channels).
    """
    dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else x.dtype
    out = x.new_empty(len(x), *grid, channels, dtype=dtype)
    for source, target in zip(x.unflatten(1, grid), out):
        for top in range(0, grid[0], rows):
            bottom = min(top + rows, grid[0])
            first, last = max(top - 1, 0), min(bottom + 1, grid[0])
            band = layer(source[first:last].flatten(0, 1)[None], (last - first, grid[1]))
            target[top:bottom] = band[0].unflatten(0, (-1, grid[1]))[top - first : bottom - first]
    return out.flatten(1, 2)
