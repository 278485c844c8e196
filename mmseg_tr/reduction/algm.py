"""ALGM: adaptive local-then-global token merging (Norouzi et al., CVPR 2024)."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction, mean_merged
from mmseg_tr.reduction.checks import (
    BATCH_RULES,
    check_choice,
    check_counts,
    check_layers,
    check_number,
    check_pair,
    check_precision,
)
from mmseg_tr.reduction.ladder import Dial, Grid, Ladder, distinct, listed, rungs, scaled_layer
from mmseg_tr.reduction.matching import Merge, best_partners, bipartite_index, bipartite_matching, descending_rank
from mmseg_tr.reduction.ops import decided, deciding, per_image, scaled_count, unit, without_autocast
from mmseg_tr.reduction.tokens import Tokens


def window_similarity(x: Tensor, grid: tuple[int, int], window: tuple[int, int], num_prefix: int = 1) -> Tensor:
    """Mean cosine similarity of the n tokens of every window, over all ordered pairs (section 3.1, CLAP).

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
        u = unit(x[:, num_prefix:]).unflatten(1, (h, w)).permute(0, 3, 1, 2)  # (B, h*w, C) -> (B, C, h, w)
        mean = F.avg_pool2d(u, window)
        of_all = n * vector_norm(mean, dim=1).square()  # sum over all pairs, i = j included, of cos(i, j), over n
        of_self = F.avg_pool2d(vector_norm(u, dim=1).square(), window)
        return ((of_all - of_self) / (n - 1)).flatten(1)


@torch.compiler.assume_constant_result
def float32_of(value: float) -> float:
    """The float32 nearest to a number."""
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
    (h, w), (wh, ww) = grid, window
    gh, gw = h // wh, w // ww
    similarity = window_similarity(x, grid, window, num_prefix)
    if count is None:
        joins = similarity >= float32_of(threshold)
        counts = joins.sum(1)
        r = counts.amin().expand_as(counts) if batch == 'joint' else counts
        lengths = tuple(x.shape[1] - (wh * ww - 1) * joined for joined in decided(r))
    else:
        r = torch.full(x.shape[:1], count, device=x.device)
        lengths = per_image(x.shape[1] - (wh * ww - 1) * count, x.shape[0])
    rank = descending_rank(similarity)  # (B, nW)
    joined = rank < r[:, None]
    # what holds for a window holds for its patches; -1 marks patches outside every window
    of_patch = torch.where(joined, rank, -1).view(-1, gh, gw).repeat_interleave(wh, 1).repeat_interleave(ww, 2)
    place = F.pad(of_patch, (0, w - gw * ww, 0, h - gh * wh), value=-1).flatten(1)
    alone = place < 0
    place = torch.where(alone, alone.cumsum(1) - 1 + r[:, None], place) + num_prefix
    prefix = torch.arange(num_prefix, device=x.device).expand(x.shape[0], -1)
    return Merge(torch.cat([prefix, place], 1), lengths, (similarity,), each=wh * ww - 1)


