"""CubistMerge: spatially structured token merging that keeps a rectangular grid (Gong and Lis, 2025)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.checks import (
    check_choice,
    check_integer,
    check_layer,
    check_number,
    check_pair,
    check_precision,
    check_rectangle,
    is_integer,
)
from mmseg_tr.reduction.constants import numbers
from mmseg_tr.reduction.ladder import Grid, Ladder, distinct, rungs, scaled_layer
from mmseg_tr.reduction.matching import descending_rank
from mmseg_tr.reduction.merge import Merge
from mmseg_tr.reduction.ops import deciding, per_image, take, unit
from mmseg_tr.reduction.tokens import Tokens
from mmseg_tr.reduction.windows import GridWindows

COLLISIONS = ('keep', 'published')


def lost(side: int, ratio: float) -> int:
    """Return rows or columns that leave a side by ratio: rounded half to even, in float32 as published."""
    return int(np.rint(np.float32(side) * np.float32(ratio)))


@dataclass(frozen=True)
class LineMatch:
    """A matching in lines of n tokens: from each line r tokens at odd places leave, k for the token at 2k + 1.

    goes: (L, n // 2) bool. right: (L, n // 2) bool, into its right neighbour instead of its left one. score:
    (L, n // 2), its similarity with that one. rank: (L, n // 2) int64, the order in which tokens go.
    """

    goes: Tensor
    right: Tensor
    score: Tensor
    rank: Tensor

    def kept(self, length: int) -> Tensor:
        """Whether each of the n tokens stays, (L, n) bool."""
        even = self.goes.new_ones(self.goes.shape[0], (length + 1) // 2)
        return interleaved(even, ~self.goes)

    def places(self, length: int) -> Tensor:
        """Place of each of the n tokens in the shorter line, (L, n) int64."""
        place = self.kept(length).cumsum(1) - 1
        receiver = numbers(0, self.goes.shape[1], device=place.device) + self.right.long()
        even = place[:, ::2]
        return interleaved(even, torch.where(self.goes, even.gather(1, receiver), place[:, 1::2]))


@torch.no_grad()
def match_lines(x: Tensor, r: int) -> LineMatch:
    """Compare every second token of a line with its two neighbours; the r most similar ones go.

    x: (L, n, C), r: at most n // 2. The left neighbour first among equals, and the lower place.
    """
    u = unit(x)
    similarity = (u[:, :-1] * u[:, 1:]).sum(-1)  # (L, n - 1), of every token with the next one
    if x.shape[1] % 2 == 0:  # the last token of an even line has no right neighbour
        similarity = torch.cat([similarity, similarity.new_full((x.shape[0], 1), -torch.inf)], 1)
    left, right = similarity[:, ::2], similarity[:, 1::2]
    score = torch.maximum(left, right)
    rank = descending_rank(score)
    return LineMatch(rank < r, right > left, score, rank)


def join_lines(x: Tensor, match: LineMatch, r: int, collisions: str = 'keep') -> Tensor:
    """Return the lines of n - r tokens, (L, n, C) -> (L, n - r, C), order kept.

    A receiver keeps per channel the entry of greatest magnitude, its own among equals, of itself and all its sources;
    with collisions='published' of two sources one is lost, as in the authors' code on a CPU.
    """
    even, odd = x[:, ::2], x[:, 1::2]
    receivers, before = even.shape[1], slice(even.shape[1] - 1)
    comes_left, comes_right = match.goes & match.right, match.goes & ~match.right  # from the left, from the right
    none, blank = comes_left.new_zeros(x.shape[0], 1), odd.new_zeros(x.shape[0], 1, x.shape[2])
    comes_left = torch.cat([none, comes_left[:, before]], 1)
    comes_right = torch.cat([comes_right, none], 1)[:, :receivers]
    if collisions == 'published':
        start = match.rank.new_zeros(x.shape[0], 1)
        a, b = torch.cat([start, match.rank[:, before]], 1), torch.cat([match.rank, start], 1)[:, :receivers]
        left_wins = torch.where(a % 2 != b % 2, a % 2 == 1, a > b)
        both = comes_left & comes_right
        comes_left, comes_right = comes_left & ~(both & ~left_wins), comes_right & ~(both & left_wins)
    joined = greatest(even, torch.cat([blank, odd[:, before]], 1), comes_left)
    joined = greatest(joined, torch.cat([odd, blank], 1)[:, :receivers], comes_right)
    order = (~match.kept(x.shape[1])).to(torch.int32).argsort(dim=1, stable=True)  # remaining tokens first
    return take(interleaved(joined, odd), order[:, : x.shape[1] - r])


def greatest(x: Tensor, source: Tensor, comes: Tensor) -> Tensor:
    """Return per channel the entry of greater magnitude, where a source comes: x, source (L, n, C), comes (L, n)."""
    return torch.where(comes[..., None] & (source.abs() > x.abs()), source, x)


def interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """Return entries at even and at odd places of a line: (L, ceil(n / 2), ...), (L, n // 2, ...) -> (L, n, ...)."""
    pairs = torch.stack([even[:, : odd.shape[1]], odd], 2).flatten(1, 2)
    return torch.cat([pairs, even[:, odd.shape[1] :]], 1)


def merge_grid(
    x: Tensor,
    grid: Grid,
    r: tuple[int, int],
    num_prefix: int = 0,
    collisions: str = 'keep',
    precision: str = 'float32',
) -> tuple[Tensor, Merge]:
    """Remove r[1] tokens from each row, then r[0] from each column of the result.

    x: (B, E + h*w, C), prefix first. Returns the merged tokens (B, E + h'*w', C), a rectangle in raster order after
    the prefix, and which tokens joined.
    """
    (h, w), (r_h, r_w), batch = grid, r, x.shape[0]
    rows = x[:, num_prefix:].unflatten(1, (h, w)).flatten(0, 1)  # (B * h, w, C)
    match_rows = match_lines(deciding(rows, precision), r_w)
    narrow = join_lines(rows, match_rows, r_w, collisions).unflatten(0, (batch, h))  # (B, h, w', C)
    columns = narrow.transpose(1, 2).flatten(0, 1)  # (B * w', h, C)
    match_columns = match_lines(deciding(columns, precision), r_h)
    short = join_lines(columns, match_columns, r_h, collisions).unflatten(0, (batch, w - r_w))  # (B, w', h', C)
    merged = torch.cat([x[:, :num_prefix], short.transpose(1, 2).flatten(1, 2)], 1)
    column = match_rows.places(w).unflatten(0, (batch, h))  # (B, h, w)
    row = match_columns.places(h).unflatten(0, (batch, w - r_w)).transpose(1, 2)  # (B, h, w')
    index = (row.gather(2, column) * (w - r_w) + column).flatten(1) + num_prefix
    prefix = numbers(0, num_prefix, device=x.device).expand(batch, -1)
    score = [match.score.masked_fill(~match.goes, -torch.inf).view(batch, -1) for match in (match_rows, match_columns)]
    lengths = per_image(num_prefix + (h - r_h) * (w - r_w), batch)
    return merged, Merge(torch.cat([prefix, index], 1), lengths, (torch.cat(score, 1),))


def in_cut(cut: int, r: int, whole: int) -> int:
    """Return rows or columns that leave a window which the edge of the grid cuts, where r leave a whole one."""
    return min(cut * r // whole, cut // 2)


def merge_windows(
    x: Tensor, grid: Grid, window: Grid, r: Grid, collisions: str = 'keep', precision: str = 'float32'
) -> tuple[Tensor, Merge, Grid]:
    """Remove r rows and columns inside every window, and as large a share of them from one that the edge cuts.

    x: (B, h*w, C); windows tile the grid from the top left. Our form for networks that attend in windows: their number
    stays. Returns the merged tokens (B, h'*w', C), which tokens joined, and (h', w').
    """
    # along each axis: (start, length, windows, what each loses) of the whole windows and of the one that is cut
    parts = [
        [part for part in ((0, side // n * n, side // n, gone), (side // n * n, side % n, 1, in_cut(side % n, gone, n)))
         if part[1]]
        for side, n, gone in zip(grid, window, r)
    ]  # fmt: skip
    height, width = (side - sum(count * gone for *_, count, gone in axis) for side, axis in zip(grid, parts))
    maps, places, scores, top = [], [], [], 0
    for row, rows, down, gone_h in parts[0]:
        line, left = [], 0
        for column, columns, across, gone_w in parts[1]:
            tiles = GridWindows((rows, columns), (rows // down, columns // across))
            area = tiles.split(x.unflatten(1, grid)[:, row : row + rows, column : column + columns])
            merged, merge = merge_grid(area.flatten(1, 2), tiles.size, (gone_h, gone_w), 0, collisions, precision)
            size = (tiles.size[0] - gone_h, tiles.size[1] - gone_w)
            kept = GridWindows((down * size[0], across * size[1]), size)
            # where the tokens of each window are in the smaller grid
            number = torch.arange(kept.grid[0], device=x.device)[:, None] + top
            number = number * width + torch.arange(kept.grid[1], device=x.device) + left
            number = kept.split(number[None, :, :, None]).flatten(1).repeat(x.shape[0], 1)  # (B * windows, tokens)
            place = number.gather(1, merge.index).unflatten(1, tiles.size)[..., None]
            line.append((kept.join(merged.unflatten(1, size)), tiles.join(place)))
            scores += [score.view(x.shape[0], -1) for score in merge.similarity]
            left += kept.grid[1]
        maps.append(torch.cat([part for part, _ in line], 2))
        places.append(torch.cat([part for _, part in line], 2))
        top += maps[-1].shape[1]
    index = torch.cat(places, 1).flatten(1)
    merge = Merge(index, per_image(height * width, x.shape[0]), (torch.cat(scores, 1),))
    return torch.cat(maps, 1).flatten(1, 2), merge, (height, width)


@dataclass(frozen=True)
class CubistMerge(Reduction):
    """Before one block, shorten every row of the grid and then every column: a smaller rectangle of tokens remains.

    Which tokens go is decided per row and per column; each goes into a neighbour, so that rows and columns keep their
    order. Operations that need a grid (rotary positions, windows, convolutions) work on the smaller one. In a network
    that attends in windows, every window loses r rows and columns inside (our form, which the paper does not publish).
    layer: number (from 1) of the block whose input merges (published: 2 for DeiT).
    r: rows and columns that leave, one number or (rows, columns), each at most half of the side (published: 1 and 2 of
        14); or ratio: the share of both sides that leaves, 0 to 0.5 (published: 0.1 to 0.2). r=1 without either. On a
        grid too small for r, half of the side leaves.
    collisions: 'keep' (a receiver of two sources sees both) or 'published' (one of them is lost).
    precision: of similarities and other decisions, 'float32' or 'float64', see docs/methods/index.md.
    Raises ConfigError for settings outside these.
    """

    layer: int = 2
    r: int | tuple[int, int] | None = None
    ratio: float | None = None
    collisions: str = 'keep'
    precision: str = 'float32'

    remaining: ClassVar[str] = 'rectangle'

    def __post_init__(self) -> None:
        check_integer('layer', self.layer, 1)
        check_choice('collisions', self.collisions, COLLISIONS)
        check_precision(self.precision)
        if self.r is not None and self.ratio is not None:
            raise ConfigError(f'one of r and ratio must be given, got r={self.r!r}, ratio={self.ratio!r}.')
        if self.ratio is not None:
            check_number('ratio', self.ratio, 0, 0.5)
            return
        r = 1 if self.r is None else self.r
        pair = (r, r) if is_integer(r) else r
        self._settle(r=check_pair('r', pair, 'a non-negative integer, or (rows, columns) such as (1, 2)', least=0))

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Return the defaults: before block 2, a seventh of both sides (2 of 14, as for DeiT), at least one column or
        row."""
        r = tuple(min(max(round(side / 7), 1), side // 2) for side in grid)
        return dict(layer=min(2, depth), r=r)

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return rows and columns up to half of the sides, or the ratio where the settings have one, before several
        blocks."""
        layers = distinct(
            [own['layer']] if 'layer' in own else [], [scaled_layer(s, depth) for s in (1 / 12, 1 / 4, 1 / 2)]
        )
        if own.get('ratio') is not None:
            key, ratios = 'ratio', [round(0.02 * step, 2) for step in range(1, 26)]
            steps: list[Any] = [ratio for ratio in ratios if any(lost(side, ratio) for side in grid)]
        else:
            # rows and columns in turn: (1, 1), (1, 2), (2, 2), ...
            key, steps = 'r', [(step // 2, (step + 1) // 2) for step in range(2, 2 * (min(grid) // 2) + 1)]
        return [Ladder(f'{cls.name}, layer {layer}', rungs(own, key, steps, layer=layer)) for layer in layers]

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings that leave, after the merge, the rectangle nearest to the grid's shape of at most so many."""
        rows, columns = check_rectangle(tokens, grid)
        kept = {key: value for key, value in own.items() if key != 'ratio'}
        return {**kept, 'r': (grid[0] - rows, grid[1] - columns)}

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        check_layer('layer', self.layer, depth)
        if self.r is not None and any(r > side // 2 for r, side in zip(self._counts(), grid)):
            raise ConfigError(f'r must be at most half of the sides of grid {tuple(grid)}, got {self.r}.')
        if not any(self.removed(grid)):
            self._warn_idle(grid)
        return self

    def removed(self, grid: Grid) -> tuple[int, int]:
        """Return rows and columns that leave a grid."""
        if self.ratio is not None:
            rows, columns = (lost(side, self.ratio) for side in grid)
        else:
            rows, columns = self._counts()
        return min(rows, grid[0] // 2), min(columns, grid[1] // 2)

    def _counts(self) -> tuple[int, int]:
        """Return r as a pair."""
        return self.r if isinstance(self.r, tuple) else (self.r or 0, self.r or 0)

    def before_block(self, tokens: Tokens, layer: int) -> Tokens:
        if layer != self.layer:
            return tokens
        r = self.removed(tokens.window or tokens.grid)
        if not any(r):
            self._warn_idle(tokens.window or tokens.grid)
            return tokens
        with record_function('mmseg_tr::merge'):
            how = (self.collisions, self.precision)
            if tokens.window is not None:
                merged, merge, rectangle = merge_windows(tokens.x, tokens.grid, tokens.window, r, *how)
                window = tokens.window[0] - r[0], tokens.window[1] - r[1]
                return tokens.merge(merge, layer, merged).replace(rectangle=rectangle, window=window)
            merged, merge = merge_grid(tokens.x, tokens.grid, r, tokens.num_prefix, *how)
            rectangle = tokens.grid[0] - r[0], tokens.grid[1] - r[1]
            return tokens.merge(merge, layer, merged).replace(rectangle=rectangle)

    def _warn_idle(self, grid: Grid) -> None:
        setting = f'r={self.r}' if self.ratio is None else f'ratio={self.ratio}'
        warnings.warn(f'{self.name}: {setting} merges none of the tokens of grid {tuple(grid)}.', stacklevel=3)
