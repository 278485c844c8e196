"""Rotary positions of reduced tokens: queries and keys turn by the position of their own token.

A host hands every block the cosines and sines of all patches. Here they become those of the tokens that are left, by
which patch is in which token; they are made again only after tokens merged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.options import Options
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.ops import exporting, host_numbers, running_starts, stat_dtype, without_autocast

RULES = ('rotated', 'mean', 'representative')


def cosines_and_sines(given: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the tables of a host that hands over both, as transformers does."""
    return given


def halves(given: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tables of a host that hands over sines, then cosines, in one tensor, as timm does."""
    sin, cos = given.chunk(2, -1)
    return cos, sin


@dataclass(frozen=True)
class Rotary(Options):
    """How a host hands its blocks the rotary positions of the patches.

    argument: of a block's forward. tables: from its value to cosines and sines, each (h*w, d), or (H, h*w, d) where
    heads differ. rule: the position of a token that stays for several patches: 'rotated', the mean of their cosines and
    of their sines, which turns a key into the mean of the patches' turned keys; 'mean' of their coordinates; or
    'representative', that of the patch nearest to this mean. Tokens that form a smaller grid get the positions of that
    grid, over the same range.
    """

    argument: str
    tables: Callable[[Any], tuple[Tensor, Tensor]] = cosines_and_sines
    rule: str = 'rotated'


@dataclass(frozen=True)
class Positions:
    """Cosines and sines of the tokens of a forward, each (B or 1, E + T, H or 1, d); prefix tokens do not turn.

    source: what they were made from.
    """

    cos: Tensor
    sin: Tensor
    source: tuple[Any, ...]

    def fit(self, source: tuple[Any, ...]) -> bool:
        return all(a is b for a, b in zip(self.source, source))


@dataclass(frozen=True)
class Turn:
    """Turns queries and keys of one block. given: by the host. half: pairs of channels are (i, i + d/2)."""

    rotary: Rotary
    given: Any
    half: bool

    def __call__(self, q: Tensor, k: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """q, k: (..., E + T, H, d), laid out as tokens.x."""
        at = self.positions(tokens)
        return turned(q, at, self.half), turned(k, at, self.half)

    def positions(self, tokens: Tokens) -> Positions:
        """Return the positions of these tokens: those that they carry, as long as these are theirs."""
        source = (self.given, tokens.index, tokens.reconstruct, tokens.inner, tokens.rectangle)
        if isinstance(tokens.positions, Positions) and tokens.positions.fit(source):
            return tokens.positions
        cos, sin = (table[:, None] if table.dim() == 2 else table.transpose(0, 1) for table in self._tables(tokens))
        if tokens.rectangle is not None:
            cos, sin = between(cos, sin, tokens.grid, stretched(tokens.rectangle, tokens.grid, cos))
        elif source[1:4] != (None, None, None):
            with without_autocast(cos):
                cos, sin = of_groups(cos, sin, tokens, self.rotary.rule)
            return Positions(cos, sin, source)
        before = (0, 0, 0, 0, tokens.num_prefix, 0)
        return Positions(F.pad(cos, before, value=1.0)[None], F.pad(sin, before)[None], source)

    def _tables(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary.tables(self.given)
        if cos.dim() > 3 or cos.shape[-2] != tokens.grid[0] * tokens.grid[1]:
            raise ConfigError(
                f'rotary positions of shape {tuple(cos.shape)} do not fit the patch grid {tokens.grid}: use '
                'mmseg_tr.disabled(model) for this forward.'
            )
        return cos, sin


def turned(x: Tensor, at: Positions, half: bool) -> Tensor:
    """Turn x by its positions, pair of channels by pair, in its own precision. x: (..., H, d)."""
    if half:
        first, second = x.chunk(2, -1)
        across = torch.cat([-second, first], -1)
    else:
        across = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return (x * at.cos + across * at.sin).to(x.dtype)


def coordinates(grid: tuple[int, int], like: Tensor) -> Tensor:
    """Return the row and column of every patch, (h*w, 2)."""
    sides = (torch.arange(side, device=like.device, dtype=stat_dtype(like)) for side in grid)
    return torch.stack(torch.meshgrid(*sides, indexing='ij'), -1).flatten(0, 1)


def stretched(small: tuple[int, int], grid: tuple[int, int], like: Tensor) -> Tensor:
    """Return where in a grid the tokens of a smaller one are that spans the same range, (h'*w', 2)."""
    rows, columns = (
        (place + 0.5) * (side / less) - 0.5
        for place, side, less in zip(coordinates(small, like).unbind(1), grid, small)
    )
    return torch.stack([rows, columns], 1)


def between(cos: Tensor, sin: Tensor, grid: tuple[int, int], places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tables at places between the patches, (S, H, d) each. cos, sin: (h*w, H, d). places: (S, 2), row and
    column.

    Angles are linear in the coordinates: those of the patch before, and the step to the next one times what is left.
    The step is the shorter way around, which it is in grids of more than four rows and columns.
    """
    (h, w), dtype = grid, stat_dtype(cos)
    whole = places.floor()
    rest = (places - whole).to(dtype)[:, :, None, None]  # (S, 2, 1, 1)
    base = (whole[:, 0] * w + whole[:, 1]).long()
    c, s = (table.to(dtype).unflatten(0, grid) for table in (cos, sin))  # (h, w, H, d)
    steps = [_step(c, s, 0) if h > 1 else None, _step(c, s, 1) if w > 1 else None]
    more = sum((rest[:, axis] * step for axis, step in enumerate(steps) if step is not None), rest[:, 0] * 0)
    c, s = (table.flatten(0, 1).index_select(0, base) for table in (c, s))
    more_cos, more_sin = more.cos(), more.sin()
    return (c * more_cos - s * more_sin).to(cos.dtype), (s * more_cos + c * more_sin).to(sin.dtype)


def _step(cos: Tensor, sin: Tensor, axis: int) -> Tensor:
    """Return the mean angle from a patch to the next one along an axis, (H, d). cos, sin: (h, w, H, d)."""
    count = cos.shape[axis] - 1
    c0, c1, s0, s1 = (table.narrow(axis, start, count) for table in (cos, sin) for start in (0, 1))
    return torch.atan2((s1 * c0 - c1 * s0).mean((0, 1)), (c1 * c0 + s1 * s0).mean((0, 1)))


def of_groups(cos: Tensor, sin: Tensor, tokens: Tokens, rule: str) -> tuple[Tensor, Tensor]:
    """Return the tables of tokens that stay for several patches, or for none, laid out as tokens.x: (..., E + T, H, d)
    each.

    Prefix tokens, and those without a patch, do not turn.
    """
    shape, rows = (tokens.x.shape[0], tokens.x.shape[1]), rows_of_patches(tokens)
    grid = coordinates(tokens.grid, cos)
    if rule == 'rotated':
        both = torch.cat([cos, sin], -1)
        means, members = group_means(both.flatten(1).to(grid.dtype), rows, shape)
        found = means.unflatten(1, both.shape[1:]).to(cos.dtype).chunk(2, -1)
    else:
        places, members = group_means(grid, rows, shape)
        if rule == 'representative':
            chosen = nearest_patch(grid, places, rows)
            found = tuple(table.index_select(0, chosen) for table in (cos, sin))
        else:
            found = between(cos, sin, tokens.grid, places)
    empty = (members == 0)[:, None, None]
    return tuple(table.masked_fill(empty, still).unflatten(0, shape) for table, still in zip(found, (1, 0)))


def rows_of_patches(tokens: Tokens) -> Tensor:
    """Return the row of the flattened tokens.x that each patch is in, (B, h*w) int64; one after the last for none."""
    places = tokens.places()
    if tokens.inner is not None:
        places = (tokens.inner.index[:, tokens.num_prefix :] - tokens.num_prefix).gather(1, places)
    if tokens.lengths is None:
        starts = tokens.x.shape[1] * torch.arange(places.shape[0], device=places.device)
    else:
        starts = host_numbers(running_starts(tokens.lengths), places.device)
    rows = places + (starts + tokens.num_prefix)[:, None]
    return rows.masked_fill(places < 0, tokens.x.shape[0] * tokens.x.shape[1])


def group_means(values: Tensor, rows: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the mean of the patches' values in every row, (S, K), 0 for rows without any, and how many they are, (S,).

    values: (h*w, K); rows: (B, h*w); S = B * (E + T) rows.
    """
    count = shape[0] * shape[1]
    values = torch.cat([values, torch.ones_like(values[:, :1])], 1)
    if exporting():  # without additions to computed places, as Merge.apply()
        own = torch.arange(count, device=rows.device).view(shape)
        sums = ((rows[:, None] == own[:, :, None]).to(values.dtype) @ values).flatten(0, 1)
    else:
        sums = values.new_zeros(count + 1, values.shape[1])
        sums = sums.index_add(0, rows.flatten(), values.expand(rows.shape[0], -1, -1).flatten(0, 1))[:count]
    return sums[:, :-1] / sums[:, -1:].clamp_min(1), sums[:, -1]


def nearest_patch(grid: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """Number of the patch of every row that is nearest to the row's place, the first among equals, (S,) int64.

    grid: (h*w, 2); places: (S, 2); rows: (B, h*w). Rows without a patch get 0.
    """
    flat, count = rows.flatten(), len(places) + 1
    places = torch.cat([places, places.new_zeros(1, 2)])
    apart = (grid - places.index_select(0, flat).view(*rows.shape, 2)).square().sum(-1).flatten()
    least = apart.new_full((count,), torch.inf).scatter_reduce(0, flat, apart, 'amin')
    number = torch.arange(rows.shape[1], device=rows.device).expand_as(rows).flatten()
    number = number.masked_fill(apart > least.index_select(0, flat) + 1e-6, rows.shape[1])
    first = number.new_full((count,), rows.shape[1]).scatter_reduce(0, flat, number, 'amin')
    return first[:-1] % rows.shape[1]
