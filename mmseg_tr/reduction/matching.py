"""Bipartite soft matching (Bolya et al., ToMe, section 3), its variants and their merges, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_tr.errors import ConfigError


@dataclass(frozen=True)
class Merge:
    """Which tokens join: the place of every input token in the merged order of its image.

    index: (B, T) int64, or (1, sum of T) when images differ in length; places count from 0 in each image, prefix
        included.
    lengths: tokens left in each image, prefix included; one entry per image.
    similarity: what was compared, for reports: (B, windows) or one row per image of best scores.
    """

    index: Tensor
    lengths: tuple[int, ...]
    similarity: tuple[Tensor, ...] = ()

    @property
    def packed(self) -> bool:
        """Whether the merged images differ in length, and so lie one behind another in one row."""
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

    def _apply_by_products(self, x: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
        """apply() without additions to computed places, which ONNX has no exact operator for on every runtime."""
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
        """Give every input token the values of the token it went into, in the old order.

        values: (B, T', K), or (1, sum of T', K) when packed. Returns rows laid out as index, (B, T, K).
        """
        return values.flatten(0, 1).index_select(0, self.target(in_lengths)).view(*self.index.shape, -1)


def per_image(length: int, batch: int) -> tuple[int, ...]:
    """A number that is the same for every image of a batch, as the lengths of Merge and Tokens hold it.

    Once per image; a single time while a program for any batch is exported, when the batch is a symbol.
    """
    return (length,) if exporting() and isinstance(batch, torch.SymInt) else (length,) * batch


def exporting() -> bool:
    """Whether torch.export traces this forward."""
    asked = getattr(torch.compiler, 'is_exporting', None)  # torch < 2.7 does not tell export from compilation
    return asked() if asked else torch.compiler.is_compiling()


def host_numbers(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers that the host knows as (n,) int64 on a device, without waiting for it as torch.tensor() would."""
    return torch.tensor(numbers, dtype=torch.int64).to(device, non_blocking=True)


def of_one_shape(constant: Tensor) -> Tensor:
    """Tell torch.compile that a constant keeps its shape though others of its name have another."""
    constant._dynamo_static_indices = set(range(constant.dim()))  # torch._dynamo.mark_static() without its import
    return constant


@torch.compiler.disable
def decided(counts: Tensor) -> list[int]:
    """What an adaptive method decided, (n,) whole numbers, as shapes need it.

    The one step at which the host waits for the device, and at which torch.compile breaks its graph: on purpose.
    """
    return counts.tolist()


def running_starts(lengths: tuple[int, ...]) -> list[int]:
    """Where each image begins in a packed row of images of these lengths."""
    starts = [0]
    for length in lengths[:-1]:
        starts.append(starts[-1] + length)
    return starts


def stat_dtype(x: Tensor) -> torch.dtype:
    """float32 for similarities and sizes of half-precision tokens, the tokens' own precision otherwise."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Products keep the precision of their factors inside; x tells the device."""
    # the meta device, on which multiply-adds are counted, knows no autocast
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def unit(x: Tensor) -> Tensor:
    """Rows of x divided by their length, in float32 at least; a zero row stays zero, so that its similarity is 0."""
    x = x.to(stat_dtype(x))
    return x / length(x)[..., None]


