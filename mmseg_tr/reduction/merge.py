"""A merge of tokens: which tokens join, their averages, and how every token gets its values back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.constants import filled, numbers
from mmseg_tr.reduction.ops import (
    exporting,
    host_numbers,
    in_rows,
    per_image,
    running_starts,
    stat_dtype,
    take,
    without_autocast,
)


@dataclass(frozen=True)
class Runs:
    """A merge in which equally many neighbours of a new order join: what averages without additions to computed places.

    order: (B, T) int64, tokens in the order of their places. After the first `single` come `joined` runs of `each`
    tokens that join, then tokens that stay alone.
    """

    order: Tensor
    single: int
    joined: int
    each: int

    def averaged(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and numbers of the tokens that join, (B, T, C) -> (B, T', C), (B, T')."""
        ordered, end = take(x, self.order), self.single + self.joined * self.each
        runs = ordered[:, self.single : end].unflatten(1, (self.joined, self.each))
        means = runs.mean(2, dtype=stat_dtype(x)).to(x.dtype)
        parts = (self.single, 1), (self.joined, self.each), (x.shape[1] - end, 1)
        sizes = [filled((x.shape[0], count), size, stat_dtype(x), x.device) for count, size in parts]
        return torch.cat([ordered[:, : self.single], means, ordered[:, end:]], 1), torch.cat(sizes, 1)


@dataclass(frozen=True)
class Merge:
    """A matching: the place of every input token in the merged order of its image.

    index: (B, T) int64, or (1, sum of T) when images differ in length; places count from 0 in each image, prefix
        included.
    lengths: tokens left in each image, prefix included; one entry per image.
    similarity: what was compared, for reports: (B, windows) or one row per image of best scores; protected: how many
        sources before these can not join.
    each: how many tokens each entry of similarity that joins removes.
    runs: the same merge in another form, where it has one.
    """

    index: Tensor
    lengths: tuple[int, ...]
    similarity: tuple[Tensor, ...] = ()
    each: int = 1
    protected: int = 0
    runs: Runs | None = None

    @property
    def packed(self) -> bool:
        """Whether the merged images differ in length and are therefore packed into one row."""
        return len(set(self.lengths)) > 1

    def target(self, in_lengths: tuple[int, ...]) -> Tensor:
        """Return the row of the flattened output for each row of the flattened input, (sum of T,) int64."""
        device, images = self.index.device, self.index.shape[0]
        if not self.packed and (len(in_lengths) == 1 or images == len(in_lengths)):
            return in_rows(self.index, self.lengths[0]).flatten()
        starts = host_numbers(running_starts(self.lengths), device)
        if images == len(in_lengths):
            return (self.index + starts[:, None]).flatten()
        counts = host_numbers(in_lengths, device)
        return self.index.flatten() + starts.repeat_interleave(counts, output_size=self.index.numel())

    def apply(self, x: Tensor, size: Tensor | None, in_lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Average the tokens that join, weighted by their sizes (ALGM, section 3.2; ToMe, equation 3).

        x: (B, T, C) or (1, sum of T, C); size: same without C, float32 patches per token, None for all ones.
        Returns x and size of the merged tokens, packed where the lengths differ. Differentiable in x.
        """
        if exporting():
            return self._apply_by_products(x, size)
        if size is None and self.runs is not None:
            return self.runs.averaged(x)
        target = self.target(in_lengths)
        total = sum(self.lengths)
        if size is None:
            weight = filled(target.shape, 1, stat_dtype(x), x.device)
            weighted = x.flatten(0, 1).to(weight.dtype)
        else:
            weight = size.flatten()
            weighted = x.flatten(0, 1) * weight[:, None]
        sums = filled((total, x.shape[-1]), 0, weighted.dtype, x.device).index_add(0, target, weighted)
        new_size = filled((total,), 0, weight.dtype, x.device).index_add(0, target, weight)
        shape = (1, total) if self.packed else (len(self.lengths), self.lengths[0])
        return (sums / new_size[:, None]).to(x.dtype).view(*shape, -1), new_size.view(shape)

    def sizes(self, size: Tensor | None, like: Tensor, in_lengths: tuple[int, ...]) -> Tensor:
        """Return patches per merged token, as apply() gives them; like: (B, T, C), the tokens that `size` belongs
        to."""
        return self.apply(like[..., :1], size, in_lengths)[1]

    def _apply_by_products(self, x: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
        """Merge as apply() without scatter-add, for which ONNX has no exact operator on every runtime."""
        if self.packed:
            raise ConfigError('images that keep different numbers of tokens cannot be exported: fix the numbers.')
        place = torch.arange(self.lengths[0], device=x.device)
        joins = (self.index[:, None] == place[:, None]).to(stat_dtype(x))  # (B, T', T)
        joins = joins if size is None else joins * size[:, None]
        new_size = joins.sum(-1)
        with without_autocast(x):
            return (joins @ x.to(joins.dtype) / new_size[..., None]).to(x.dtype), new_size

    def reduce(self, x: Tensor, in_lengths: tuple[int, ...], mode: str) -> Tensor:
        """Join tokens with a plain reduction instead: mode 'mean', 'sum', 'prod', 'amax' or 'amin', sizes ignored."""
        target = self.target(in_lengths)[:, None].expand(-1, x.shape[-1])
        out = x.new_zeros(sum(self.lengths), x.shape[-1])
        out = out.scatter_reduce(0, target, x.flatten(0, 1), mode, include_self=False)
        shape = (1, -1) if self.packed else (len(self.lengths), self.lengths[0])
        return out.view(*shape, x.shape[-1])

    def unmerge(self, values: Tensor, in_lengths: tuple[int, ...]) -> Tensor:
        """Give every input token the values of the token it merged into, in the old order.

        values: (B, T', K), or (1, sum of T', K) when packed. Returns rows laid out as index, (B, T, K).
        """
        return values.flatten(0, 1).index_select(0, self.target(in_lengths)).view(*self.index.shape, -1)


def joined_similarity(merge: Merge) -> tuple[float, float] | None:
    """Return the mean and lowest similarity of what joined in the first image; None where nothing joined or was
    compared."""
    joins = (merge.index.shape[1] - merge.lengths[0]) // merge.each
    if not merge.similarity or not joins:
        return None
    best = merge.similarity[0][0].sort(descending=True).values[:joins]
    return best.mean().item(), best.min().item()


def identity(x: Tensor) -> Merge:
    """Return the merge that joins nothing, for tokens (B, T, C)."""
    batch, num_tokens = x.shape[:2]
    return Merge(numbers(0, num_tokens, device=x.device).expand(batch, -1), per_image(num_tokens, batch))
