"""Small tensor operations that methods share: precision, packing, rows by number, draws that repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.reduction.constants import numbers, table, traced


def per_image(length: int, batch: int) -> tuple[int, ...]:
    """Return a number that is the same for every image of a batch, as the lengths of Merge and Tokens hold it.

    Once per image; a single time while a program for any batch is exported, when the batch is a symbol.
    """
    return (length,) if exporting() and isinstance(batch, torch.SymInt) else (length,) * batch


def exporting() -> bool:
    """Whether torch.export traces this forward."""
    asked = getattr(torch.compiler, 'is_exporting', None)  # torch < 2.7 does not tell export from compilation
    return asked() if asked else torch.compiler.is_compiling()


def host_numbers(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return host integers as (n,) int64 on a device, without waiting for it as torch.tensor() would."""
    return torch.tensor(numbers, dtype=torch.int64).to(device, non_blocking=True)


@torch.compiler.disable
def decided(counts: Tensor) -> list[int]:
    """Return counts of an adaptive method, (n,) integers, for use as shapes.

    The only step at which the host waits for the device and torch.compile breaks its graph, on purpose.
    """
    return counts.tolist()


def running_starts(lengths: tuple[int, ...]) -> list[int]:
    """Return where each image begins in a packed row of images of these lengths."""
    starts = [0]
    for length in lengths[:-1]:
        starts.append(starts[-1] + length)
    return starts


def scaled_count(count: int, total: int, other: int) -> int:
    """Return a count out of `total` in proportion for `other`, rounded half up."""
    if other == total:
        return count
    return (2 * count * other + total) // (2 * total) if total else 0


def stat_dtype(x: Tensor) -> torch.dtype:
    """Return float32 for similarities and sizes of half-precision tokens, the tokens' own precision otherwise."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def deciding(x: Tensor, precision: str) -> Tensor:
    """Return what a method compares, in the precision in which it decides: float64 on request, else unchanged."""
    return x if precision == 'float32' else x.double()


def deciding_dtype(x: Tensor, precision: str) -> torch.dtype:
    """Return the dtype of deciding(): at least that of stat_dtype()."""
    return stat_dtype(x) if precision == 'float32' else torch.float64


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Products keep the precision of their factors inside; x tells the device."""
    # the meta device, on which multiply-adds are counted, has no autocast
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def unit(x: Tensor, length: float = 1) -> Tensor:
    """Return rows of x divided by their length, in float32 at least; a zero row stays zero, so that its similarity is
    0.

    length: of the rows that are returned.
    """
    x = x.to(stat_dtype(x))
    # of a shorter row the squares underflow: it counts as zero
    scale = table(_share_of_length, x.shape[-1], length, x.dtype, device=x.device)
    return F.rms_norm(x, x.shape[-1:], scale, torch.finfo(x.dtype).tiny)


def _share_of_length(width: int, length: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what takes rows of mean square 1 to a length, (C,)."""
    return torch.full((width,), length * width**-0.5, dtype=dtype, device=device)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return rows of every image by number: (B, N, ...), (B, M) int64 -> (B, M, ...)."""
    rows = in_rows(index, values.shape[1])
    return values.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, index.shape)


def in_rows(index: Tensor, length: int) -> Tensor:
    """Return places in images of one length, (B, M), as places in their concatenation."""
    batch = index.shape[0]
    if isinstance(batch, int) and batch == 1:
        return index
    return index + starts_of(batch, length, index.device)[:, None]


def starts_of(batch: int, length: int, device: torch.device) -> Tensor:
    """Return where each of a batch of images of one length begins in their concatenation, (B,) int64."""
    if traced():  # sizes may be symbols
        return length * torch.arange(batch, device=device)
    return numbers(0, batch * length, max(length, 1), device=device)


def drawn(draw: Callable[[], Tensor]) -> Tensor:
    """Draw once and return a constant, so that an exported program gives the same result on every call."""
    if not exporting():
        return draw()
    with ThreadPoolExecutor(1) as pool:  # tracing only follows its own thread
        return torch.tensor(pool.submit(lambda: draw().numpy()).result())


def seeded_generator(seed: int, *place: int) -> torch.Generator:
    """Return a CPU generator that depends on the seed and the place in the network alone, so that draws repeat
    anywhere."""
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, 'little'))


def seeded_uniform(count: int, seed: int, *place: int) -> Tensor:
    """Draw (1, count) numbers from [0, 1) on the CPU, of seeded_generator(), a constant of torch.compile."""
    if torch.compiler.is_dynamo_compiling():
        # as plain numbers: one graph may not hold several constant tensors of one function, and range() takes a
        # count that is a symbol as the number it stands for
        return torch.tensor([_uniform_numbers(len(range(count)), seed, *place)])
    return drawn(lambda: torch.rand(1, count, generator=seeded_generator(seed, *place)))


@torch.compiler.assume_constant_result
def _uniform_numbers(count: int, seed: int, *place: int) -> list[float]:
    return torch.rand(count, generator=seeded_generator(seed, *place)).tolist()
