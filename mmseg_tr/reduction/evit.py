"""EViT: keep the tokens that the class token attends to (Liang et al., ICLR 2022), dense as Expedite compares it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction, check_layers
from mmseg_tr.reduction.expedite import (
    Reconstruction,
    check_k,
    check_temperature,
    reconstructed,
    reconstruction_weights,
)
from mmseg_tr.reduction.matching import stat_dtype, without_autocast
from mmseg_tr.reduction.tokens import Tokens


def class_attention(q: Tensor, k: Tensor, scale: float, num_prefix: int = 1) -> Tensor:
    """What the class token attends to, mean over heads, prefix left out; only its own row of attention is computed.

    q, k: (B, H, E + n, d), class token first. Returns (B, n) in float32 at least.
    """
    with without_autocast(q):
        dtype = stat_dtype(q)
        row = (q[:, :, :1].to(dtype) * scale) @ k.to(dtype).transpose(-2, -1)  # (B, H, 1, E + n)
        return row.softmax(-1)[:, :, 0, num_prefix:].mean(1)


def keep_attentive(attention: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Places of the `kept` most attended tokens, most attended first, and of the others, in their old order.

    attention: (B, n). Returns (B, kept) and (B, n - kept) int64; lower index first among equals.
    """
    order = attention.argsort(dim=-1, descending=True, stable=True)
    return order[:, :kept], order[:, kept:].sort(-1).values


def take(x: Tensor, places: Tensor) -> Tensor:
    """Rows of every image: x (B, T, C), places (B, n) int64 -> (B, n, C)."""
    starts = x.shape[1] * torch.arange(x.shape[0], device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, (places + starts).flatten()).view(*places.shape, -1)


def fused(dropped: Tensor, attention: Tensor) -> Tensor:
    """The sum of dropped tokens by their class attention: (B, n, C), (B, n) -> (B, 1, C); the weights stay as small."""
    with without_autocast(dropped):
        return (attention[:, None] @ dropped.to(attention.dtype)).to(dropped.dtype)


@dataclass(frozen=True)
class Drop:
    """One layer's drop of tokens: (B, n, V) became the kept ones, and a fused one behind them.

    place: (B, n) int64, where each token is among the kept ones followed by the dropped ones.
    rebuilt: values of the kept tokens to values of the dropped ones. fused: whether a fused token is there.
    """

    place: Tensor
    kept: int
    rebuilt: Reconstruction
    fused: bool = True

    def undo(self, values: Tensor) -> Tensor:
        """(B, kept, V), with or without the fused token behind them -> (B, n, V)."""
        values = values[:, : self.kept]
        return take(torch.cat([values, self.rebuilt(values)], 1), self.place)

    def index(self) -> Tensor:
        """The token that each became, (B, n) int64: the fused one, or -1 where there is none, if it was dropped."""
        return torch.where(self.place < self.kept, self.place, self.kept if self.fused else -1)


@dataclass(frozen=True)
class Drops:
    """All drops of a forward: EViT's record. Called with values per token, (B, T, V), it gives them per patch."""

    steps: tuple[Drop, ...]

    def __call__(self, values: Tensor) -> Tensor:
        for step in reversed(self.steps):
            values = step.undo(values)
        return values

    def places(self) -> Tensor:
        """The token that stands for each patch, (B, N) int64; -1 for dropped patches that no fused token stands for."""
        index = self.steps[0].index()
        for step in self.steps[1:]:
            index = torch.where(index < 0, index, step.index().gather(1, index.clamp_min(0)))
        return index


