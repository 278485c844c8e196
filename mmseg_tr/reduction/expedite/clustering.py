"""Token clustering as Expedite defines it: soft k-means in which a patch sees only the nearest clusters.

A patch reaches 5 x 5 clusters, not all of them. So the grid is cut into tiles, and in each tile a few patches meet the
few clusters that any of them reaches: batched products of one shape, which are added up once per step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vecdot

from mmseg_tr.reduction.constants import filled, table
from mmseg_tr.reduction.ops import host_numbers, stat_dtype, without_autocast


def start_clusters(x: Tensor, grid: tuple[int, int], clusters: tuple[int, int]) -> Tensor:
    """Return the mean of the patches in every cell of an even division of the grid, cells overlapping where it does not
    divide.

    x: (B, h*w, C) in raster order -> (B, K, C), clusters in raster order.
    """
    features = x.unflatten(1, grid).permute(0, 3, 1, 2)  # (B, h*w, C) -> (B, C, h, w)
    return F.adaptive_avg_pool2d(features, clusters).flatten(2).transpose(1, 2)


def start_cells(grid: tuple[int, int], clusters: tuple[int, int], device: torch.device | str = 'cpu') -> Tensor:
    """Return cluster whose place a patch has: the grid of clusters enlarged to the nearest neighbour. (h*w,) int64."""
    rows, columns = (_cells_of_axis(*axis, device) for axis in zip(grid, clusters))
    return (rows[:, None] * clusters[1] + columns).flatten()


def scaled_distances(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Compute factor * |a - b|^2: (B, N, C) and (B, K, C) -> (B, N, K). Rounding may change the sign.

    The squares enter the product as two more channels, so that no further step runs over all pairs.
    """
    opposite = b * (-2 * factor)
    ones = [filled((*x.shape[:-1], 1), value, x.dtype, x.device) for x, value in ((a, -0.5), (b, factor))]
    a = torch.cat([a, vecdot(a, a)[..., None], ones[0]], -1)
    return a @ torch.cat([opposite, ones[1], vecdot(b, opposite)[..., None]], -1).transpose(-2, -1)


def cluster_patches(
    x: Tensor,
    grid: tuple[int, int],
    clusters: tuple[int, int],
    iterations: int = 5,
    window: int = 5,
    temperature: float = 0.02,
) -> Tensor:
    """Cluster the patches of each image by soft k-means (token clustering layer).

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
        far = table(_far, tiling, device=x.device)
        reached = table(_reached, tiling, device=x.device)
        with torch.no_grad():
            tiles = tiling.patches(x)
            asking = tiles * table(_channel_scales, x.shape[-1], temperature, x.dtype, device=x.device)
            own = tiling.own(tiles)
            for step in range(iterations):
                members = _memberships(asking, centres, reached, far)
                if step < iterations - 1:
                    centres = _means(members, own, tiling, reached)
        return _means(members, tiling.own(tiling.patches(x)) if x.requires_grad else own, tiling, reached)


def _channel_scales(width: int, temperature: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what makes the product of a patch with (c, |c|^2) the logit of cluster c, (C + 1,)."""
    scales = torch.full((width + 1,), 2 * temperature, dtype=dtype, device=device)
    scales[-1] = -temperature
    return scales


def _memberships(patches: Tensor, centres: Tensor, reached: Tensor, far: Tensor) -> Tensor:
    """Return the membership of patches in clusters, (..., P, Q): patches (B, ..., P, C + 1), centres (B, K, C), reached
    (..., Q).

    patches: scaled, see _channel_scales(). reached: numbers of the clusters that the patches of a tile meet.
    """
    # a patch's own norm is the same for all clusters, and does not change the softmax
    centres = torch.cat([centres, vecdot(centres, centres)[..., None]], -1)
    cells = centres.index_select(1, reached.flatten()).unflatten(1, reached.shape)
    logits = patches @ cells.transpose(-2, -1)
    return logits.masked_fill_(far, torch.finfo(logits.dtype).min).softmax(-1)


