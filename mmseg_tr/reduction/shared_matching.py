"""SharedMatching: merging inside attention with one matching for several blocks (FastVGGT, LiteVGGT, ToMA).

Our reading of three papers for a network of dense prediction; docs/methods/sharedmatching.md says what each does
differently.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Inside, Reduction
from mmseg_tr.reduction.checks import (
    check_choice,
    check_integer,
    check_layers,
    check_pair,
    check_precision,
    check_tokens,
    is_integer,
)
from mmseg_tr.reduction.ladder import Grid, Ladder, distinct
from mmseg_tr.reduction.matching import descending_order, merged_places, most_similar, source_places
from mmseg_tr.reduction.merge import Merge, joined_similarity
from mmseg_tr.reduction.ops import deciding, per_image, scaled_count, seeded_uniform, stat_dtype, take
from mmseg_tr.reduction.tokens import Tokens

DESTINATIONS = ('place', 'random', 'gradient')


def num_regions(grid: Grid, region: Grid) -> int:
    """Return the regions of a grid, those that its lower and right edges cut included."""
    return -(-grid[0] // region[0]) * -(-grid[1] // region[1])


def gradient(x: Tensor, grid: Grid) -> Tensor:
    """Return the mean magnitude of the Sobel gradient of the features, (B, h*w, C) -> (B, h*w); edges repeat their
    patches."""
    features = F.pad(x.to(stat_dtype(x)).transpose(1, 2).unflatten(2, grid), (1, 1, 1, 1), mode='replicate')
    across, down = features[..., 2:] - features[..., :-2], features[..., 2:, :] - features[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return (across.square() + down.square()).sqrt().mean(1).flatten(1)


def split_regions(cost: Tensor, grid: Grid, region: Grid) -> tuple[Tensor, Tensor]:
    """Return patches of least cost in their region, and all others: destinations (B, D) and sources (B, N - D).

    cost: (B, h*w). Regions tile the grid from the top left, edges cut the last ones. Among equals the first patch in
    raster order is chosen. Both results are patch numbers, ascending for sources, region by region for destinations.
    """
    (h, w), (rows, columns) = grid, region
    more = (0, -w % columns, 0, -h % rows)
    tiles = F.pad(cost.unflatten(1, grid), more, value=torch.inf)
    tiles = tiles.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).transpose(2, 3)  # (B, gh, gw, rows, columns)
    best = tiles.flatten(3).argmin(-1)  # (B, gh, gw)
    top = rows * torch.arange(best.shape[1], device=cost.device)[:, None]
    left = columns * torch.arange(best.shape[2], device=cost.device)
    destinations = ((top + best // columns) * w + left + best % columns).flatten(1)
    chosen = torch.zeros_like(cost, dtype=torch.int32).scatter(1, destinations, 1)
    return destinations, chosen.argsort(dim=1, stable=True)[:, : h * w - destinations.shape[1]]


@torch.no_grad()
def region_matching(y: Tensor, cost: Tensor, grid: Grid, region: Grid, r: int, num_prefix: int = 0) -> Merge:
    """Merge the r sources that are most similar to a destination with it; every region has one destination.

    y: (B, E + h*w, C). cost: (B or 1, h*w), least at the destination of a region, see split_regions(). Merged order:
    prefix, remaining sources by falling similarity, destinations.
    """
    destinations, sources = (part.expand(y.shape[0], -1) for part in split_regions(cost, grid, region))
    patches = y[:, num_prefix:]
    score, partner = most_similar(take(patches, sources), take(patches, destinations))
    of_source = source_places(descending_order(score), partner, r, destinations.shape[1], num_prefix)
    index = merged_places(sources + num_prefix, destinations + num_prefix, of_source, r, num_prefix)
    return Merge(index, per_image(y.shape[1] - r, y.shape[0]), (score,))


@dataclass(frozen=True)
class SharedMatching(Reduction):
    """Attend with merged queries, keys and values; every token gets the result of the one it merged into.

    The tokens themselves stay, and the MLP sees all of them. One patch of every region of the grid is a destination;
    the others are sources, each of which goes to the most similar destination anywhere. Queries, keys and values are
    averaged after their norms and positions. Means and attention ignore sizes, as published.
    layers: numbers (from 1) of the blocks that merge; None for all.
    match_every: so many of these blocks share a matching, which the first of them decides (published: 1 and 6 of 24).
    region: rows and columns of a region (published: 2 x 2).
    destinations: 'place', the first patch of a region; 'random', drawn from seed, the same in every layer and image;
        'gradient', the patch of least gradient of the features.
    r: sources that merge, a number, or a fraction of the patches (published: 0.9, which is all sources); None for all.
        A number belongs to the grid that the network is built for; on another one it follows the number of patches.
    precision: of similarities and other decisions, 'float32' or 'float64', see docs/methods/index.md.
    Raises ConfigError for settings outside these.
    """

    layers: Sequence[int] | None = None
    match_every: int = 1
    region: int | tuple[int, int] = (2, 2)
    destinations: str = 'place'
    r: int | float | None = None
    seed: int = 0
    precision: str = 'float32'
    grid: Grid | None = field(default=None, init=False, repr=False)  # the one that a number r belongs to

    remaining: ClassVar[str] = 'all'

    def __post_init__(self) -> None:
        check_integer('match_every', self.match_every, 1)
        check_choice('destinations', self.destinations, DESTINATIONS)
        check_integer('seed', self.seed)
        check_precision(self.precision)
        region = (self.region, self.region) if is_integer(self.region) else self.region
        region = check_pair('region', region, 'a positive integer, or (rows, columns) such as (2, 2)')
        layers = None if self.layers is None else check_layers(self.layers)
        self._settle(region=region, layers=layers, r=_check_r(self.r))

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Return the defaults: regions of 2 x 2 in all blocks, a matching for a quarter of the blocks, 6 of 24 as
        published."""
        return dict(match_every=max(depth // 4, 1), region=tuple(min(2, side) for side in grid))

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return ladders of more and more sources of the smallest regions, then of larger ones; two ways of sharing."""
        shares = [share / 20 for share in range(1, 15)]
        sides = [side for side in range(2, 9) if side <= min(grid)]
        steps: list[dict[str, Any]] = [dict(region=(2, 2), r=share) for share in shares if sides]
        steps += [dict(region=(side, side), r=None) for side in sides]
        every = distinct([own.get('match_every', max(depth // 4, 1)), 1])
        return [
            Ladder(
                f'{cls.name}, a matching for {number} layer{"s" * (number > 1)}',
                tuple({**own, 'match_every': number, **step} for step in steps),
            )
            for number in every
        ]

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings that leave these numbers inside the attention of every layer that merges."""
        (asked,) = check_tokens(tokens, 1, math.prod(grid))
        return {**own, 'r': math.prod(grid) - asked}

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        if self.layers is not None:
            check_layers(self.layers, depth)
        if any(length > side for length, side in zip(self._sides, grid)):
            raise ConfigError(f'region must be at most the patch grid {tuple(grid)}, got {self.region}.')
        sources = math.prod(grid) - num_regions(grid, self._sides)
        if isinstance(self.r, int) and self.r > sources:
            raise ConfigError(f'r must be at most the {sources} sources of the grid {tuple(grid)}, got {self.r}.')
        fitted = self._with(grid=(grid[0], grid[1]))
        if not fitted.amount(grid):
            fitted._warn_idle(grid)
        return fitted

    def amount(self, grid: Grid) -> int:
        """Return how many patches of a grid merge into others."""
        patches = math.prod(grid)
        sources = patches - num_regions(grid, self._sides)
        if self.r is None:
            return sources
        if isinstance(self.r, float):
            return min(math.floor(self.r * patches), sources)
        return min(scaled_count(self.r, math.prod(self.grid or grid), patches), sources)

    @property
    def _sides(self) -> tuple[int, int]:
        """region as a pair."""
        return self.region if isinstance(self.region, tuple) else (self.region, self.region)

    def merges(self, layer: int) -> bool:
        """Whether the attention of a layer merges."""
        return self.layers is None or layer in self.layers

    def matched(self, y: Tensor, tokens: Tokens, layer: int) -> tuple[Merge, bool]:
        """Return the matching of a layer, and whether the layer decides it; else it comes with the tokens."""
        place = layer - 1 if self.layers is None else self.layers.index(layer)
        handed = tokens.handed_on(y, place, self.match_every)
        if handed is not None:
            return handed, False
        y, r = deciding(y.detach(), self.precision), self.amount(tokens.grid)
        cost = self._cost(y[:, tokens.num_prefix :], tokens.grid)
        return region_matching(y, cost, tokens.grid, self._sides, r, tokens.num_prefix), True

    def _cost(self, patches: Tensor, grid: Grid) -> Tensor:
        """Return what is least at the destination of a region, (B or 1, h*w) float32 at least."""
        if self.destinations == 'gradient':
            return gradient(patches, grid)
        if self.destinations == 'random':
            return seeded_uniform(math.prod(grid), self.seed).to(patches.device, non_blocking=True)
        return torch.zeros(1, math.prod(grid), device=patches.device)

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Merge | None]:
        if not self.merges(layer):
            return attend(y, tokens), None
        if not self.amount(tokens.grid):
            if layer == (self.layers or (1,))[0]:
                self._warn_idle(tokens.grid)
            return attend(y, tokens), None
        with record_function('mmseg_tr::merge'):
            merge, _ = self.matched(y, tokens, layer)
        ((q, k, v),) = attend.heads(y, tokens)
        with record_function('mmseg_tr::merge'):
            q, k, v = merged_heads((q, k, v), merge, tokens)
        out = attend.attend(q, k, v).transpose(1, 2).flatten(2)  # (B, T', H * d)
        if getattr(attend.module, 'gate', None) is not None:  # of every token its own
            with record_function('mmseg_tr::merge'):
                out = merge.unmerge(out, tokens.counts)
            return attend.project(out, y), merge
        out = attend.project(out, y)
        with record_function('mmseg_tr::merge'):
            return merge.unmerge(out, tokens.counts), merge

    def after_attention(self, tokens: Tokens, layer: int, seen: Merge | None) -> Tokens:
        return tokens if seen is None or seen is tokens.memo else tokens.replace(memo=seen)

    def inside(self, attend: Any, y: Tensor, tokens: Tokens, layer: int, part: str) -> Sequence[Inside]:
        if part != 'attention' or not self.merges(layer) or not self.amount(tokens.grid):
            return ()
        merge, decided_here = self.matched(y, tokens, layer)
        places = merge.index[0, tokens.num_prefix :] - tokens.num_prefix
        similarity = joined_similarity(merge) if decided_here else None
        return [Inside(part, places, merge.lengths[0] - tokens.num_prefix, similarity)]

    def attended(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor, Tokens]:
        if not self.merges(layer) or not self.amount(tokens.grid):
            return super().attended(attend, y, tokens, layer)
        merge, _ = self.matched(y, tokens, layer)
        ((q, k, _),) = attend.heads(y, tokens)
        q, k = merged_heads((q, k), merge, tokens)
        return q, k, tokens.merge(merge, layer)

    def _warn_idle(self, grid: Grid) -> None:
        setting = f'region={self.region}' if self.r is None else f'r={self.r}'
        warnings.warn(f'{self.name}: {setting} merges none of {math.prod(grid)} tokens.', stacklevel=3)


def merged_heads(parts: Sequence[Tensor], merge: Merge, tokens: Tokens) -> list[Tensor]:
    """Average queries, keys or values, each (B, H, T, d) -> (B, H, T', d), by one pass over all of them."""
    rows = torch.cat([part.transpose(1, 2).flatten(2) for part in parts], -1)  # (B, T, sum of H * d)
    rows = merge.apply(rows, None, tokens.counts)[0].split([part.shape[1] * part.shape[3] for part in parts], -1)
    return [row.unflatten(2, (part.shape[1], -1)).transpose(1, 2) for row, part in zip(rows, parts)]


def _check_r(r: Any) -> int | float | None:
    if r is None or (is_integer(r) and r >= 0) or (isinstance(r, float) and 0 < r < 1):
        return r
    raise ConfigError(f'r must be a non-negative integer, a fraction between 0 and 1, or None for all, got {r!r}.')
