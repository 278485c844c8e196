"""SegFormer++ (Kienzle et al., 2024): merging of queries, and of keys with values, inside the attention of MiT.

A merger takes tokens (B, N, C) of a grid to fewer tokens, and gives a function that expands them again. A stage merges
its queries, its keys and values, both, or nothing; segformerpp_settings reads what is asked of each stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.reduction.matching import Merge, descending_rank, identity, similarities

Grid = tuple[int, int]
Merged = tuple[Tensor, Callable[[Tensor], Tensor]]


@lru_cache(maxsize=256)
def grid_partition(grid: Grid, stride: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Destinations and sources of a grid, ascending: the upper left token of every whole block is a destination.

    grid: (h, w); stride: (sy, sx). Blocks cut off at the lower and right border hold sources only. The arrays are
    read-only, and not tensors: those would remember the mode (inference, tracing) of whoever asked first.
    """
    rows = np.arange(grid[0] // stride[0]) * stride[0]
    columns = np.arange(grid[1] // stride[1]) * stride[1]
    destinations = (rows[:, None] * grid[1] + columns).ravel()
    sources = np.setdiff1d(np.arange(grid[0] * grid[1]), destinations)
    destinations.flags.writeable = sources.flags.writeable = False
    return destinations, sources


def shifted_partition(grid: Grid, stride: Grid, offset: Tensor) -> tuple[Tensor, Tensor]:
    """As grid_partition(), with the destination of each block at a place of its own.

    offset: (h // sy, w // sx) int64, place oy * sx + ox inside the block.
    """
    rows = torch.arange(offset.shape[0], device=offset.device)[:, None] * stride[0] + offset // stride[1]
    columns = torch.arange(offset.shape[1], device=offset.device) * stride[1] + offset % stride[1]
    destinations = (rows * grid[1] + columns).flatten()
    source = torch.ones(grid[0] * grid[1], dtype=torch.bool, device=offset.device)
    source[destinations] = False
    return destinations, source.nonzero().flatten()


@torch.no_grad()
def grid_matching(metric: Tensor, grid: Grid, stride: Grid, r: int, offset: Tensor | None = None) -> Merge:
    """Join the r sources that are most similar to a destination, anywhere in the image, with it.

    metric: (B, h*w, C) in raster order. Destinations: one token in every block of `stride`, see grid_partition() and
    shifted_partition(). r is cut to the number of sources. A stride larger than the grid is cut to the grid (the
    published code fails there), so that a single token is left alone. Merged order: remaining sources in descending
    order of similarity, then destinations.
    """
    batch, num_tokens = metric.shape[:2]
    stride = min(stride[0], grid[0]), min(stride[1], grid[1])
    if offset is None:
        dst, src = (torch.tensor(places, device=metric.device) for places in grid_partition(grid, stride))
    else:
        dst, src = shifted_partition(grid, stride, offset)
    r = min(r, len(src))
    if r <= 0:
        return identity(metric)
    score, partner = similarities(metric[:, src], metric[:, dst]).max(dim=-1)  # (B, sources)
    rank = descending_rank(score)
    kept = len(src) - r
    index = rank.new_empty(batch, num_tokens)
    index[:, src] = torch.where(rank < r, kept + partner, rank - r)
    index[:, dst] = kept + torch.arange(len(dst), device=metric.device)
    return Merge(index, (num_tokens - r,) * batch, (score,))


@dataclass(frozen=True)
class Bipartite:
    """Bipartite soft matching on the grid: the fraction `ratio` of the tokens joins others."""

    ratio: float
    stride: Grid

    def __call__(self, x: Tensor, grid: Grid) -> Merged:
        merge = grid_matching(x, grid, self.stride, int(x.shape[1] * self.ratio))
        lengths = (x.shape[1],) * x.shape[0]
        return merge.apply(x, None, lengths)[0], lambda values: merge.unmerge(values, lengths)

    def reaches(self, grid: Grid) -> bool:
        """Whether the grid holds a whole block, and more tokens than destinations."""
        return grid[0] >= self.stride[0] and grid[1] >= self.stride[1]

    @property
    def idle(self) -> bool:
        return self.ratio == 0 or self.stride == (1, 1)


@dataclass(frozen=True)
class Neighbours1D:
    """Average of every `step` tokens that follow one another in raster order; expanded by nearest neighbour."""

    step: int

    def __call__(self, x: Tensor, grid: Grid) -> Merged:
        size = x.shape[1]
        merged = F.avg_pool1d(x.transpose(1, 2), self.step, ceil_mode=True).transpose(1, 2)
        return merged, lambda values: F.interpolate(values.transpose(1, 2), size=size).transpose(1, 2)

    def reaches(self, grid: Grid) -> bool:
        return grid[0] * grid[1] >= self.step

    @property
    def idle(self) -> bool:
        return self.step == 1


@dataclass(frozen=True)
class Neighbours2D:
    """Average over blocks of `stride` = (sy, sx); expanded by nearest neighbour.

    Where the stride is not 2 and does not divide the grid, expanding is not the exact inverse, as published.
    """

    stride: Grid

    def __call__(self, x: Tensor, grid: Grid) -> Merged:
        pooled = F.avg_pool2d(x.transpose(1, 2).unflatten(2, grid), self.stride, ceil_mode=True)

        def expand(values: Tensor) -> Tensor:
            small = values.transpose(1, 2).unflatten(2, pooled.shape[-2:])
            return F.interpolate(small, size=grid).flatten(2).transpose(1, 2)

        return pooled.flatten(2).transpose(1, 2), expand

    def reaches(self, grid: Grid) -> bool:
        return grid[0] >= self.stride[0] and grid[1] >= self.stride[1]

    @property
    def idle(self) -> bool:
        return self.stride == (1, 1)


Merger = Bipartite | Neighbours1D | Neighbours2D


@dataclass(frozen=True)
class StageMerging:
    """What the blocks of one stage merge: queries, and keys with values, each on its own."""

    queries: Merger | None = None
    keys: Merger | None = None

    def merge_keys(self, x: Tensor, grid: Grid) -> Tensor:
        """Tokens from which keys and values are made, (B, K, C) of a grid; never expanded again."""
        if self.keys is None:
            return x
        with record_function('mmseg_tr::merge'):
            return self.keys(x, grid)[0]

    def merge_queries(self, x: Tensor, grid: Grid) -> Merged:
        """Tokens from which queries are made, and the function that gives every token its query's result."""
        if self.queries is None:
            return x, lambda values: values
        with record_function('mmseg_tr::merge'):
            merged, expand = self.queries(x, grid)

        def unmerge(values: Tensor) -> Tensor:
            with record_function('mmseg_tr::merge'):
                return expand(values)

        return merged, unmerge

    def reaches(self, grid: Grid, key_grid: Grid) -> bool:
        """Whether the grids of queries and of keys are large enough to merge as asked."""
        asked = ((self.queries, grid), (self.keys, key_grid))
        return all(merger is None or merger.reaches(size) for merger, size in asked)
