"""ALGM's local merge: windows of the grid whose patches agree join."""

from __future__ import annotations

import math
import struct

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from mmseg_tr.reduction.constants import numbers, table
from mmseg_tr.reduction.ladder import Grid
from mmseg_tr.reduction.matching import descending_order, descending_rank
from mmseg_tr.reduction.merge import Merge, Runs
from mmseg_tr.reduction.ops import decided, per_image, unit, without_autocast


def window_similarity(x: Tensor, grid: tuple[int, int], window: tuple[int, int], num_prefix: int = 1) -> Tensor:
    """Return the mean cosine similarity of the n tokens of every window, over all ordered pairs (section 3.1, CLAP).

    x: (B, E + h*w, C), patches in raster order after E prefix tokens. Windows tile the top-left part of the grid that
    they fit into. Returns (B, nW) in raster order, float32 at least. Raises ValueError when grid and tokens disagree.
    """
    (h, w), (wh, ww) = grid, window
    if x.shape[1] != num_prefix + h * w:
        raise ValueError(f'{x.shape[1]} tokens do not fill a grid of {h} x {w} after {num_prefix} prefix tokens.')
    n = wh * ww
    if h < wh or w < ww:
        return x.new_zeros(x.shape[0], 0)
    with without_autocast(x):
        # tokens in raster order are a channels-last map, which pooling reads without a copy: ten times faster than sums
        # over the strided axes of windows
        # rows of length sqrt(n / (n - 1)), so that nothing is left to divide
        u = unit(x[:, num_prefix:], (n / (n - 1)) ** 0.5).unflatten(1, (h, w)).permute(0, 3, 1, 2)  # (B, C, h, w)
        of_all = vector_norm(
            F.avg_pool2d(u, window), dim=1
        ).square()  # sum over all pairs, i = j included, of cos(i, j)
        of_self = F.avg_pool2d(vector_norm(u, dim=1).square(), window)
        return torch.sub(of_all, of_self, alpha=1 / n).flatten(1)


@torch.compiler.assume_constant_result
def float32_of(value: float) -> float:
    """Return the float32 nearest to a number."""
    return struct.unpack('f', struct.pack('f', value))[0]


@torch.no_grad()
def local_merge(
    x: Tensor,
    grid: tuple[int, int],
    window: tuple[int, int],
    threshold: float,
    num_prefix: int = 1,
    batch: str = 'per_image',
    count: int | None = None,
) -> Merge:
    """Join every window whose patches agree (conditional local average pooling, section 3.1).

    x: (B, E + h*w, C). A window joins when its similarity reaches the threshold; with batch='joint' every image joins
    as many windows as the image with the fewest, its most similar ones. count: join that many in every image instead,
    its most similar ones, ignoring the threshold. Merged order: prefix, joined windows from the most similar on,
    remaining patches in raster order.
    """
    saved = math.prod(window) - 1  # tokens that a window which joins removes
    similarity = window_similarity(x, grid, window, num_prefix)
    if count is not None:
        index, runs = _uniform_places(similarity, x.shape[1], grid, window, num_prefix, count, repeats=True)
        lengths = per_image(x.shape[1] - saved * count, x.shape[0])
        return Merge(index, lengths, (similarity,), saved, runs=runs)
    counts = (similarity >= float32_of(threshold)).sum(1)
    r = decided(counts)
    r = [min(r)] * len(r) if batch == 'joint' else r
    lengths = tuple(x.shape[1] - saved * joined for joined in r)
    if len(set(r)) == 1:
        index, runs = _uniform_places(similarity, x.shape[1], grid, window, num_prefix, r[0])
        return Merge(index, lengths, (similarity,), saved, runs=runs)
    return Merge(_places(similarity, counts, grid, window, num_prefix), lengths, (similarity,), saved)


def _uniform_places(
    similarity: Tensor, num_tokens: int, grid: Grid, window: Grid, num_prefix: int, r: int, repeats: bool = False
) -> tuple[Tensor, Runs]:
    """Return places of all tokens when r windows join in every image, and the same as runs; see local_merge().

    repeats: whether r is the same in every forward, so that what follows from it is kept.
    """
    batch, windows, each, device = similarity.shape[0], similarity.shape[1], math.prod(window), similarity.device
    chosen = descending_order(similarity)[:, :r]
    ranks = table(_ranks_of_none, windows, device=device).expand(batch, -1)
    ranks = ranks.scatter(1, chosen, numbers(0, r, device=device).expand(batch, -1))
    of_token = ranks.index_select(1, table(_windows_of_tokens, grid, window, num_prefix, device=device))
    order = of_token.argsort(dim=1, stable=True)  # prefix, windows that join by rank, others in raster order
    makes = table if repeats else lambda build, *key, device: build(*key, device)
    of_order = makes(_places_in_order, num_tokens, num_prefix, each, windows, r, device=device)
    places = numbers(0, num_tokens, device=device).expand(batch, -1).scatter(1, order, of_order.expand(batch, -1))
    return places, Runs(order, num_prefix, r, each)


def _ranks_of_none(windows: int, device: torch.device) -> Tensor:
    """Return the ranks of the windows before any is chosen, of patches in no window, and of prefix tokens, (windows +
    2,)."""
    ranks = torch.full((windows + 2,), windows, device=device)
    ranks[-1] = -1
    return ranks


def _windows_of_tokens(grid: Grid, window: Grid, num_prefix: int, device: torch.device) -> Tensor:
    """Return the entry of _ranks_of_none() that holds for each token, (T,)."""
    gh, gw = grid[0] // window[0], grid[1] // window[1]
    patches = torch.arange(gh * gw, device=device).view(gh, gw)
    patches = patches.repeat_interleave(window[0], 0).repeat_interleave(window[1], 1)
    patches = F.pad(patches, (0, grid[1] - gw * window[1], 0, grid[0] - gh * window[0]), value=gh * gw)
    return F.pad(patches.flatten(), (num_prefix, 0), value=gh * gw + 1)


def _places_in_order(num_tokens: int, num_prefix: int, each: int, windows: int, r: int, device: torch.device) -> Tensor:
    """Return places of tokens that lie in the order of their places, r windows of `each` after the prefix, (T,)."""
    shared = table(_places_of_runs, num_prefix, each, windows, device=device)[: num_prefix + r * each]
    first = num_prefix + r
    alone = numbers(first, first + num_tokens - len(shared), device=device)
    return torch.cat([shared, alone])


def _places_of_runs(num_prefix: int, each: int, windows: int, device: torch.device) -> Tensor:
    """Return places of prefix tokens and of as many runs as there are windows."""
    runs = torch.arange(num_prefix, num_prefix + windows, device=device).repeat_interleave(each)
    return torch.cat([torch.arange(num_prefix, device=device), runs])


def _places(similarity: Tensor, r: Tensor, grid: Grid, window: Grid, num_prefix: int) -> Tensor:
    """As _uniform_places(), when another number of windows joins in every image: r (B,)."""
    batch, device = similarity.shape[0], similarity.device
    rank = descending_rank(similarity)
    rank = F.pad(torch.where(rank < r[:, None], rank, -1), (0, 2), value=-1)
    slots = table(_windows_of_tokens, grid, window, num_prefix, device=device)
    place = rank.index_select(1, slots[num_prefix:])
    alone = place < 0
    place = torch.where(alone, alone.cumsum(1) - 1 + r[:, None], place) + num_prefix
    return torch.cat([numbers(0, num_prefix, device=device).expand(batch, -1), place], 1)
