"""The mergers of SegFormer++, and what a stage of a MiT does with them.

A merger takes tokens (B, N, C) of a grid to fewer tokens, and returns a function that expands them again. A stage
merges its queries, its keys and values, both, or nothing. A merger's matching is returned too, so that
later blocks of the stage can reuse it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.reduction.matching import descending_order, merged_places, most_similar, source_places
from mmseg_tr.reduction.merge import Merge, identity
from mmseg_tr.reduction.ops import deciding, per_image
from mmseg_tr.reduction.tokens import as_map, as_tokens

Grid = tuple[int, int]
Shorter = tuple[Tensor, Callable[[Tensor], Tensor]]  # merged tokens, and the function that expands them


@lru_cache(maxsize=256)
def grid_partition(grid: Grid, stride: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return destinations and sources of a grid, ascending: the upper left token of every whole block is a destination.

    grid: (h, w); stride: (sy, sx). Blocks cut off at the lower and right border hold sources only. The arrays are
    read-only, and not tensors: those would remember the mode (inference, tracing) of the first call.
    """
    rows = np.arange(grid[0] // stride[0]) * stride[0]
    columns = np.arange(grid[1] // stride[1]) * stride[1]
    destinations = (rows[:, None] * grid[1] + columns).ravel()
    sources = np.setdiff1d(np.arange(grid[0] * grid[1]), destinations)
    destinations.flags.writeable = sources.flags.writeable = False
    return destinations, sources


def computed_partition(grid: Grid, stride: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute grid_partition() in operators, for compiled programs whose grid is a symbol."""
    rows, columns = grid[0] // stride[0], grid[1] // stride[1]
    place = torch.arange(grid[0] * grid[1], device=device)
    row, column = place // grid[1], place % grid[1]
    corner = (row % stride[0] == 0) & (column % stride[1] == 0)
    destination = corner & (row < rows * stride[0]) & (column < columns * stride[1])
    sources_first = torch.argsort(destination.long(), stable=True)
    count = grid[0] * grid[1] - rows * columns
    return sources_first[count:], sources_first[:count]


def shifted_partition(grid: Grid, stride: Grid, offset: Tensor) -> tuple[Tensor, Tensor]:
    """As grid_partition(), with a separate offset for the destination of each block.

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
    shifted_partition(). r is limited to the number of sources, a stride to the grid (the published code
    fails there), so that a single token is left alone. Merged order: remaining sources in descending order of
    similarity, then destinations.
    """
    batch, num_tokens = metric.shape[:2]
    stride = min(stride[0], grid[0]), min(stride[1], grid[1])
    if offset is None and torch.compiler.is_dynamo_compiling():
        dst, src = computed_partition(grid, stride, metric.device)
    elif offset is None:
        # does not wait for the device, unlike torch.tensor(device=)
        places = map(torch.tensor, grid_partition(tuple(grid), stride))
        dst, src = (place.to(metric.device, non_blocking=True) for place in places)
    else:
        dst, src = shifted_partition(grid, stride, offset)
    r = min(r, src.shape[0])
    if r <= 0:
        return identity(metric)
    score, partner = most_similar(metric.index_select(1, src), metric.index_select(1, dst))  # (B, sources)
    of_source = source_places(descending_order(score), partner, r, dst.shape[0])
    index = merged_places(src, dst, of_source, r)
    return Merge(index, per_image(num_tokens - r, batch), (score,))


@dataclass(frozen=True)
class Bipartite:
    """Bipartite soft matching on the grid: the fraction `ratio` of the tokens merges into others."""

    ratio: float
    stride: Grid
    precision: str = 'float32'

    def match(self, x: Tensor, grid: Grid) -> Merge:
        """Return which tokens join. x: (B, h*w, C)."""
        return grid_matching(deciding(x, self.precision), grid, self.stride, int(x.shape[1] * self.ratio))

    def __call__(self, x: Tensor, grid: Grid, merge: Merge | None = None) -> Shorter:
        """merge: a matching of tokens on the same grid, to be used instead of one of x."""
        merge = self.match(x, grid) if merge is None else merge
        lengths = per_image(x.shape[1], x.shape[0])
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

    def match(self, x: Tensor, grid: Grid) -> None:
        """Places alone decide."""

    def __call__(self, x: Tensor, grid: Grid, merge: Merge | None = None) -> Shorter:
        return average_blocks(x, (1, x.shape[1]), (1, self.step))

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

    def match(self, x: Tensor, grid: Grid) -> None:
        """Places alone decide."""

    def __call__(self, x: Tensor, grid: Grid, merge: Merge | None = None) -> Shorter:
        return average_blocks(x, grid, self.stride)

    def reaches(self, grid: Grid) -> bool:
        return grid[0] >= self.stride[0] and grid[1] >= self.stride[1]

    @property
    def idle(self) -> bool:
        return self.stride == (1, 1)


def average_blocks(x: Tensor, grid: Grid, stride: Grid) -> Shorter:
    """Return the mean of every block of the grid, cut off at the border; expanded by nearest neighbour."""
    merged, small = as_tokens(F.avg_pool2d(as_map(x, grid), stride, ceil_mode=True))
    return merged, lambda values: as_tokens(F.interpolate(as_map(values, small), size=grid))[0]


Merger = Bipartite | Neighbours1D | Neighbours2D


class Matchings(NamedTuple):
    """The matchings of a block's queries and keys; None where nothing is compared."""

    queries: Merge | None = None
    keys: Merge | None = None


@dataclass(frozen=True)
class StageMerging:
    """What the blocks of one stage merge: queries, and keys with values, each on its own.

    share: this many consecutive blocks use the matchings of the first; 1 is published, None means the whole stage.
    """

    queries: Merger | None = None
    keys: Merger | None = None
    share: int | None = 1

    @property
    def idle(self) -> bool:
        """Whether a configured merger removes no token."""
        return any(merger is not None and merger.idle for merger in (self.queries, self.keys))

    def compares(self, block: int) -> bool:
        """Whether a block, counted from 0 in its stage, computes a new matching."""
        return block % self.share == 0 if self.share else block == 0

    def merge_keys(self, x: Tensor, grid: Grid, merge: Merge | None = None) -> tuple[Tensor, Merge | None]:
        """Return tokens from which keys and values are made, (B, K, C) of a grid, and the matching that was used.

        They are never expanded again. merge: a matching of an earlier block, used instead of one of x.
        """
        if self.keys is None:
            return x, None
        with record_function('mmseg_tr::merge'):
            merge = self.keys.match(x, grid) if merge is None else merge
            return self.keys(x, grid, merge)[0], merge

    def merge_queries(self, x: Tensor, grid: Grid, merge: Merge | None = None) -> tuple[Shorter, Merge | None]:
        """Return tokens from which queries are made, the function that gives every token its query's result, the
        matching."""
        if self.queries is None:
            return (x, lambda values: values), None
        with record_function('mmseg_tr::merge'):
            merge = self.queries.match(x, grid) if merge is None else merge
            merged, expand = self.queries(x, grid, merge)

        def unmerge(values: Tensor) -> Tensor:
            with record_function('mmseg_tr::merge'):
                return expand(values)

        return (merged, unmerge), merge

    def reaches(self, grid: Grid, key_grid: Grid) -> bool:
        """Whether the grids of queries and of keys are large enough to merge as asked."""
        asked = ((self.queries, grid), (self.keys, key_grid))
        return all(merger is None or merger.reaches(size) for merger, size in asked)
