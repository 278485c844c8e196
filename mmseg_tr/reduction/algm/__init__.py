"""ALGM: adaptive local-then-global token merging (Norouzi et al., CVPR 2024)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.algm.local import float32_of, local_merge, window_similarity
from mmseg_tr.reduction.base import Reduction, mean_merged
from mmseg_tr.reduction.checks import (
    BATCH_RULES,
    check_choice,
    check_counts,
    check_layers,
    check_left,
    check_number,
    check_pair,
    check_precision,
    check_tokens,
)
from mmseg_tr.reduction.ladder import Dial, Grid, Ladder, distinct, listed, rungs, scaled_layer
from mmseg_tr.reduction.matching import best_partners, bipartite_index, bipartite_matching, protected_sources
from mmseg_tr.reduction.merge import Merge
from mmseg_tr.reduction.ops import decided, deciding, scaled_count
from mmseg_tr.reduction.tokens import Tokens


def automatic_threshold(score: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation part of the global threshold, per image: mean(v), std(v) / layer (section 3.2, GBM).

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
    protected = protected_sources(tokens.num_prefix)
    leave_out = max(1 - protected, 0)  # the first source of all never enters the statistics
    found = [best_partners(group, tokens.num_prefix) for group in groups]
    parts = [automatic_threshold(score[:, leave_out:], layer) for score, _ in found]
    mean, deviation = (_joined(list(part)) for part in zip(*parts, strict=True))
    theta = (mean.mean() + deviation.mean()).expand_as(mean) if batch == 'joint' else mean + deviation
    starts = theta.split([len(score) for score, _ in found])
    r = decided(_joined([(score >= t[:, None]).sum(1) for (score, _), t in zip(found, starts, strict=True)]))
    r = [min(r)] * len(r) if batch == 'joint' else r
    index, of_group = [], iter(r)
    for group, (score, partner) in zip(groups, found, strict=True):
        asked = [next(of_group) for _ in range(len(group))]
        settings = (group.shape[1], tokens.num_prefix, False)
        if len(set(asked)) == 1:
            index.append(bipartite_index(score, partner, asked[0], *settings))
        else:
            each = zip(score.split(1), partner.split(1), asked, strict=True)
            index.append(torch.cat([bipartite_index(*parts, *settings) for parts in each]))
    lengths = tuple(n - gone for n, gone in zip(tokens.counts, r, strict=True))
    return Merge(tokens.join(index), lengths, tuple(score for score, _ in found), protected=protected)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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
        """Return defaults: layers 1 and 5, of 24 layers 1 and 7; the threshold of the width's ADE20K row, or 0.88."""
        layers = tuple(sorted({1, min(7 if depth >= 24 else 5, depth)}))
        window = tuple(min(2, side) for side in grid)
        return dict(layers=layers, window=window, threshold=cls.THRESHOLDS.get(width, 0.88))

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return the threshold from 0.99 down to 0.3, for several layers of the global merge."""
        steps = [round(0.99 - 0.01 * step, 2) for step in range(70)]
        pairs = [(1, scaled_layer(share, depth, least=2)) for share in (3 / 12, 5 / 12, 7 / 12) if depth > 1]
        layers = distinct([tuple(own['layers'])] if 'layers' in own else [], pairs or [(1,)])
        return [
            Ladder(f'{cls.name}, layers {listed(chosen)}', rungs(own, 'threshold', steps, layers=chosen))
            for chosen in layers
        ]

    @classmethod
    def fixed_ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return share of windows that join and of later tokens that leave, up to all of them; in the first ladder the
        same in every layer, in the others more of one kind.
        """
        defaults = cls.defaults(0, depth, grid)
        layers, window = own.get('layers', defaults['layers']), own.get('window', defaults['window'])
        windows, saved = (grid[0] // window[0]) * (grid[1] // window[1]), window[0] * window[1] - 1
        found = []
        for near, far in ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (1.0, 0.0)):
            steps = []
            for step in range(1, 65):
                counts, left = [int(windows * step * near / 64)], math.prod(grid)
                left -= counts[0] * saved
                for _ in layers[1:]:
                    counts.append(int(left // 2 * step * far / 64))
                    left -= counts[-1]
                steps.append(tuple(counts))
            name = cls.name if near == far else f'{cls.name}, {near:.0%} of the windows, {far:.0%} of later tokens'
            settings = rungs(
                own,
                'counts',
                distinct([step for step in steps if any(step)]),
                layers=tuple(layers),
                window=tuple(window),
            )
            found.append(Ladder(name, settings))
        return found

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings that leave these numbers after each entry of layers; windows join down to the first
        number."""
        defaults = cls.defaults(0, depth, grid)
        layers, window = tuple(own.get('layers', defaults['layers'])), own.get('window', defaults['window'])
        left = math.prod(grid)
        asked = check_tokens(tokens, len(layers), left)
        saved, windows = math.prod(window) - 1, (grid[0] // window[0]) * (grid[1] // window[1])
        counts = [-(-(left - asked[0]) // saved)]
        if counts[0] > windows:
            least = left - saved * windows
            raise ConfigError(f'tokens must be {least} or more after layer {layers[0]}, got {asked[0]}.')
        left -= saved * counts[0]
        for layer, number in zip(layers[1:], asked[1:]):
            counts.append(check_left(f'layer {layer}', min(number, left), left))
            left -= counts[-1]
        return {**own, 'layers': layers, 'window': tuple(window), 'counts': tuple(counts)}

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
        """Return windows, or tokens, that a layer merges away by counts; None where the image decides."""
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


__all__ = ['ALGM', 'automatic_threshold', 'float32_of', 'global_merge', 'local_merge', 'window_similarity']