def length(x: Tensor) -> Tensor:
    """Length of every row, (..., C) -> (...); never 0, so that one can divide by it."""
    # below this length the squares underflow, and what is left of the length would say nothing
    return x.norm(dim=-1).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)


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
    """Most similar destination of every source: sources stand at even places, destinations at odd ones.

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


def bipartite_index(rank: Tensor, partner: Tensor, r: Tensor, num_tokens: int, num_prefix: int) -> Tensor:
    """Place of every token once the r[b] best-ranked sources have joined their partners.

    rank, partner: (B, ceil(T/2)) int64; r: (B,) int64. The merged order is: prefix, remaining sources, destinations,
    each in their old order; without a prefix the remaining sources stay as ranked, as published. Returns (B, T) int64.
    """
    protected_a, protected_b = (num_prefix + 1) // 2, num_prefix // 2
    num_b = num_tokens // 2
    if not num_b:
        return torch.zeros_like(rank)
    merged = rank < r[:, None]  # (B, nA)
    kept_place = (~merged).cumsum(-1) - 1 if num_prefix else rank - r[:, None]
    dst_place = torch.arange(num_b, device=rank.device) + (rank.shape[1] - r)[:, None]  # (B, nB)
    if protected_b:  # with one prefix token, the first source, all places are right already
        prefix = torch.arange(num_prefix, device=rank.device)
        kept_place[:, protected_a:] += protected_b
        kept_place[:, :protected_a] = prefix[::2]
        dst_place[:, :protected_b] = prefix[1::2]
    src_place = torch.where(merged, dst_place.gather(1, partner), kept_place)
    pairs = torch.stack([src_place[:, :num_b], dst_place], 2).flatten(1)
    return torch.cat([pairs, src_place[:, num_b:]], 1)


@torch.no_grad()
def bipartite_matching(metric: Tensor, r: int, num_prefix: int = 1) -> Merge:
    """Join the r sources that are most similar to a destination with it (bipartite soft matching).

    metric: (B, T, C). r is cut to half of the tokens that are not protected, (T - num_prefix) // 2, as published; 0 or
    less joins nothing and keeps the order. Merged order as in bipartite_index().
    """
    batch, num_tokens = metric.shape[:2]
    r = min(r, (num_tokens - num_prefix) // 2)
    if r <= 0:
        return identity(metric)
    score, partner = best_partners(metric, num_prefix)
    counts = torch.full((batch,), r, device=metric.device)
    index = bipartite_index(descending_rank(score), partner, counts, num_tokens, num_prefix)
    return Merge(index, per_image(num_tokens - r, batch), (score,))


@torch.no_grad()
def kth_matching(metric: Tensor, k: int, num_prefix: int = 0) -> Merge:
    """In every run of k tokens the first k - 1 are sources, the last is a destination; all sources join.

    metric: (B, T, C). Runs begin behind the prefix. Every source goes to its most similar destination anywhere. Merged
    order: prefix, destinations, then the T % k tokens that fill no run and remain as they are (the published form
    loses them).
    """
    batch, num_tokens = metric.shape[:2]
    num_dst = (num_tokens - num_prefix) // max(k, 1)
    if k <= 1 or num_dst < 1:
        return identity(metric)
    end = num_prefix + num_dst * k
    runs = metric[:, num_prefix:end].unflatten(1, (num_dst, k))  # (B, n, k, C)
    score, partner = most_similar(runs[:, :, :-1].flatten(1, 2), runs[:, :, -1])
    place = torch.arange(num_dst, device=metric.device).expand(batch, -1)[..., None]  # of the destinations
    place = torch.cat([partner.unflatten(1, (num_dst, k - 1)), place], 2).flatten(1) + num_prefix
    gone = num_dst * (k - 1)
    old = torch.arange(num_tokens, device=metric.device).expand(batch, -1)
    index = torch.cat([old[:, :num_prefix], place, old[:, end:] - gone], 1)
    return Merge(index, per_image(num_tokens - gone, batch), (score,))


@torch.no_grad()
def random_matching(metric: Tensor, r: int, numbers: Tensor, num_prefix: int = 0) -> Merge:
    """r random tokens are sources, all others destinations; all sources join.

    metric: (B, T, C). numbers: (B or 1, T - num_prefix) uniform; the tokens behind the prefix in ascending order of
    their numbers are first sources, then destinations. Every source goes to its most similar destination. Merged order:
    prefix, destinations in ascending order of their numbers. r is cut so that one destination remains.
    """
    batch, num_tokens = metric.shape[:2]
    r = min(r, num_tokens - num_prefix - 1)
    if r <= 0:
        return identity(metric)
    order = numbers.argsort(dim=-1, stable=True).expand(batch, -1)
    drawn = metric[:, num_prefix:].gather(1, order[..., None].expand(-1, -1, metric.shape[-1]))
    score, partner = most_similar(drawn[:, :r], drawn[:, r:])
    place = torch.arange(num_tokens - num_prefix - r, device=metric.device).expand(batch, -1)  # of the destinations
    place = torch.empty_like(order).scatter_(1, order, torch.cat([partner, place], 1)) + num_prefix
    prefix = torch.arange(num_prefix, device=metric.device).expand(batch, -1)
    return Merge(torch.cat([prefix, place], 1), per_image(num_tokens - r, batch), (score,))


def identity(x: Tensor) -> Merge:
    """The merge that joins nothing, for tokens (B, T, C)."""
    batch, num_tokens = x.shape[:2]
    return Merge(torch.arange(num_tokens, device=x.device).expand(batch, -1), per_image(num_tokens, batch))
