"""Token clustering as Expedite defines it: soft k-means in which a patch sees only the nearest clusters.

A patch reaches 5 x 5 clusters, not all of them. So the grid is cut into tiles, and in each tile a few patches meet the
few clusters that any of them reaches: batched products of one shape, without atomics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.reduction.ops import host_numbers, stat_dtype, without_autocast


def start_clusters(x: Tensor, grid: tuple[int, int], clusters: tuple[int, int]) -> Tensor:
    """Mean of the patches in every cell of an even division of the grid, cells overlapping where it does not divide.

    x: (B, h*w, C) in raster order -> (B, K, C), clusters in raster order.
    """
    features = x.unflatten(1, grid).permute(0, 3, 1, 2)  # (B, h*w, C) -> (B, C, h, w)
    return F.adaptive_avg_pool2d(features, clusters).flatten(2).transpose(1, 2)


def start_cells(grid: tuple[int, int], clusters: tuple[int, int], device: torch.device | str = 'cpu') -> Tensor:
    """The cluster whose place a patch has: the grid of clusters enlarged to the nearest neighbour. (h*w,) int64."""
    rows, columns = (_cells_of_axis(*axis, device) for axis in zip(grid, clusters))
    return (rows[:, None] * clusters[1] + columns).flatten()


def scaled_distances(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """factor * |a - b|^2: (B, N, C) and (B, K, C) -> (B, N, K). Rounding may change the sign.

    The squares enter the product as two more channels, so that no further step runs over all pairs.
    """
    squares_a, squares_b = (x.square().sum(-1, keepdim=True) for x in (a, b))
    a = factor * torch.cat([-2 * a, squares_a, torch.ones_like(squares_a)], -1)
    b = torch.cat([b, torch.ones_like(squares_b), squares_b], -1)
    return a @ b.transpose(-2, -1)


def cluster_patches(
    x: Tensor,
    grid: tuple[int, int],
    clusters: tuple[int, int],
    iterations: int = 5,
    window: int = 5,
    temperature: float = 0.02,
) -> Tensor:
    """Soft k-means over the patches of each image (token clustering layer).

    x: (B, h*w, C) in raster order. clusters: (rows, columns) of the K clusters. A patch belongs to the window x window
    clusters around its own, by a softmax of -temperature times the squared distance: an inverse temperature. Returns
    (B, K, C) in float32 at least. The backward pass treats the memberships as constants and only reaches x.
    """
    with without_autocast(x):
        x = x.to(stat_dtype(x))
        centres = start_clusters(x, grid, clusters)
        if not iterations:
            return centres
        tiling = Tiling(*(tile_axis(*axis, window // 2) for axis in zip(grid, clusters)))
        with torch.no_grad():
            tiles = tiling.patches(x)
            far, own = tiling.masks(x.device)
            reached = tiling.reached(x.device)
            for step in range(iterations):
                members = _memberships(tiles, centres, reached, far, own, temperature)
                if step < iterations - 1:
                    centres = _means(members, tiles, tiling)
        return _means(members, tiling.patches(x) if x.requires_grad else tiles, tiling)


def _memberships(
    patches: Tensor, centres: Tensor, reached: Tensor, far: Tensor, own: Tensor, temperature: float
) -> Tensor:
    """Membership of patches in clusters: patches (B, ..., P, C), centres (B, K, C), reached (..., Q) -> (..., P, Q).

    reached: numbers of the clusters that the patches of a tile meet.
    """
    # a patch's own norm is the same for all clusters, and does not change the softmax
    squares = temperature * centres.square().sum(-1)
    cells = (2 * temperature * centres).index_select(1, reached.flatten()).unflatten(1, reached.shape)
    logits = patches @ cells.transpose(-2, -1)
    logits -= squares.index_select(1, reached.flatten()).unflatten(1, reached.shape)[..., None, :]
    return logits.masked_fill_(far, torch.finfo(logits.dtype).min).softmax(-1).mul_(own)


def _means(members: Tensor, patches: Tensor, tiling: Tiling) -> Tensor:
    """Patches averaged by their memberships, (B, K, C)."""
    mass = tiling.sum_cells(members.sum(-2)[..., None])
    return tiling.sum_cells(members.transpose(-2, -1) @ patches) / mass.clamp_min(1e-16)


@dataclass(frozen=True)
class TiledAxis:
    """One axis of the tiling: tile i owns the cells [i*tile, (i+1)*tile) and the patches that start in them.

    length, cells: patches and clusters along the axis. reach: how many clusters away a patch may belong to.
    patch_starts, num_patches: a tile reads this many patches from here, its own among them.
    cell_starts, num_cells: the patches of a tile reach this many clusters from here.
    """

    length: int
    cells: int
    reach: int
    tile: int
    patch_starts: tuple[int, ...]
    num_patches: int
    cell_starts: tuple[int, ...]
    num_cells: int

    def reached(self, device: torch.device) -> Tensor:
        """Clusters along the axis that each tile's patches reach, (tiles, num_cells) int64."""
        starts = host_numbers(self.cell_starts, device)
        return starts[:, None] + torch.arange(self.num_cells, device=device)

    def masks(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """far (tiles, P, Q): out of a patch's reach; own (tiles, P): patches that are the tile's own."""
        cell_of = _cells_of_axis(self.length, self.cells, device)
        cell_of = torch.stack([cell_of[start : start + self.num_patches] for start in self.patch_starts])
        cell = self.reached(device)
        tiles = torch.arange(len(self.patch_starts), device=device)
        return (cell_of[:, :, None] - cell[:, None]).abs() > self.reach, cell_of // self.tile == tiles[:, None]


def tile_axis(length: int, cells: int, reach: int) -> TiledAxis:
    """Cut one axis of `length` patches and `cells` clusters into tiles; a short one stays whole."""
    tile = max(2 * reach, 4)
    num_cells = tile + 2 * reach
    if num_cells >= cells:
        return TiledAxis(length, cells, reach, cells, (0,), length, (0,), cells)
    # as _cells_of_axis(), in plain integers for shapes
    step, last = np.float32(cells / length), cells - 1
    tile_of = [min(int(np.float32(patch) * step), last) // tile for patch in range(length)]
    tiles = range(-(-cells // tile))
    first = [sum(owner < number for owner in tile_of) for number in tiles]
    num_patches = max(tile_of.count(number) for number in tiles)
    patch_starts = tuple(min(start, length - num_patches) for start in first)
    cell_starts = tuple(min(max(number * tile - reach, 0), cells - num_cells) for number in tiles)
    return TiledAxis(length, cells, reach, tile, patch_starts, num_patches, cell_starts, num_cells)


@dataclass(frozen=True)
class Tiling:
    """The grid cut into tiles: P patches and Q clusters each."""

    rows: TiledAxis
    columns: TiledAxis

    def patches(self, x: Tensor) -> Tensor:
        """(B, h*w, C) -> (B, tile rows, tile columns, P, C)."""
        rows, columns = self.rows, self.columns
        x = _windows(x.unflatten(1, (rows.length, columns.length)), 1, rows.patch_starts, rows.num_patches)
        return _windows(x, 3, columns.patch_starts, columns.num_patches).transpose(2, 3).flatten(3, 4)

    def reached(self, device: torch.device) -> Tensor:
        """Numbers of the clusters that a tile's patches reach, (tile rows, tile columns, Q) int64."""
        rows, columns = (axis.reached(device) for axis in (self.rows, self.columns))  # (tiles, cells) each
        return (rows[:, None, :, None] * self.columns.cells + columns[None, :, None]).flatten(2)

    def sum_cells(self, tiles: Tensor) -> Tensor:
        """Add up the sums of the tiles for each cluster: (B, tile rows, tile columns, Q, C) -> (B, K, C)."""
        rows, columns = self.rows, self.columns
        tiles = tiles.unflatten(3, (rows.num_cells, columns.num_cells)).transpose(2, 3)
        tiles = _overlap_add(tiles, 3, columns.cell_starts, columns.cells)
        return _overlap_add(tiles, 1, rows.cell_starts, rows.cells).flatten(1, 2)

    def masks(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """far (tile rows, tile columns, P, Q) and own (tile rows, tile columns, P, 1), of both axes."""
        (far_y, own_y), (far_x, own_x) = self.rows.masks(device), self.columns.masks(device)
        far = far_y[:, None, :, None, :, None] | far_x[None, :, None, :, None, :]
        own = own_y[:, None, :, None] & own_x[None, :, None, :]
        return far.flatten(4, 5).flatten(2, 3), own.flatten(2, 3)[..., None]


def _cells_of_axis(length: int, cells: int, device: torch.device | str) -> Tensor:
    """The nearest of `cells` for each of `length` places, by torch's rule (float32), which whole numbers miss."""
    places = torch.arange(length, device=device, dtype=torch.float32) * (cells / length)
    return places.floor().long().clamp_max(cells - 1)


def _windows(x: Tensor, dim: int, starts: tuple[int, ...], length: int) -> Tensor:
    """Slices of one length along dim, stacked in front of it."""
    return torch.stack([x.narrow(dim, start, length) for start in starts], dim)


def _overlap_add(x: Tensor, dim: int, starts: tuple[int, ...], length: int) -> Tensor:
    """Undo _windows() by adding where slices overlap."""
    if starts == (0,):
        return x.squeeze(dim)
    parts, size = x.unbind(dim), x.shape[dim + 1]
    out = x.new_zeros(*x.shape[:dim], length, *x.shape[dim + 2 :])
    for part, start in zip(parts, starts):
        out.narrow(dim, start, size).add_(part)
    return out