def automatic_threshold(score: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation part of the global threshold, per image: mean(v), std(v) / layer (section 3.2, GBM).

    score: (B, n) best similarity of each source, protected ones left out. Fewer than two give NaN, which no score
    reaches, so that nothing merges.
    """
    if score.shape[1] < 2:
        nan = score.new_full(score.shape[:1], torch.nan)
        return nan, nan
    return score.mean(1), score.std(1, unbiased=True) / layer


@torch.no_grad()
def global_merge(tokens: Tokens, layer: int, batch: str = 'per_image') -> Merge:
    """Join tokens anywhere in the image with their best partner, as many as the image allows (section 3.2, GBM).

    The count is adaptive: sources whose best similarity reaches mean + std / layer. With batch='joint' the threshold
    is the mean over the batch and the count its minimum.
    """
    groups = tokens.groups()
    leave_out = max((tokens.num_prefix + 1) // 2, 1)  # the first source never enters the statistics
    found = [best_partners(group, tokens.num_prefix) for group in groups]
    parts = [automatic_threshold(score[:, leave_out:], layer) for score, _ in found]
    mean, deviation = (torch.cat(part) for part in zip(*parts, strict=True))
    theta = (mean.mean() + deviation.mean()).expand_as(mean) if batch == 'joint' else mean + deviation
    starts = theta.split([len(score) for score, _ in found])
    counts = torch.cat(
        [((score >= t[:, None]) & score.isfinite()).sum(1) for (score, _), t in zip(found, starts, strict=True)]
    )
    r = counts.amin().expand_as(counts) if batch == 'joint' else counts
    rs = r.split([len(score) for score, _ in found])
    index = [
        bipartite_index(descending_rank(score), partner, r_group, group.shape[1], tokens.num_prefix)
        for group, (score, partner), r_group in zip(groups, found, rs, strict=True)
    ]
    lengths = tuple(n - gone for n, gone in zip(tokens.counts, decided(r), strict=True))
    return Merge(tokens.join(index), lengths, tuple(score for score, _ in found))


@dataclass(frozen=True)
class ALGM(Reduction):
    """Merge similar neighbours in an early layer, then similar tokens anywhere in later ones.

    layers: layer numbers from 1; the first merges inside windows, each later one globally (published: 1 and 5 of 12).
    window: (height, width) of the local windows, in patches. threshold: cosine similarity that joins a window, -1 or
    more; above 1 no window joins. batch: 'per_image' (an image's result does not depend on its batch mates) or 'joint'
    (the published rule: minimum count and mean threshold of the batch).
    counts: for export, which needs fixed shapes: numbers for every image in place of the thresholds, one per entry of
    layers: how many windows join in the first layer, how many tokens leave in each later one, e.g. (120, 200). They
    belong to the grid that the network is built for; on another one they follow the number of patches.
    precision: of similarities and other decisions, 'float32' or 'float64', see docs/methods/index.md.
    Raises ConfigError for settings outside these.
    """

    layers: Sequence[int] = (1, 5)
    window: Sequence[int] = (2, 2)
    threshold: float = 0.88
    batch: str = 'per_image'
    counts: Sequence[int] | None = None
    precision: str = 'float32'
    grid: Grid | None = field(default=None, init=False, repr=False)  # the one that counts belong to

    dial: ClassVar[Dial] = Dial('threshold', 1.0, -1.0)
    # width of the encoder -> local threshold, as published for ADE20K
    THRESHOLDS: ClassVar[dict[int, float]] = {192: 0.90, 384: 0.88, 768: 0.94, 1024: 0.95}

    def __post_init__(self) -> None:
        layers = check_layers(self.layers)
        check_choice('batch', self.batch, BATCH_RULES)
        check_precision(self.precision)
        counts = check_counts('counts', self.counts, layers, 'windows to join and then tokens to merge')
        threshold = _check_threshold(self.threshold)
        self._settle(layers=layers, window=_check_window(self.window), threshold=threshold, counts=counts)

    @property
    def adaptive(self) -> bool:
        return self.counts is None

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Layers 1 and 5, of 24 layers 1 and 7; the threshold of the width's ADE20K row, 0.88 without one."""
        layers = tuple(sorted({1, min(7 if depth >= 24 else 5, depth)}))
        window = tuple(min(2, side) for side in grid)
        return dict(layers=layers, window=window, threshold=cls.THRESHOLDS.get(width, 0.88))

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Threshold from 0.99 down to 0.3, for several layers of the global merge."""
        steps = [round(0.99 - 0.01 * step, 2) for step in range(70)]
        pairs = [(1, scaled_layer(share, depth, least=2)) for share in (3 / 12, 5 / 12, 7 / 12) if depth > 1]
        layers = distinct([tuple(own['layers'])] if 'layers' in own else [], pairs or [(1,)])
        return [
            Ladder(f'{cls.name}, layers {listed(chosen)}', rungs(own, 'threshold', steps, layers=chosen))
            for chosen in layers
        ]

    @classmethod
    def fixed_ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """The share of windows that join and of later tokens that leave, the same in every layer, up to all of them."""
        defaults = cls.defaults(0, depth, grid)
        layers, window = own.get('layers', defaults['layers']), own.get('window', defaults['window'])
        windows, saved = (grid[0] // window[0]) * (grid[1] // window[1]), window[0] * window[1] - 1
        steps = []
        for step in range(1, 65):
            counts, left = [windows * step // 64], math.prod(grid)
            left -= counts[0] * saved
            for _ in layers[1:]:
                counts.append(left // 2 * step // 64)
                left -= counts[-1]
            steps.append(tuple(counts))
        return [Ladder(cls.name, rungs(own, 'counts', distinct(steps), layers=tuple(layers), window=tuple(window)))]

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        check_layers(self.layers, depth)
        grid = (grid[0], grid[1])
        if self.window[0] > grid[0] or self.window[1] > grid[1]:
            raise ConfigError(f'window must fit into the patch grid {grid}, got {self.window}.')
        windows = (grid[0] // self.window[0]) * (grid[1] // self.window[1])
        if self.counts is not None and self.counts[0] > windows:
            raise ConfigError(f'counts must join at most the {windows} windows of grid {grid}, got {self.counts}.')
        return self._with(grid=grid)

    def unexportable(self) -> str | None:
        if self.counts is not None:
            return None
        return (
            f'{self.name} lets every image decide how many tokens remain, which fixed shapes do not allow: set '
            'counts in its reduction, one number per layer, or average them over the dataset.'
        )

    def fixed_by(self, forwards: Iterable[Tokens]) -> Reduction:
        if self.counts is not None:
            return super().fixed_by(forwards)
        merged = mean_merged(forwards, self.layers)
        merged[self.layers[0]] /= math.prod(self.window) - 1
        return self._with(counts=tuple(map(round, merged.values())))

    def count(self, layer: int, tokens: Tokens) -> int | None:
        """Windows, or tokens, that a layer merges away by counts; None where the image decides."""
        if self.counts is None:
            return None
        count, patches = self.counts[self.layers.index(layer)], math.prod(tokens.grid)
        count = scaled_count(count, math.prod(self.grid or tokens.grid), patches)
        if layer == self.layers[0]:
            return min(count, (tokens.grid[0] // self.window[0]) * (tokens.grid[1] // self.window[1]))
        return count

    def after_attention(self, tokens: Tokens, layer: int, seen: None) -> Tokens:
        if layer not in self.layers:
            return tokens
        with record_function('mmseg_tr::merge'):
            count = self.count(layer, tokens)
            compared = tokens.replace(x=deciding(tokens.x, self.precision))
            if layer != self.layers[0] and count is not None:
                return tokens.merge(bipartite_matching(compared.x, count, tokens.num_prefix), layer)
            if layer != self.layers[0]:
                return tokens.merge(global_merge(compared, layer, self.batch), layer)
            if min(tokens.grid[0] // self.window[0], tokens.grid[1] // self.window[1]) < 1:
                warnings.warn(f'ALGM: no {self.window} window fits grid {tokens.grid}: no local merge.', stacklevel=2)
                return tokens
            window = (self.window[0], self.window[1])
            settings: dict[str, Any] = dict(num_prefix=tokens.num_prefix, batch=self.batch, count=count)
            return tokens.merge(local_merge(compared.x, tokens.grid, window, self.threshold, **settings), layer)


def _check_window(window: Any) -> tuple[int, int]:
    wanted = '(height, width) in patches that holds two patches or more, such as (2, 2)'
    window = check_pair('window', window, wanted)
    if window == (1, 1):
        raise ConfigError(f'window must be {wanted}, got {window}.')
    return window


def _check_threshold(threshold: Any) -> float:
    threshold = float(check_number('threshold', threshold, -1, hint='a cosine similarity such as 0.88'))
    if threshold > 1:
        warnings.warn(
            f'ALGM threshold={threshold} is above 1: no window is that similar, so nothing merges locally.',
            stacklevel=5,
        )
    return threshold
