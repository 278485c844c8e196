"""EViT: keep the tokens that the class token attends to (Liang et al., ICLR 2022), dense as Expedite compares it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.checks import check_flag, check_layers, check_number, check_tokens, is_number
from mmseg_tr.reduction.expedite import (
    Reconstruction,
    check_k,
    check_temperature,
    reconstruction_macs,
    reconstruction_weights,
)
from mmseg_tr.reduction.ladder import Grid, Ladder, distinct, listed, rungs, scaled_layer
from mmseg_tr.reduction.ops import stat_dtype, take, without_autocast
from mmseg_tr.reduction.tokens import Tokens


def class_attention(q: Tensor, k: Tensor, scale: float, num_prefix: int = 1) -> Tensor:
    """Return the attention of the class token, mean over heads, prefix left out; only its own row is computed.

    q, k: (B, H, E + n, d), class token first. Returns (B, n) in float32 at least.
    """
    with without_autocast(q):
        dtype = stat_dtype(q)
        row = (q[:, :, :1].to(dtype) * scale) @ k.to(dtype).transpose(-2, -1)  # (B, H, 1, E + n)
        return row.softmax(-1)[:, :, 0, num_prefix:].mean(1)


def by_attention(attention: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention in descending order and the places of its tokens, (B, n) each; lower place first among
    equals."""
    values, order = attention.sort(dim=-1, descending=True, stable=True)
    return values, order


def fused(dropped: Tensor, attention: Tensor) -> Tensor:
    """Return the sum of dropped tokens by their class attention: (B, n, C), (B, n) -> (B, 1, C); the weights stay as
    small."""
    with without_autocast(dropped):
        return (attention[:, None] @ dropped.to(attention.dtype)).to(dropped.dtype)


@dataclass(frozen=True)
class Drop:
    """One layer's drop of tokens: (B, n, V) became the kept ones, and a fused one after them.

    order: (B, n) int64, the kept tokens followed by the dropped ones.
    rebuilt: values of the kept tokens to values of the dropped ones. fused: whether a fused token is there.
    """

    order: Tensor
    kept: int
    rebuilt: Reconstruction
    fused: bool = True

    def undo(self, values: Tensor) -> Tensor:
        """Undo the removal: (B, kept, V), with or without the fused token after them -> (B, n, V)."""
        values = values[:, : self.kept]
        return take(torch.cat([values, self.rebuilt(values)], 1), self.place)

    @property
    def place(self) -> Tensor:
        """Where each token is in that order, (B, n) int64."""
        return self.order.argsort(-1)

    def index(self) -> Tensor:
        """Return token that each became, (B, n) int64: the fused one, or -1 where there is none, if it was dropped."""
        place = self.place
        return torch.where(place < self.kept, place, self.kept if self.fused else -1)


@dataclass(frozen=True)
class Drops:
    """All drops of a forward: EViT's record. Called with values per token, (B, T, V), it gives them per patch."""

    steps: tuple[Drop, ...]

    def __call__(self, values: Tensor) -> Tensor:
        for step in reversed(self.steps):
            values = step.undo(values)
        return values

    def places(self) -> Tensor:
        """Return the token that represents each patch, (B, N) int64; -1 for dropped patches without a fused token."""
        index = self.steps[0].index()
        for step in self.steps[1:]:
            index = torch.where(index < 0, index, step.index().gather(1, index.clamp_min(0)))
        return index


