"""MPM: mutual pair merging (Ravé et al., CVPR Findings 2026)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction, mean_merged
from mmseg_tr.reduction.checks import (
    check_choice,
    check_counts,
    check_layers,
    check_left,
    check_precision,
    check_tokens,
)
from mmseg_tr.reduction.constants import numbers
from mmseg_tr.reduction.ladder import Grid, Ladder, distinct, listed, rungs
from mmseg_tr.reduction.matching import descending_rank
from mmseg_tr.reduction.merge import Merge
from mmseg_tr.reduction.ops import decided, deciding, per_image, scaled_count, unit, without_autocast
from mmseg_tr.reduction.tokens import Tokens

RESTORE = ('backbone', 'scores')


@torch.no_grad()
def nearest(x: Tensor, num_prefix: int = 0) -> tuple[Tensor, Tensor]:
    """Return the most similar other patch token of every patch token, by cosine.

    x: (B, E + T, C). Returns score and number among the patch tokens, (B, T) each, float32 at least and int64; lower
    number first among equals. A single token has itself, with score -inf.
    """
    with without_autocast(x):
        u = unit(x[:, num_prefix:])
        similarity = u @ u.transpose(1, 2)  # (B, T, T)
    itself = torch.eye(u.shape[1], dtype=torch.bool, device=x.device)
    return similarity.masked_fill_(itself, -torch.inf).max(dim=-1)


@torch.no_grad()
def mutual_pairs(x: Tensor, num_prefix: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Join every two patch tokens of an image that are each other's nearest; the lower one represents both.

    x: (B, E + T, C). Returns the place of every token, prefix included, (B, E + T) int64, remaining tokens in their
    old order; how many remain per image, (B,), prefix included; and the similarity of each pair at its lower token,
    (B, T), -inf elsewhere.
    """
    score, partner = nearest(x, num_prefix)
    number = numbers(0, partner.shape[1], device=x.device)
    paired = (partner.gather(1, partner) == number) & (partner != number)
    stands = torch.where(paired, torch.minimum(partner, number), number)  # the token that represents each
    stays = stands == number
    places = (stays.cumsum(1) - 1).gather(1, stands)
    score = score.masked_fill(~paired | ~stays, -torch.inf)
    return behind_prefix(places, num_prefix), stays.sum(1) + num_prefix, score


@torch.no_grad()
def mutual_merge(tokens: Tokens) -> Merge:
    """Return mutual_pairs() of every image, as many as each has."""
    found = [mutual_pairs(group, tokens.num_prefix) for group in tokens.groups()]
    places, left, score = zip(*found, strict=True)
    return Merge(tokens.join(list(places)), tuple(decided(torch.cat(left))), score)


@torch.no_grad()
def most_similar_pairs(x: Tensor, r: int, num_prefix: int = 0) -> tuple[Tensor, Tensor]:
    """Merge exactly r patch tokens away in every image: our fixed form of mutual_pairs(), not published.

    The r most similar mutual pairs join, each counted once. Where an image has fewer, the other tokens with the most
    similar nearest token join that token's group. r: at most T // 2. Returns places as mutual_pairs(), and the
    similarity with which each token leaves, (B, T), -inf for those that represent a pair.
    """
    score, partner = nearest(x, num_prefix)
    number = numbers(0, partner.shape[1], device=x.device)
    paired = (partner.gather(1, partner) == number) & (partner != number)
    stands = paired & (number < partner)
    # cosines are within [-1, 1]: the upper tokens of pairs come first, those that represent a pair never leave
    order = torch.where(paired, score + 4, score).masked_fill(stands, -torch.inf)
    leaves = descending_rank(order) < r
    into = torch.where(leaves, partner, number)
    # a token may follow one that leaves too: along the chain similarity rises, and it ends at one that stays
    for _ in range(max(partner.shape[1] - 1, 1).bit_length()):
        into = into.gather(1, into)
    places = ((~leaves).cumsum(1) - 1).gather(1, into)
    return behind_prefix(places, num_prefix), score.masked_fill(~leaves, -torch.inf)


def behind_prefix(places: Tensor, num_prefix: int) -> Tensor:
    """Return places of patch tokens, (B, T), with the prefix tokens before them: (B, E + T)."""
    prefix = numbers(0, num_prefix, device=places.device).expand(places.shape[0], -1)
    return torch.cat([prefix, places + num_prefix], 1)


