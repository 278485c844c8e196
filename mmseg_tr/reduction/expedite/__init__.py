"""Expedite: cluster tokens on the way in, reconstruct the full grid on the way out (Liang et al., NeurIPS 2022)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.expedite.clustering import cluster_patches, scaled_distances
from mmseg_tr.reduction.matching import stat_dtype, without_autocast
from mmseg_tr.reduction.tokens import Tokens

WEIGHTINGS = ('l2', 'sum')


@torch.no_grad()
def reconstruction_weights(
    before: Tensor, after: Tensor, k: int = 20, temperature: float = 0.02, weighting: str = 'l2'
) -> Tensor:
    """How much of every remaining token a patch is made of (token reconstruction layer).

    before: (B, N, C), patches that were reduced; after: (B, K, C), what they were reduced to, right behind that step.
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
    """float64 for networks that run in float32, where the device has it; float32 under autocast and for half precision.

    Clusters may be so alike that rounding in float32, which differs with the batch, would choose the k-th nearest.
    """
    dtype, device = stat_dtype(x), x.device.type
    if device in ('mps', 'meta') or x.dtype != dtype or torch.is_autocast_enabled(device):
        return dtype
    return torch.float64


def _beyond_nearest(weights: Tensor, k: int) -> Tensor:
    """Which weights lie below the k-th largest of their row."""
    if k < 0:
        return torch.zeros_like(weights, dtype=torch.bool)
    return weights < weights.topk(k, sorted=False).values.amin(-1, keepdim=True)


@dataclass(frozen=True)
class Reconstruction:
    """Weights (B, N, K) with which remaining tokens stand for patches: Expedite's record of a forward.

    Called with any values per token, (B, K, V), it gives values per patch, (B, N, V).
    """

    weights: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        with without_autocast(values):
            return (self.weights @ values.to(self.weights.dtype)).to(values.dtype)

    def places(self) -> Tensor:
        """The token that each patch has most of, (B, N) int64."""
        return self.weights.argmax(-1)


class Expedite(Reduction):
    """Full resolution for the first layers, clusters of patches for the others; class scores are reconstructed.

    layer: number of layers at full resolution (alpha of the paper); clustering comes behind the last of them.
    clusters: (rows, columns) that remain. iterations, window, temperature: of the clustering, see cluster_patches().
    k, reconstruct_temperature, weighting: of the reconstruction, see reconstruction_weights().
    reconstruct: what is brought back to the full grid: 'scores', the class scores of a head on tokens (published; with
        out='maps' the features that leave the backbone); 'backbone', the features behind the last layer and its norm;
        or the number of a layer behind which the full grid goes on.
    Class and other prefix tokens bypass it. In training too, losses see the full grid, while the published training
    took them from the clusters' map. An image with fewer patches than clusters is not reduced, with a warning.
    Raises ConfigError for settings outside these.
    """

    def __init__(
        self,
        layer: int = 10,
        clusters=(28, 28),
        iterations: int = 5,
        window: int = 5,
        temperature: float = 0.02,
        k: int = 20,
        reconstruct_temperature: float = 0.02,
        reconstruct: str | int = 'scores',
        weighting: str = 'l2',
    ) -> None:
        self.layer = _check_whole('layer', layer, 1)
        self.clusters = _check_clusters(clusters)
        self.iterations = _check_whole('iterations', iterations, 0)
        self.window = _check_window(window)
        self.temperature = check_temperature('temperature', temperature)
        self.k = check_k(k)
        self.reconstruct_temperature = check_temperature('reconstruct_temperature', reconstruct_temperature)
        self.reconstruct = _check_reconstruct(reconstruct, self.layer)
        self.weighting = check_weighting(weighting)
        rows, columns = self.clusters
        if self.k > rows * columns:
            raise ConfigError(
                f'k={k} is more than the {rows * columns} clusters of {self.clusters}: choose at most as many, or -1.'
            )

    def check(self, depth: int, grid: tuple[int, int], num_prefix: int) -> None:
        for name, layer in (('layer', self.layer), ('reconstruct', self.reconstruct)):
            if isinstance(layer, int) and layer > depth:
                raise ConfigError(f'{name}={layer} must be a layer from 1 to {depth}, the depth of the backbone.')
        if self.reconstruct == depth:
            raise ConfigError(
                f"reconstruct={depth} is the last layer: write 'backbone' to reconstruct behind it and its norm."
            )
        num_clusters, num_patches = math.prod(self.clusters), math.prod(grid)
        if num_clusters > num_patches:
            raise ConfigError(
                f'clusters={self.clusters} are more than the {num_patches} patches of grid {tuple(grid)}: choose fewer.'
            )
        if num_clusters == num_patches:
            warnings.warn(f'Expedite: clusters={self.clusters} are as many as patches: nothing is saved.', stacklevel=2)
        if self.layer == depth and self.reconstruct == 'backbone':
            warnings.warn(f'Expedite: no layer runs on clusters between layer={depth} and the end.', stacklevel=2)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        if layer == self.layer:
            return self._clustered(tokens)
        return reconstructed(tokens) if layer == self.reconstruct else tokens

    def after_norm(self, tokens: Tokens) -> Tokens:
        return reconstructed(tokens) if self.reconstruct == 'backbone' else tokens

    def _clustered(self, tokens: Tokens) -> Tokens:
        """Clusters behind the prefix, and how to come back from them."""
        if math.prod(self.clusters) > math.prod(tokens.grid):
            warnings.warn(
                f'Expedite: grid {tokens.grid} has fewer patches than clusters={self.clusters}: no clustering.',
                stacklevel=2,
            )
            return tokens
        with record_function('mmseg_tr::merge'):
            prefix, patches = tokens.x[:, : tokens.num_prefix], tokens.x[:, tokens.num_prefix :]
            clusters = cluster_patches(
                patches, tokens.grid, self.clusters, self.iterations, self.window, self.temperature
            )
            weights = reconstruction_weights(patches, clusters, self.k, self.reconstruct_temperature, self.weighting)
            x = torch.cat([prefix, clusters.to(prefix.dtype)], 1)
            return tokens.replace(x=x, reconstruct=Reconstruction(weights))