def _means(members: Tensor, own: Tensor, tiling: Tiling, reached: Tensor) -> Tensor:
    """Average the patches by their memberships, (B, K, C). own: as Tiling.own() gives them."""
    sums = (members.transpose(-2, -1) @ own).flatten(1, -2)  # (B, tiles * Q, C + 1)
    sums = filled((sums.shape[0], tiling.clusters, sums.shape[2]), 0, sums.dtype, sums.device).index_add(
        1, reached.flatten(), sums
    )
    return sums[..., :-1] / sums[..., -1:].clamp_min(1e-16)


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
        """Return clusters along the axis that each tile's patches reach, (tiles, num_cells) int64."""
        return host_numbers(self.cell_starts, device)[:, None] + torch.arange(self.num_cells, device=device)

    def places(self, device: torch.device) -> Tensor:
        """Return patches along the axis that each tile reads, (tiles, num_patches) int64."""
        return host_numbers(self.patch_starts, device)[:, None] + torch.arange(self.num_patches, device=device)

    def masks(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """far (tiles, P, Q): out of a patch's reach; own (tiles, P): patches that are the tile's own."""
        cell_of = _cells_of_axis(self.length, self.cells, device)[self.places(device)]
        tiles = torch.arange(len(self.patch_starts), device=device)
        far = (cell_of[:, :, None] - self.reached(device)[:, None]).abs() > self.reach
        return far, cell_of // self.tile == tiles[:, None]


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

    @property
    def clusters(self) -> int:
        return self.rows.cells * self.columns.cells

    def patches(self, x: Tensor) -> Tensor:
        """Return patches with a 1 as one more channel: (B, h*w, C) -> (B, tile rows, tile columns, P, C + 1)."""
        x = torch.cat([x, filled((*x.shape[:-1], 1), 1, x.dtype, x.device)], -1)
        places = table(_places, self, device=x.device)
        return x.index_select(1, places.flatten()).unflatten(1, places.shape)

    def own(self, tiles: Tensor) -> Tensor:
        """Return patches of tiles, zero where a patch belongs to another tile."""
        return tiles * table(_own, self, device=tiles.device)


def _places(tiling: Tiling, device: torch.device) -> Tensor:
    """Return numbers of the patches of each tile, (tile rows, tile columns, P) int64."""
    return _numbered(tiling.rows.places(device), tiling.columns.places(device), tiling.columns.length)


def _reached(tiling: Tiling, device: torch.device) -> Tensor:
    """Return numbers of the clusters that a tile's patches reach, (tile rows, tile columns, Q) int64."""
    return _numbered(tiling.rows.reached(device), tiling.columns.reached(device), tiling.columns.cells)


def _numbered(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Return numbers in raster order of all places of two axes, (tile rows, y), (tile columns, x) -> (..., y * x)."""
    return (rows[:, None, :, None] * width + columns[None, :, None]).flatten(2)


def _far(tiling: Tiling, device: torch.device) -> Tensor:
    """Return clusters out of a patch's reach, (tile rows, tile columns, P, Q) bool."""
    far_y, far_x = (axis.masks(device)[0] for axis in (tiling.rows, tiling.columns))
    far = far_y[:, None, :, None, :, None] | far_x[None, :, None, :, None, :]
    return far.flatten(4, 5).flatten(2, 3)


def _own(tiling: Tiling, device: torch.device) -> Tensor:
    """Return patches that are the tile's own, (tile rows, tile columns, P, 1) bool."""
    own_y, own_x = (axis.masks(device)[1] for axis in (tiling.rows, tiling.columns))
    return (own_y[:, None, :, None] & own_x[None, :, None, :]).flatten(2, 3)[..., None]


def _cells_of_axis(length: int, cells: int, device: torch.device | str) -> Tensor:
    """Return nearest of `cells` for each of `length` places, by torch's rule (float32), which whole numbers miss."""
    places = torch.arange(length, device=device, dtype=torch.float32) * (cells / length)
    return places.floor().long().clamp_max(cells - 1)
