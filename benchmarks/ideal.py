"""The ideal of a token reduction: the same token counts, obtained by slicing instead of matching.

    ideal = sliced_network(model, batch)   # its output is meaningless, its time is a lower bound

Needs torch and timm only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tr.analysis.macs import evaluating
from mmseg_tr.analysis.network import find_backbone, reduction_of, with_reduction
from mmseg_tr.nn.backbone import same_weights
from mmseg_tr.reduction import Reduction, Tokens
from mmseg_tr.reduction.base import Embedded
from mmseg_tr.reduction.observe import Observer
from mmseg_tr.reduction.segformerpp.mergers import Grid, Merger, Shorter, StageMerging

Counts = tuple[int, ...]  # tokens of every image of a batch, prefix included


@dataclass
class LayerCounts:
    """Token counts inside one block: that enter it, that attend, with how many queries, that follow the residual
    of attention, and that enter the MLP."""

    enter: Counts = ()
    attend: Counts = ()
    queries: Counts = ()
    middle: Counts = ()
    mlp: Counts = ()


@dataclass
class Recorder(Observer):
    """Run another method and record its token counts."""

    layers: dict[int, LayerCounts] = field(default_factory=dict)
    last: Counts = ()  # that leave the last block
    final: Counts = ()  # that leave the backbone

    def attention(self, attend, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        seen = Witness(attend)
        result = self.method.attention(seen, y, tokens, layer)
        self.layers[layer] = LayerCounts(tokens.counts, seen.counts or tokens.counts, tuple(seen.queries))
        return result

    def after_attention(self, tokens: Tokens, layer: int, seen: Any) -> Tokens:
        tokens = self.method.after_attention(tokens, layer, seen)
        self.layers[layer].middle = tokens.counts
        return tokens

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        def watched(x: Tensor) -> Tensor:
            self.layers[layer].mlp = tokens.counts if x.shape == y.shape else (x.shape[1],) * len(x)
            return mlp(x)

        return self.method.mlp(watched, y, tokens, layer)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        tokens = self.method.after_block(tokens, layer)
        self.last = tokens.counts
        return tokens

    def after_norm(self, tokens: Tokens) -> Tokens:
        tokens = self.method.after_norm(tokens)
        self.final = tokens.counts
        return tokens


class Witness:
    """SelfAttention that records its numbers of tokens and queries."""

    def __init__(self, attend) -> None:
        self.inner, self.counts, self.queries = attend, (), []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, y: Tensor, tokens: Tokens) -> Tensor:
        return self.output([self.attend(*qkv) for qkv in self.heads(y, tokens)], y, tokens)

    def heads(self, y: Tensor, tokens: Tokens) -> list[tuple[Tensor, Tensor, Tensor]]:
        self.counts = tokens.counts
        return self.inner.heads(y, tokens)

    def attend(self, q: Tensor, *args, **kwargs) -> Tensor:
        self.queries += [q.shape[2]] * len(q)
        return self.inner.attend(q, *args, **kwargs)


@dataclass
class Sliced(Reduction):
    """Keep the token counts of a Recorder by slicing: the first tokens of each image."""

    record: Recorder
    prefix: int = 1

    def embed(self, project, image: Tensor, padded: Tensor, position: Tensor) -> Embedded:
        height, width = position.shape[-2:]
        wanted = max(self.record.layers[1].enter) - self.prefix
        rows = -(-wanted // width)
        pixels = padded[..., : rows * (padded.shape[-2] // height), :]
        x = (project(pixels) + position[..., :rows, :]).flatten(2).transpose(1, 2)
        return Embedded(x[:, :wanted])

    def before_block(self, tokens: Tokens, layer: int) -> Tokens:
        return resized(tokens, self.record.layers[layer].enter)

    def attention(self, attend, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, None]:
        counts = self.record.layers[layer]
        if counts.attend != tokens.counts:
            short = cut(y, tokens.counts, counts.attend)
            return filled(attend(short, tokens.replace(x=short)), y), None
        if counts.queries == tokens.counts:
            return attend(y, tokens), None
        groups, out = attend.heads(y, tokens), []
        for (q, k, v), queries in zip(groups, counts.queries):
            out.append(filled(attend.attend(q[:, :, :queries], k, v), q, dim=2))
        return attend.output(out, y, tokens), None

    def after_attention(self, tokens: Tokens, layer: int, seen: None) -> Tokens:
        return resized(tokens, self.record.layers[layer].middle)

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        wanted = self.record.layers[layer].mlp
        return mlp(y) if wanted == tokens.counts else filled(mlp(cut(y, tokens.counts, wanted)), y)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        following = self.record.layers.get(layer + 1)
        return resized(tokens, following.enter if following else self.record.last)

    def after_norm(self, tokens: Tokens) -> Tokens:
        tokens = resized(tokens, self.record.final)
        lengths = tuple(n - tokens.num_prefix for n in tokens.counts)
        patches = tokens.grid[0] * tokens.grid[1]
        return tokens if set(lengths) == {patches} else tokens.replace(reconstruct=FirstOnly(lengths, patches))


@dataclass(frozen=True)
class FirstOnly:
    """Values per token to values per patch: those there are, then zeros. The least that a map costs."""

    lengths: Counts
    patches: int

    def __call__(self, values: Tensor) -> Tensor:
        rows = [values] if len(values) == len(self.lengths) else values.split(self.lengths, dim=1)
        out = values.new_zeros(len(self.lengths), self.patches, values.shape[-1])
        for place, row in zip([slice(None)] if len(rows) == 1 else range(len(rows)), rows):
            out[place, : row.shape[1]] = row if len(rows) == 1 else row[0]
        return out


def cut(x: Tensor, counts: Counts, wanted: Counts) -> Tensor:
    """Return the first wanted[b] of counts[b] tokens of each image, in the layout of Tokens.x."""
    if counts == wanted:
        return x
    images = list(x.split(counts, dim=1)) if len(x) < len(counts) else list(x.split(1))
    if len(set(wanted)) == 1 and len(x) == len(counts):
        return x[:, : wanted[0]]
    images = [image[:, :count] for image, count in zip(images, wanted)]
    return torch.cat(images, dim=0 if len(set(wanted)) == 1 else 1)


def filled(x: Tensor, whole: Tensor, dim: int = 1) -> Tensor:
    """Append the end of `whole` to x, so that both have the same length."""
    return torch.cat([x, whole.narrow(dim, x.shape[dim], whole.shape[dim] - x.shape[dim])], dim)


def resized(tokens: Tokens, wanted: Counts) -> Tokens:
    """Cut tokens to the counts, or pad them with zeros."""
    if tokens.counts == wanted:
        return tokens
    if max(wanted) > max(tokens.counts):
        rows = [F.pad(group, (0, 0, 0, wanted[0] - group.shape[1])) for group in tokens.groups()]
        return tokens.replace(x=torch.cat(rows), lengths=None)
    return tokens.replace(
        x=cut(tokens.x, tokens.counts, wanted), lengths=wanted if len(set(wanted)) > 1 else None, reconstruct=None
    )


@lru_cache(maxsize=256)
def remaining(merger: Merger, tokens: int, grid: Grid) -> int:
    """Return how many tokens of a grid a merger keeps."""
    return merger(torch.empty(1, tokens, 1, device='meta'), grid)[0].shape[1]


@dataclass(frozen=True)
class Slice:
    """Replacement for a merger of SegFormer++ that keeps the first tokens."""

    merger: Merger

    def match(self, x: Tensor, grid: Grid) -> None:
        """Slice without comparing tokens."""

    def __call__(self, x: Tensor, grid: Grid, merge: None = None) -> Shorter:
        return x[
            :, : remaining(self.merger, x.shape[1], grid)
        ], lambda values: filled(values, x) if values.shape[-1] == x.shape[-1] else values

    def reaches(self, grid: Grid) -> bool:
        return self.merger.reaches(grid)


@torch.inference_mode()
def token_counts(model: nn.Module, batch: Tensor) -> Recorder:
    """Return the token counts of a forward of a network whose ViT reduces tokens."""
    recorder = Recorder(reduction_of(model))
    with evaluating(model):
        find_backbone(model).forward_tokens(batch, reduction=recorder)
    return recorder


def sliced_network(model: nn.Module, batch: Tensor, record: Recorder | None = None) -> nn.Module:
    """Return the network with the token counts of this batch, obtained by slicing. Modules and weights are shared.

    model: with mmseg_tr's ViT and a reduction, or with mmseg_tr's MiT, whose counts depend on the size alone.
    record: the result of token_counts() for the batch, if known.
    """
    if len(find_backbone(model).depths) > 1:
        reduction = reduction_of(model)
        ideal = same_weights(model)
        find_backbone(ideal).reduction = reduction.with_merging([_sliced_stage(stage) for stage in reduction.merging])
        return ideal
    return with_reduction(model, Sliced(record or token_counts(model, batch), find_backbone(model).num_prefix))


def _sliced_stage(stage: StageMerging) -> StageMerging:
    return replace(stage, queries=stage.queries and Slice(stage.queries), keys=stage.keys and Slice(stage.keys))