@dataclass(frozen=True)
class MPM(Reduction):
    """Before chosen blocks, average every two patch tokens that are each other's most similar one.

    layers: numbers (from 1) of the blocks whose input merges (published: 3 and 6 for every size; the authors' code
        counts from 0 and uses 2 and 5). There is no threshold: the image decides how many pairs there are.
    restore: 'backbone' (published): every patch gets a copy of its token before the final norm, and a head decodes
        all patches; 'scores': a head decodes the merged tokens, and its scores are copied.
    pairs: a fixed form of ours, for export and budgets: that many tokens leave before each block, one number or one
        per entry of layers, see most_similar_pairs(). They belong to the grid that the network is built for; on
        another one they follow the number of patches.
    precision: of similarities and other decisions, 'float32' or 'float64', see docs/methods/index.md.
    Means and attention ignore token sizes, as published.
    Raises ConfigError for settings outside these.
    """

    layers: Sequence[int] = (3, 6)
    restore: str = 'backbone'
    pairs: int | Sequence[int] | None = None
    precision: str = 'float32'
    grid: Grid | None = field(default=None, init=False, repr=False)  # the one that pairs belong to

    def __post_init__(self) -> None:
        layers = check_layers(self.layers)
        check_choice('restore', self.restore, RESTORE)
        check_precision(self.precision)
        self._settle(layers=layers, pairs=check_counts('pairs', self.pairs, layers, 'or one for all', spread=True))

    @property
    def adaptive(self) -> bool:
        return self.pairs is None

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Return the defaults: before blocks 3 and 6, as published for 12 and for 24; earlier in shallower networks."""
        return dict(layers=(3, 6) if depth >= 6 else tuple(sorted({min(2, depth), depth // 2 + 1})))

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return one merge, two or three, from late to early; for fixed pairs their number."""
        if own.get('pairs') is not None:
            chosen = tuple(own.get('layers') or cls.layers)
            most = max(math.prod(grid) // (2 * len(chosen)), 1)
            return [Ladder(f'{cls.name}, layers {listed(chosen)}', rungs(own, 'pairs', range(1, most + 1)))]
        every = {
            f'{cls.name}, {number} merge{"s" * (number > 1)}': [
                tuple(first * step for step in range(1, number + 1)) for first in range(depth // number, 0, -1)
            ]
            for number in (1, 2, 3)
        }
        if 'layers' in own:
            every = {f'{cls.name}, layers {listed(own["layers"])}': [tuple(own['layers'])]} | every
        return [Ladder(name, rungs(own, 'layers', distinct(steps))) for name, steps in every.items()]

    @classmethod
    def fixed_ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return the share of possible pairs that merge, the same before every chosen block; then earlier and more
        blocks."""
        if own.get('pairs') is not None:
            return cls.ladder(own, depth, grid)
        chosen = tuple(own.get('layers') or cls.defaults(0, depth, grid)['layers'])
        early = [] if 'layers' in own else [tuple(range(1, last + 1)) for last in (2, 3, 4) if last <= depth]
        ladders = []
        for layers in distinct([chosen, *early]):
            steps = []
            for step in range(1, 65):
                left, pairs = math.prod(grid), []
                for _ in layers:
                    pairs.append(left // 2 * step // 64)
                    left -= pairs[-1]
                steps.append(tuple(pairs))
            name = f'{cls.name}, layers {listed(layers)}'
            ladders.append(
                Ladder(name, rungs(own, 'pairs', [step for step in distinct(steps) if any(step)], layers=layers))
            )
        return ladders

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings that leave these numbers after the merge before each entry of layers."""
        layers, left = tuple(own.get('layers') or cls.defaults(0, depth, grid)['layers']), math.prod(grid)
        pairs: list[int] = []
        for layer, number in zip(layers, check_tokens(tokens, len(layers), left)):
            pairs.append(check_left(f'the merge before layer {layer}', number, left))
            left = number
        return {**own, 'layers': layers, 'pairs': tuple(pairs)}

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        check_layers(self.layers, depth)
        left = math.prod(grid)
        for layer, pairs in zip(self.layers, self._pairs()):
            if pairs > left // 2:
                raise ConfigError(
                    f'pairs must be at most {left // 2} of the {left} tokens of layer {layer}, got {pairs}.'
                )
            left -= pairs
        return self._with(grid=tuple(grid))

    def unexportable(self) -> str | None:
        if self.pairs is not None:
            return None
        return (
            f'{self.name} lets every image decide how many pairs merge, which fixed shapes do not allow: set '
            'pairs in its reduction, one number per layer, or average them over the dataset.'
        )

    def fixed_by(self, forwards: Iterable[Tokens]) -> Reduction:
        if self.pairs is not None:
            return super().fixed_by(forwards)
        return self._with(pairs=tuple(map(round, mean_merged(forwards, self.layers).values())))

    def before_block(self, tokens: Tokens, layer: int) -> Tokens:
        if layer not in self.layers:
            return tokens
        with record_function('mmseg_tr::merge'):
            compared = tokens.replace(x=deciding(tokens.x, self.precision))
            merge = mutual_merge(compared) if self.pairs is None else self._fixed_merge(compared, layer)
            if merge.lengths == tokens.counts:
                warnings.warn(f'{self.name}: no two of {max(tokens.counts)} tokens are a pair to merge.', stacklevel=2)
            return tokens.merge(merge, layer, merge.apply(tokens.x, None, tokens.counts)[0])

    def after_norm(self, tokens: Tokens) -> Tokens:
        return tokens.restored() if self.restore == 'backbone' else tokens

    def _pairs(self) -> Sequence[int]:
        """Return one number per layer; empty where the image decides."""
        return self.pairs if isinstance(self.pairs, Sequence) else ()

    def _fixed_merge(self, tokens: Tokens, layer: int) -> Merge:
        count = tokens.x.shape[1] - tokens.num_prefix
        asked = self._pairs()[self.layers.index(layer)]
        r = min(scaled_count(asked, math.prod(self.grid or tokens.grid), math.prod(tokens.grid)), count // 2)
        places, score = most_similar_pairs(tokens.x, r, tokens.num_prefix)
        return Merge(places, per_image(tokens.x.shape[1] - r, tokens.x.shape[0]), (score,))