def reconstructed(tokens: Tokens) -> Tokens:
    """Tokens with one for every patch again, behind their prefix."""
    if tokens.reconstruct is None:
        return tokens
    x = torch.cat([tokens.x[:, : tokens.num_prefix], tokens.restore(tokens.patches().x)], 1)
    return tokens.replace(x=x, reconstruct=None)


def _check_whole(name: str, value, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f'{name}={value!r} must be a whole number from {least} on.')
    return value


def check_temperature(name: str, value) -> float:
    """Return a finite number above 0. Raises ConfigError."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ConfigError(f'{name}={value!r} must be a number above 0.')
    return float(value)


def check_k(k) -> int:
    """Return how many nearest tokens reconstruct a patch: a whole number from 1 on, or -1. Raises ConfigError."""
    if isinstance(k, bool) or not isinstance(k, int) or (k < 1 and k != -1):
        raise ConfigError(f'k={k!r} must be a whole number from 1 on, or -1 for all.')
    return k


def check_weighting(weighting) -> str:
    """Return one of WEIGHTINGS. Raises ConfigError."""
    if weighting not in WEIGHTINGS:
        raise ConfigError(f'weighting={weighting!r} is unknown: it is one of {", ".join(map(repr, WEIGHTINGS))}.')
    return weighting


def _check_clusters(clusters) -> tuple[int, int]:
    try:
        rows, columns = clusters
        whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in (rows, columns))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ConfigError(f'clusters={clusters!r} must be (rows, columns), two whole numbers from 1 on, as (28, 28).')
    return rows, columns


def _check_window(window) -> int:
    if _check_whole('window', window, 1) % 2 == 0:
        raise ConfigError(f'window={window} must be odd, for it reaches equally far to both sides: 5 is published.')
    return window


def _check_reconstruct(reconstruct, layer: int) -> str | int:
    number = isinstance(reconstruct, int) and not isinstance(reconstruct, bool)
    if not number and reconstruct not in ('scores', 'backbone'):
        raise ConfigError(f"reconstruct={reconstruct!r} is unknown: it is 'scores', 'backbone' or a layer's number.")
    if number and reconstruct <= layer:
        raise ConfigError(f'reconstruct={reconstruct} must be a layer behind layer={layer}, where clustering is.')
    return reconstruct
