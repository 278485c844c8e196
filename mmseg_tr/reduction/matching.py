"""Bipartite soft matching (Bolya et al., ToMe, section 3), its variants and their merges, as pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.ops import (
    exporting,
    host_numbers,
    length,
    per_image,
    running_starts,
    stat_dtype,
    unit,
    without_autocast,
)


@dataclass(frozen=True)
class Merge:
    """A matching: the place of every input token in the merged order of its image.

    index: (B, T) int64, or (1, sum of T) when images differ in length; places count from 0 in each image, prefix
        included.
    lengths: tokens left in each image, prefix included; one entry per image.
    similarity: what was compared, for reports: (B, windows) or one row per image of best scores.
    each: how many tokens each entry of similarity that joins removes.
    """

    index: Tensor
    lengths: tuple[int, ...]
    similarity: tuple[Tensor, ...] = ()
    each: int = 1

    @property
    def packed(self) -> bool:
        """Whether the merged images differ in length and are therefore packed into one row."""
        return len(set(self.lengths)) > 1

    def target(self, in_lengths: tuple[int, ...]) -> Tensor:
        """Row of the flattened output for each row of the flattened input, (sum of T,) int64."""
        if not self.packed and (len(in_lengths) == 1 or self.index.shape[0] == len(in_lengths)):
            starts = self.lengths[0] * torch.arange(self.index.shape[0], device=self.index.device)
            return (self.index + starts[:, None]).flatten()
        starts = host_numbers(running_starts(self.lengths), self.index.device)
        if self.index.shape[0] == len(in_lengths):
            return (self.index + starts[:, None]).flatten()
        counts = host_numbers(in_lengths, self.index.device)
        return self.index.flatten() + starts.repeat_interleave(counts, output_size=self.index.numel())

    def apply(self, x: Tensor, size: Tensor | None, in_lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Average the tokens that join, weighted by their sizes (ALGM, section 3.2; ToMe, equation 3).

        x: (B, T, C) or (1, sum of T, C); size: same without C, float32 patches per token, None for all ones.
        Returns x and size of the merged tokens, packed where the lengths differ. Differentiable in x.
        """
        if exporting():
            return self._apply_by_products(x, size)
        target = self.target(in_lengths)
        total = sum(self.lengths)
        weight = torch.ones(target.shape, device=x.device, dtype=stat_dtype(x)) if size is None else size.flatten()
        weighted = x.flatten(0, 1).to(weight.dtype) if size is None else x.flatten(0, 1) * weight[:, None]
        sums = weighted.new_zeros(total, x.shape[-1]).index_add_(0, target, weighted)
        new_size = weight.new_zeros(total).index_add_(0, target, weight)
        shape = (1, total) if self.packed else (len(self.lengths), self.lengths[0])
        return sums.div_(new_size[:, None]).to(x.dtype).view(*shape, -1), new_size.view(shape)

    def sizes(self, size: Tensor | None, like: Tensor, in_lengths: tuple[int, ...]) -> Tensor:
        """Patches per merged token, as apply() gives them; like: (B, T, C), the tokens that `size` belongs to."""
        return self.apply(like[..., :1], size, in_lengths)[1]

    def _apply_by_products(self, x: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
        """apply() without scatter-add, for which ONNX has no exact operator on every runtime."""
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
    """Mean and lowest similarity of what joined in the first image; None where nothing joined or was compared."""
    joins = (merge.index.shape[1] - merge.lengths[0]) // merge.each
    if not merge.similarity or not joins:
        return None
    best = merge.similarity[0][0].sort(descending=True).values[:joins]
    return best.mean().item(), best.min().item()


def most_similar(sources: Tensor, destinations: Tensor, barred: int = 0) -> tuple[Tensor, Tensor]:
    """Cosine of every source with the destination that is most similar to it, and that destination's number.

    sources: (B, M, C); destinations: (B, N, C), the first `barred` of which no source may join. Returns score and
    partner, (B, M) each, float32 at least and int64; lower number first among equals.
    """
    with without_autocast(sources):
        sources = sources.to(stat_dtype(sources))
        products = sources @ unit(destinations).transpose(1, 2)  # (B, M, N)
    if barred:
        products[..., :barred] = -torch.inf
    score, partner = products.max(dim=-1)
    # the length of a source changes nothing about which destination is best: the scores alone are divided by it
    return score / length(sources), partner


def best_partners(metric: Tensor, num_prefix: int) -> tuple[Tensor, Tensor]:
    """Most similar destination of every source: sources are at even places, destinations at odd ones.

    metric: (B, T, C). The first num_prefix tokens (class, distillation, registers) neither leave nor receive.
    Returns score (B, ceil(T/2)), -inf for protected sources, and partner (B, ceil(T/2)) int64 among the destinations.
    Without a destination every score is -inf. Autocast is off inside: scores are float32 at least.
    """
    if metric.shape[1] < 2:
        nobody = metric.new_zeros(metric.shape[:2], dtype=torch.int64)
        return torch.full_like(nobody, -torch.inf, dtype=stat_dtype(metric)), nobody
    protected_a, protected_b = (num_prefix + 1) // 2, num_prefix // 2
    score, partner = most_similar(metric[:, ::2], metric[:, 1::2], protected_b)
    score[:, :protected_a] = -torch.inf
    return score, partner


def descending_rank(score: Tensor) -> Tensor:
    """Place of each entry in the descending order of its row, lower index first among equals. (..., n) -> (..., n)."""
    order = score.argsort(dim=-1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        -1, order, torch.arange(score.shape[-1], device=score.device).expand_as(order)
    )


def merged_places(
    sources: Tensor, destinations: Tensor, partner: Tensor, rank: Tensor, r: Tensor | int, num_prefix: int = 0
) -> Tensor:
    """Place of every token once the r best-ranked sources of each image have joined their partners.

    sources: (S,) or (B, S) and destinations: (D,) or (B, D), numbers of all tokens after the prefix. partner: (B, S),
    numbers among the destinations. rank: (B, S), the order in which sources go. r: (B,), or one number for all images.
    The merged order is: prefix, remaining sources by rank, destinations as listed. Returns (B, E + S + D) int64.
    """
    batch, num_sources = partner.shape
    num_destinations = destinations.shape[-1]
    r = r if isinstance(r, int) else r[:, None]
    of_destination = torch.arange(num_destinations, device=partner.device) + (num_prefix + num_sources - r)
    of_destination = of_destination.expand(batch, -1)
    of_source = rank + (num_prefix - r)
    if num_destinations:
        of_source = torch.where(rank < r, of_destination.gather(1, partner), of_source)
    places = partner.new_empty(batch, num_prefix + num_sources + num_destinations)
    if num_prefix:
        places[:, :num_prefix] = torch.arange(num_prefix, device=partner.device)
    places.scatter_(1, sources.expand(batch, -1), of_source)
    return places.scatter_(1, destinations.expand(batch, -1), of_destination)


def bipartite_index(rank: Tensor, partner: Tensor, r: Tensor | int, num_tokens: int, num_prefix: int) -> Tensor:
    """merged_places() of best_partners(): rank, partner (B, ceil(T/2)) int64 -> (B, T) int64.

    Remaining sources keep their old order after a prefix; without one they stay as ranked, as published.
    """
    protected_a, protected_b = (num_prefix + 1) // 2, num_prefix // 2
    old = torch.arange(num_tokens, device=rank.device)
    sources, destinations = old[2 * protected_a :: 2], old[2 * protected_b + 1 :: 2]
    rank, partner = rank[:, protected_a:], partner[:, protected_a:] - protected_b
    if num_prefix:
        stays = rank >= (r if isinstance(r, int) else r[:, None])
        rank = torch.where(stays, rank.shape[1] + stays.cumsum(1) - stays.sum(1, keepdim=True) - 1, rank)
    return merged_places(sources, destinations, partner.clamp_min(0), rank, r, num_prefix)


@torch.no_grad()
def bipartite_matching(metric: Tensor, r: int, num_prefix: int = 1) -> Merge:
    """Join the r sources that are most similar to a destination with it (bipartite soft matching).

    metric: (B, T, C). r is limited to half of the unprotected tokens, (T - num_prefix) // 2, as published; 0 or
    less joins nothing and keeps the order. Merged order as in bipartite_index().
    """
    batch, num_tokens = metric.shape[:2]
    r = min(r, (num_tokens - num_prefix) // 2)
    if r <= 0:
        return identity(metric)
    score, partner = best_partners(metric, num_prefix)
    index = bipartite_index(descending_rank(score), partner, r, num_tokens, num_prefix)
    return Merge(index, per_image(num_tokens - r, batch), (score,))


@torch.no_grad()
def kth_matching(metric: Tensor, k: int, num_prefix: int = 0) -> Merge:
    """In every run of k tokens the first k - 1 are sources, the last is a destination; all sources join.

    metric: (B, T, C). Runs begin after the prefix. Every source goes to its most similar destination anywhere. Merged
    order: prefix, destinations, then the T % k tokens that fill no run and stay (the published form loses them).
    """
    batch, num_tokens = metric.shape[:2]
    num_dst = (num_tokens - num_prefix) // max(k, 1)
    if k <= 1 or num_dst < 1:
        return identity(metric)
    end = num_prefix + num_dst * k
    runs = metric[:, num_prefix:end].unflatten(1, (num_dst, k))  # (B, n, k, C)
    score, partner = most_similar(runs[:, :, :-1].flatten(1, 2), runs[:, :, -1])
    old = torch.arange(num_tokens, device=metric.device)
    of_runs = old[num_prefix:end].view(num_dst, k)
    destinations = torch.cat([of_runs[:, -1], old[end:]])
    return all_join(of_runs[:, :-1].flatten(), destinations, partner, score, num_prefix)


@torch.no_grad()
def random_matching(metric: Tensor, r: int, numbers: Tensor, num_prefix: int = 0) -> Merge:
    """r random tokens are sources, all others destinations; all sources join.

    metric: (B, T, C). numbers: (B or 1, T - num_prefix) uniform; the tokens after the prefix in ascending order of
    their numbers are first sources, then destinations. Every source goes to its most similar destination. Merged order:
    prefix, destinations in ascending order of their numbers. r is limited so that one destination remains.
    """
    batch, num_tokens = metric.shape[:2]
    r = min(r, num_tokens - num_prefix - 1)
    if r <= 0:
        return identity(metric)
    order = numbers.argsort(dim=-1, stable=True).expand(batch, -1) + num_prefix
    drawn = metric.gather(1, order[..., None].expand(-1, -1, metric.shape[-1]))
    score, partner = most_similar(drawn[:, :r], drawn[:, r:])
    return all_join(order[:, :r], order[:, r:], partner, score, num_prefix)


def all_join(sources: Tensor, destinations: Tensor, partner: Tensor, score: Tensor, num_prefix: int = 0) -> Merge:
    """The merge in which every source joins its partner; arguments as in merged_places()."""
    batch, r = partner.shape
    rank = torch.arange(r, device=partner.device).expand(batch, -1)
    index = merged_places(sources, destinations, partner, rank, r, num_prefix)
    return Merge(index, per_image(index.shape[1] - r, batch), (score,))


def identity(x: Tensor) -> Merge:
    """The merge that joins nothing, for tokens (B, T, C)."""
    batch, num_tokens = x.shape[:2]
    return Merge(torch.arange(num_tokens, device=x.device).expand(batch, -1), per_image(num_tokens, batch))
