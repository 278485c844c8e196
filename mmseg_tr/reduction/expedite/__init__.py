"""Expedite: cluster tokens on the way in, reconstruct the full grid on the way out (Liang et al., NeurIPS 2022)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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
    check_tokens,
    is_integer,
)
from mmseg_tr.reduction.expedite.clustering import cluster_patches, scaled_distances
from mmseg_tr.reduction.ladder import Grid, Ladder, distinct, rungs, scaled_layer
from mmseg_tr.reduction.ops import deciding, stat_dtype, without_autocast
from mmseg_tr.reduction.tokens import Tokens

WEIGHTINGS = ('l2', 'sum')


@torch.no_grad()
def reconstruction_weights(
    before: Tensor, after: Tensor, k: int = 20, temperature: float = 0.02, weighting: str = 'l2'
) -> Tensor:
    """Return the weights of the remaining tokens in every patch (token reconstruction layer).

    before: (B, N, C), patches that were reduced; after: (B, K, C), what they were reduced to, right after that step.
    Weights are exp(-temperature * squared distance); of a patch's weights those below the k-th largest are dropped, so
    that more than k remain where some tie with it (k=-1: all remain). weighting: 'l2' divides them by their Euclidean
    length, as published, which makes m equal values sqrt(m) times their mean; patches whose weights all underflow get
    0. 'sum' divides them by their sum, and finds a mean for every patch. Returns (B, N, K) in float32 at least.
    """
    dtype, exact = stat_dtype(before), exact_dtype(before)
    with without_autocast(before):
        logits = scaled_distances(before.to(exact), after.to(exact), -temperature)
        if weighting == 'sum':
            return logits.masked_fill(_beyond_nearest(logits, k), -torch.inf).softmax(-1).to(dtype)
        weights = logits.exp_()
        weights = weights.masked_fill_(_beyond_nearest(weights, k), 0).to(dtype)
        return weights / torch.linalg.vector_norm(weights, dim=-1, keepdim=True).clamp_min(1e-12)


def exact_dtype(x: Tensor) -> torch.dtype:
    """Return float64 for networks in float32, where the device has it; float32 under autocast and in half precision.

    Clusters may be so alike that rounding in float32, which differs with the batch, would choose the k-th nearest.
    """
    dtype, device = stat_dtype(x), x.device.type
    if device in ('mps', 'meta') or x.dtype != dtype or torch.is_autocast_enabled(device):
        return dtype
    return torch.float64


def _beyond_nearest(weights: Tensor, k: int) -> Tensor:
    """Return which weights are below the k-th largest of their row."""
    if k < 0:
        return torch.zeros_like(weights, dtype=torch.bool)
    nearest = weights if k == 1 else weights.topk(k, sorted=False).values
    return weights < (nearest.amax if k == 1 else nearest.amin)(-1, keepdim=True)


@dataclass(frozen=True)
class Reconstruction:
    """Weights (B, N, K) of the remaining tokens in the patches: Expedite's record of a forward.

    Called with any values per token, (B, K, V), it gives values per patch, (B, N, V).
    """

    weights: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        with without_autocast(values):
            return (self.weights @ values.to(self.weights.dtype)).to(values.dtype)

    def places(self) -> Tensor:
        """Return the token with the largest weight in each patch, (B, N) int64."""
        return self.weights.argmax(-1)


def clustering_macs(patches: int, clusters: int, width: int, iterations: int, window: int) -> int:
    """Return the multiply-adds that the published counter adds for soft k-means of an image: N, K, C of the paper."""
    near = min(window**2, clusters)
    step = 3 * near * patches * width + 3 * near * patches + clusters * width
    return patches * width + 2 * (patches + clusters) + iterations * step


def reconstruction_macs(patches: int, tokens: int, width: int, k: int) -> int:
    """Return the multiply-adds that the published counter adds for patches from their k nearest tokens, all for k < 0.

    It uses the width of features for scores too.
    """
    nearest = tokens if k < 0 else min(k, tokens)
    distances = (patches + tokens) * width + patches * tokens * (width + 1)
    return distances + patches * nearest * (width + 3)


@dataclass(frozen=True)
class Expedite(Reduction):
    """Full resolution for the first layers, clusters of patches for the others; class scores are reconstructed.

    layer: number of layers at full resolution (alpha of the paper); clustering comes after the last of them.
    clusters: (rows, columns) that remain; None: (28, 28), or 70 % of the sides of a grid with fewer
    patches. iterations, window, temperature: of the clustering, see cluster_patches().
    k, reconstruct_temperature, weighting: of the reconstruction, see reconstruction_weights().
    reconstruct: what is reconstructed on the full grid: 'scores', the class scores of a head on tokens (published; with
        out='maps' the features that leave the backbone); 'backbone', the features after the last layer and its norm;
        or the number of a layer after which the full grid continues.
    precision: of clusters and weights, 'float32' or 'float64', see docs/methods/index.md.
    Class and other prefix tokens bypass it. In training too, losses see the full grid, while the published training
    took them from the clusters' map. An image with fewer patches than clusters is not reduced, with a warning.
    Raises ConfigError for settings outside these.
    """

    layer: int = 10
    clusters: Sequence[int] | None = None
    iterations: int = 5
    window: int = 5
    temperature: float = 0.02
    k: int = 20
    reconstruct_temperature: float = 0.02
    reconstruct: str | int = 'scores'
    weighting: str = 'l2'
    precision: str = 'float32'

    count_rule: ClassVar[str] = 'expedite'
    indexed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_integer('layer', self.layer, 1)
        check_integer('iterations', self.iterations)
        _check_window(self.window)
        check_temperature('temperature', self.temperature)
        check_temperature('reconstruct_temperature', self.reconstruct_temperature)
        check_k(self.k)
        _check_reconstruct(self.reconstruct, self.layer)
        check_choice('weighting', self.weighting, WEIGHTINGS)
        check_precision(self.precision)
        if self.clusters is not None:
            self._settle(clusters=check_pair('clusters', self.clusters, '(rows, columns), such as (28, 28)'))
            if self.k > math.prod(self.clusters):
                raise ConfigError(
                    f'k must be at most the {math.prod(self.clusters)} clusters of {self.clusters}, or -1 for all, got '
                    f'{self.k}.'
                )

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """As published for 24 layers and a grid of 40x40: 28x28 clusters after layer 10, in proportion."""
        clusters = _in_proportion(grid)
        layer = min(max(round(depth * 10 / 24), 1), depth)
        return dict(layer=layer, clusters=clusters, k=min(20, math.prod(clusters)))

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return clusters in the shape of the grid down to a quarter of its sides, after several layers."""
        side, k = max(grid), own.get('k', 20)
        sizes = [(max(round(grid[0] * n / side), 1), max(round(grid[1] * n / side), 1)) for n in range(side - 1, 0, -1)]
        sizes = [size for size in sizes if math.prod(size) >= k and 4 * max(size) >= side]
        alphas = [scaled_layer(share, depth) for share in (1 / 6, 1 / 3, 1 / 2, 2 / 3)]
        last = own.get('reconstruct') if isinstance(own.get('reconstruct'), int) else depth
        layers = [layer for layer in distinct([own['layer']] if 'layer' in own else [], alphas) if layer < last]
        return [Ladder(f'{cls.name}, layer {layer}', rungs(own, 'clusters', sizes, layer=layer)) for layer in layers]

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings whose clusters are nearest to the shape of the grid and at most so many."""
        (asked,) = check_tokens(tokens, 1, math.prod(grid))
        sides = ((rows, min(asked // rows, grid[1])) for rows in range(1, min(grid[0], asked) + 1))
        clusters = min(sides, key=lambda side: (abs(side[0] / grid[0] - side[1] / grid[1]), -math.prod(side)))
        return {
            **cls.defaults(0, depth, grid),
            **own,
            'clusters': clusters,
            'k': min(own.get('k', cls.k), math.prod(clusters)),
        }

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        check_layer('layer', self.layer, depth)
        if isinstance(self.reconstruct, int):
            check_layer('reconstruct', self.reconstruct, depth)
        if self.reconstruct == depth:
            raise ConfigError(
                f"reconstruct must be 'backbone' to reconstruct after the last layer and its norm, got {depth}."
            )
        num_patches = math.prod(grid)
        fitted = self if self.clusters else self._fitting(grid)
        num_clusters = math.prod(fitted.clusters or ())
        if num_clusters > num_patches:
            raise ConfigError(
                f'clusters must be at most the {num_patches} patches of grid {tuple(grid)}, got {self.clusters}.'
            )
        if num_clusters == num_patches:
            warnings.warn(
                f'Expedite: clusters={fitted.clusters} are as many as patches: nothing is saved.', stacklevel=2
            )
        if self.layer == depth and self.reconstruct == 'backbone':
            warnings.warn(f'Expedite: no layer runs on clusters between layer={depth} and the end.', stacklevel=2)
        return fitted

    def _fitting(self, grid: Grid) -> Expedite:
        """Return the strategy with the default number of clusters for a grid."""
        clusters = (28, 28) if math.prod(grid) > 28 * 28 else _in_proportion(grid)
        return self._with(clusters=clusters, k=min(self.k, math.prod(clusters)))

    def closed_forms(self, grid: Grid, width: int) -> dict[tuple[str, str], int]:
        patches, clusters = math.prod(grid), math.prod(self.clusters or ())
        if clusters > patches:
            return {}
        return {
            ('merging', 'clustering'): clustering_macs(patches, clusters, width, self.iterations, self.window),
            ('restoring', 'reconstruction'): reconstruction_macs(patches, clusters, width, self.k),
        }

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        if layer == self.layer:
            return self._clustered(tokens)
        return tokens.restored() if layer == self.reconstruct else tokens

    def after_norm(self, tokens: Tokens) -> Tokens:
        return tokens.restored() if self.reconstruct == 'backbone' else tokens

    def _clustered(self, tokens: Tokens) -> Tokens:
        """Return clusters after the prefix, and the weights to reconstruct the patches."""
        rows, columns = self.clusters or tokens.grid
        if rows * columns > math.prod(tokens.grid):
            warnings.warn(
                f'Expedite: grid {tokens.grid} has fewer patches than clusters={self.clusters}: no clustering.',
                stacklevel=2,
            )
            return tokens
        with record_function('mmseg_tr::merge'):
            prefix, patches = tokens.x[:, : tokens.num_prefix], tokens.x[:, tokens.num_prefix :]
            patches = deciding(patches, self.precision)
            clusters = cluster_patches(
                patches, tokens.grid, (rows, columns), self.iterations, self.window, self.temperature
            )
            weights = reconstruction_weights(patches, clusters, self.k, self.reconstruct_temperature, self.weighting)
            x = torch.cat([prefix, clusters.to(prefix.dtype)], 1)
            return tokens.replace(x=x, reconstruct=Reconstruction(weights.to(stat_dtype(tokens.x))))


def _in_proportion(grid: Grid) -> Grid:
    """Return seven tenths of the sides of a grid, as 28x28 clusters are of 40x40 patches."""
    return max(round(0.7 * grid[0]), 1), max(round(0.7 * grid[1]), 1)


def check_temperature(name: str, value: Any) -> float:
    """Return a finite number above 0. Raises ConfigError."""
    return check_number(name, value, 0, open_below=True)


def check_k(k: Any) -> int:
    """Return how many nearest tokens reconstruct a patch: a positive integer, or -1. Raises ConfigError."""
    return k if is_integer(k) and k == -1 else check_integer('k', k, 1, hint='or -1 for all')


def _check_window(window: Any) -> int:
    if check_integer('window', window, 1) % 2 == 0:
        raise ConfigError(f'window must be odd, as it reaches equally far to both sides, got {window}.')
    return window


def _check_reconstruct(reconstruct: Any, layer: int) -> None:
    number = is_integer(reconstruct)
    if not number and not (isinstance(reconstruct, str) and reconstruct in ('scores', 'backbone')):
        raise ConfigError(f"reconstruct must be 'scores', 'backbone' or the number of a layer, got {reconstruct!r}.")
    if number and reconstruct <= layer:
        raise ConfigError(f'reconstruct must be a layer after layer={layer}, the one of clustering, got {reconstruct}.')