class EViT(Reduction):
    """Drop the tokens least attended by the class token, fuse them into one, and rebuild them behind the last layer.

    keep_rate: share of tokens that stay, above 0 and up to 1, a number or one per entry of layers.
    layers: layer numbers from 1 whose attention decides; tokens drop in front of their MLP (published: 8, 14, 20 of
        24). fuse_token: leave the sum of the dropped tokens, weighted by their class attention, in their place.
    k, reconstruct_temperature: each dropped token is rebuilt behind the final norm from its k nearest kept tokens, see
        expedite.reconstruction_weights().
    Needs a class token; distillation and register tokens stay. Raises ConfigError for settings outside these.
    """

    NEEDS_CLASS_TOKEN = True

    def __init__(
        self,
        keep_rate: float | Sequence[float] = 0.8,
        layers=(8, 14, 20),
        fuse_token: bool = True,
        k: int = 1,
        reconstruct_temperature: float = 0.005,
    ) -> None:
        self.layers = check_layers(layers)
        self.keep_rate = _check_keep_rate(keep_rate, self.layers)
        if not isinstance(fuse_token, bool):
            raise ConfigError(f'fuse_token={fuse_token!r} must be True or False.')
        self.fuse_token = fuse_token
        self.k = check_k(k)
        self.reconstruct_temperature = check_temperature('reconstruct_temperature', reconstruct_temperature)

    def check(self, depth: int, grid: tuple[int, int], num_prefix: int) -> None:
        check_layers(self.layers, depth)
        before = num_tokens = math.prod(grid)
        for layer in self.layers:
            kept = self.kept(num_tokens, layer)
            if kept < num_tokens:
                if self.k > kept:
                    raise ConfigError(
                        f'k={self.k} is more than the {kept} tokens that layer {layer} keeps: choose at most as many.'
                    )
                num_tokens = kept + self.fuse_token
        if num_tokens == before:
            self._warn_idle(num_tokens)

    def kept(self, num_tokens: int, layer: int) -> int:
        """How many of num_tokens (prefix left out, a fused one counted) stay behind a layer's attention."""
        if layer not in self.layers:
            return num_tokens
        return math.ceil(self.keep_rate[self.layers.index(layer)] * num_tokens)

    def attention(self, attend, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor | None]:
        num_tokens = y.shape[1] - tokens.num_prefix
        if self.kept(num_tokens, layer) == num_tokens:
            return attend(y, tokens), None
        ((q, k, v),) = attend.heads(y, tokens)
        with record_function('mmseg_tr::merge'):
            attention = class_attention(q, k, attend.module.scale, tokens.num_prefix)
        return attend.output([attend.attend(q, k, v)], y, tokens), attention

    def after_attention(self, tokens: Tokens, layer: int, seen: Any) -> Tokens:
        if seen is None:
            self._warn_where_idle(tokens, layer)
            return tokens
        with record_function('mmseg_tr::merge'):
            return self._dropped(tokens, seen, self.kept(seen.shape[1], layer))

    def after_norm(self, tokens: Tokens) -> Tokens:
        return reconstructed(tokens)

    def _dropped(self, tokens: Tokens, attention: Tensor, num_kept: int) -> Tokens:
        """Keep the most attended tokens, and how to rebuild the others. attention: (B, n)."""
        prefix, x = tokens.x[:, : tokens.num_prefix], tokens.x[:, tokens.num_prefix :]
        keep, drop = keep_attentive(attention.detach(), num_kept)
        kept, dropped = take(x, keep), take(x, drop)
        parts = [prefix, kept]
        if self.fuse_token:
            parts.append(fused(dropped, attention.gather(1, drop)))
        weights = reconstruction_weights(dropped, kept, min(self.k, num_kept), self.reconstruct_temperature)
        place = torch.cat([keep, drop], 1).argsort(-1)
        step = Drop(place, num_kept, Reconstruction(weights), self.fuse_token)
        earlier = tokens.reconstruct.steps if tokens.reconstruct else ()
        return tokens.replace(x=torch.cat(parts, 1), reconstruct=Drops((*earlier, step)))

    def _warn_where_idle(self, tokens: Tokens, layer: int) -> None:
        """Say so when the first tokens that a layer should drop some of are too few."""
        if layer in self.layers and self.keep_rate[self.layers.index(layer)] < 1 and tokens.reconstruct is None:
            self._warn_idle(tokens.x.shape[1] - tokens.num_prefix)

    def _warn_idle(self, num_tokens: int) -> None:
        warnings.warn(f'EViT: keep_rate={self.keep_rate} drops none of {num_tokens} tokens.', stacklevel=2)


def _check_keep_rate(keep_rate, layers: tuple[int, ...]) -> tuple[float, ...]:
    single = isinstance(keep_rate, (int, float)) and not isinstance(keep_rate, bool)
    rates = (keep_rate,) * len(layers) if single else keep_rate
    if not isinstance(rates, (list, tuple)) or len(rates) != len(layers):
        raise ConfigError(f'keep_rate={keep_rate!r} must be a number, or one for each of layers={layers}.')
    for rate in rates:
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ConfigError(f'keep_rate={keep_rate!r} holds {rate!r}: rates lie above 0 and up to 1.')
    return tuple(float(rate) for rate in rates)