@dataclass(frozen=True)
class EViT(Reduction):
    """Drop the tokens least attended by the class token, fuse them into one, and rebuild them after the last layer.

    keep_rate: share of tokens that stay, above 0 and up to 1, a number or one per entry of layers.
    layers: layer numbers from 1 whose attention decides; tokens drop before their MLP. None: 8, 14 and 20 of 24 as
        published, in proportion of the depth. fuse_token: leave the sum of the dropped tokens, weighted by their class
        attention, in their place.
    k, reconstruct_temperature: each dropped token is rebuilt after the final norm from its k nearest kept tokens, see
        expedite.reconstruction_weights().
    Needs a class token; distillation and register tokens stay. Raises ConfigError for settings outside these.
    """

    keep_rate: float | Sequence[float] = 0.8
    layers: Sequence[int] | None = None
    fuse_token: bool = True
    k: int = 1
    reconstruct_temperature: float = 0.005

    count_rule: ClassVar[str] = 'expedite'
    needs_class_token: ClassVar[bool] = True
    indexed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        layers = None if self.layers is None else check_layers(self.layers)
        self._settle(layers=layers, keep_rate=_check_keep_rate(self.keep_rate, layers))
        check_flag('fuse_token', self.fuse_token)
        check_k(self.k)
        check_temperature('reconstruct_temperature', self.reconstruct_temperature)

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Return the defaults: 80 % kept after layers 8, 14 and 20 of 24 as published, in proportion of the depth."""
        layers = {min(max(round(layer * depth / 24), 1), depth) for layer in (8, 14, 20)}
        return dict(keep_rate=0.8, layers=tuple(sorted(layers)))

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Keep rate from 0.98 down to 0.3, dropping early, at the published places, or late."""
        steps = [round(0.98 - 0.02 * step, 2) for step in range(35)]
        steps = [rate for rate in steps if (1 - rate) * math.prod(grid) >= 2]  # one dropped token is fused into one
        places = [(4, 10, 16), (8, 14, 20), (12, 16, 20)]
        spread = [tuple(sorted({scaled_layer(layer / 24, depth) for layer in chosen})) for chosen in places]
        layers = distinct([tuple(own['layers'])] if own.get('layers') else [], spread)
        return [
            Ladder(f'{cls.name}, layers {listed(chosen)}', rungs(own, 'keep_rate', steps, layers=chosen))
            for chosen in layers
        ]

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings that leave these numbers after each entry of layers, the fused token counted."""
        layers, left = tuple(own.get('layers') or cls.defaults(0, depth, grid)['layers']), math.prod(grid)
        rates, fuses = [], bool(own.get('fuse_token', cls.fuse_token))
        for number in check_tokens(tokens, len(layers), left):
            kept = left if number == left else max(number - fuses, 1)
            rates.append(1.0 if kept == left else (kept - 0.5) / left)  # rounded up to exactly kept
            left = kept if kept == left else kept + fuses
        return {**own, 'layers': layers, 'keep_rate': tuple(rates)}

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> EViT:
        layers = check_layers(self.layers or self.defaults(0, depth, grid)['layers'], depth)
        fitted = self._with(layers=layers, keep_rate=_check_keep_rate(self.keep_rate, layers))
        before = num_tokens = math.prod(grid)
        for dropped, kept, layer in fitted.drops(num_tokens):
            if self.k > kept:
                raise ConfigError(f'k must be at most the {kept} tokens that layer {layer} keeps, got {self.k}.')
            num_tokens -= dropped
        if num_tokens == before:
            fitted._warn_idle(num_tokens)
        return fitted

    def drops(self, num_tokens: int) -> Iterator[tuple[int, int, int]]:
        """Return numbers of tokens that each dropping layer drops and keeps, prefix left out, and the layer's
        number."""
        for layer in self.layers or ():
            kept = self.kept(num_tokens, layer)
            if kept < num_tokens:
                yield num_tokens - kept, kept, layer
                num_tokens = kept + self.fuse_token

    def closed_forms(self, grid: Grid, width: int) -> dict[tuple[str, str], int]:
        drops = self.drops(math.prod(grid))
        macs = sum(reconstruction_macs(dropped, kept, width, self.k) for dropped, kept, _ in drops)
        return {('restoring', 'reconstruction'): macs} if macs else {}

    def kept(self, num_tokens: int, layer: int) -> int:
        """Return how many of num_tokens (prefix left out, a fused one counted) stay after a layer's attention."""
        rate = self._rate(layer)
        return num_tokens if rate is None else math.ceil(rate * num_tokens)

    def _rate(self, layer: int) -> float | None:
        """Return the rate of a layer that drops tokens; None for other layers."""
        layers, rates = self.layers or (), self.keep_rate
        if layer not in layers:
            return None
        return rates[layers.index(layer)] if isinstance(rates, Sequence) else rates

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor | None]:
        num_tokens = y.shape[1] - tokens.num_prefix
        if self.kept(num_tokens, layer) == num_tokens:
            return attend(y, tokens), None
        ((q, k, v),) = attend.heads(y, tokens)
        with record_function('mmseg_tr::merge'):
            attention = class_attention(q, k, q.shape[-1] ** -0.5, tokens.num_prefix)
        return attend.output([attend.attend(q, k, v)], y, tokens), attention

    def after_attention(self, tokens: Tokens, layer: int, seen: Any) -> Tokens:
        if seen is None:
            self._warn_where_idle(tokens, layer)
            return tokens
        with record_function('mmseg_tr::merge'):
            return self._dropped(tokens, seen, self.kept(seen.shape[1], layer))

    def after_norm(self, tokens: Tokens) -> Tokens:
        return tokens.restored()

    def _dropped(self, tokens: Tokens, attention: Tensor, num_kept: int) -> Tokens:
        """Keep the most attended tokens, and how to rebuild the others. attention: (B, n)."""
        attention, order = by_attention(attention)
        ordered = take(tokens.patches().x, order)
        kept, dropped = ordered[:, :num_kept], ordered[:, num_kept:]
        parts = [tokens.x[:, : tokens.num_prefix], kept]
        if self.fuse_token:
            parts.append(fused(dropped, attention[:, num_kept:]))
        weights = reconstruction_weights(dropped, kept, min(self.k, num_kept), self.reconstruct_temperature)
        step = Drop(order, num_kept, Reconstruction(weights), self.fuse_token)
        earlier = tokens.reconstruct.steps if isinstance(tokens.reconstruct, Drops) else ()
        return tokens.replace(x=torch.cat(parts, 1), size=None, rectangle=None, reconstruct=Drops((*earlier, step)))

    def _warn_where_idle(self, tokens: Tokens, layer: int) -> None:
        """Warn once if the first layer that should drop tokens has too few."""
        if (self._rate(layer) or 1) < 1 and tokens.reconstruct is None:
            self._warn_idle(tokens.x.shape[1] - tokens.num_prefix)

    def _warn_idle(self, num_tokens: int) -> None:
        warnings.warn(f'EViT: keep_rate={self.keep_rate} drops none of {num_tokens} tokens.', stacklevel=2)


def _check_keep_rate(keep_rate: Any, layers: tuple[int, ...] | None) -> float | tuple[float, ...]:
    """Return one rate for every layer, a single one where the layers are not known yet."""
    single = is_number(keep_rate)
    count = 1 if layers is None else len(layers)
    rates = (keep_rate,) * count if single else keep_rate
    if not isinstance(rates, list | tuple) or len(rates) != len(layers or rates):
        raise ConfigError(f'keep_rate must be a number, or one for each of layers={layers}, got {keep_rate!r}.')
    for rate in rates:
        check_number(f'keep_rate={keep_rate!r}: a rate', rate, 0, 1, open_below=True)
    return float(keep_rate) if single and layers is None else tuple(map(float, rates))
