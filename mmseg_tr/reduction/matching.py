"""Bipartite soft matching (Bolya et al., ToMe, section 3), and its variants, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseg_tr.reduction.constants import numbers, table
from mmseg_tr.reduction.merge import Merge, identity
from mmseg_tr.reduction.ops import per_image, unit, without_autocast


def most_similar(sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine of every source with the destination that is most similar to it, and that destination's number.

    sources: (B, M, C); destinations: (B, N, C). Returns score and partner, (B, M) each, float32 at least and int64;
    lower number first among equals.
    """
    with without_autocast(sources):
        score, partner = (unit(sources) @ unit(destinations).transpose(1, 2)).max(dim=-1)
    return score, partner


def best_partners(metric: Tensor, num_prefix: int) -> tuple[Tensor, Tensor]:
    """Return the most similar destination of every source: sources are at even places, destinations at odd ones.

    metric: (B, T, C). The first num_prefix tokens (class, distillation, registers) neither leave nor receive, and are
    left out. Returns score and partner among the destinations, (B, S) each, float32 at least and int64. Without a
    destination every score is -inf. Autocast is off inside.
    """
    with without_autocast(metric):
        u = unit(metric)
        # of all tokens, as published, whose multiply-adds are counted
        products = (u[:, ::2] @ u[:, 1::2].transpose(1, 2))[:, protected_sources(num_prefix) :, num_prefix // 2 :]
    if not products.shape[2]:
        nobody = metric.new_zeros(products.shape[:2], dtype=torch.int64)
        return torch.full_like(nobody, -torch.inf, dtype=u.dtype), nobody
    score, partner = products.max(dim=-1)
    return score, partner


def protected_sources(num_prefix: int) -> int:
    """Return how many of the prefix tokens are at places of sources."""
    return (num_prefix + 1) // 2


def descending_order(score: Tensor) -> Tensor:
    """Return numbers of the entries of each row in descending order, lower index first among equals. (..., n) -> (...,
    n)."""
    return score.argsort(dim=-1, descending=True, stable=True)


def descending_rank(score: Tensor) -> Tensor:
    """Place of each entry in the descending order of its row, lower index first among equals. (..., n) -> (..., n)."""
    order = descending_order(score)
    place = numbers(0, score.shape[-1], device=score.device).expand_as(order)
    return place.scatter(-1, order, place)


def source_places(
    order: Tensor, partner: Tensor, r: int, num_destinations: int, num_prefix: int = 0, sort: bool = False
) -> Tensor:
    """Place of every source once the r first of the order have joined their partners, (B, S) int64.

    order: (B, S), sources as they go, order[:, :r] into the destinations. partner: (B, S), numbers among these. The
    merged order is: prefix, remaining sources in their order (sort: in their old order), destinations.
    """
    batch, num_sources = partner.shape
    left = num_sources - r
    after = numbers(num_prefix + left, num_prefix + left + num_destinations, device=partner.device)
    places = after.expand(batch, -1).gather(1, partner) if num_destinations else partner.clone()
    if not left:
        return places
    stays = order[:, r:]
    stays = stays.sort(-1).values if sort else stays
    return places.scatter_(1, stays, numbers(num_prefix, num_prefix + left, device=order.device).expand(batch, -1))


def merged_places(sources: Tensor, destinations: Tensor, of_source: Tensor, r: int, num_prefix: int = 0) -> Tensor:
    """Place of every token in the merged order of source_places(), (B, E + S + D) int64.

    sources: (S,) or (B, S) and destinations: (D,) or (B, D), numbers of all tokens after the prefix. of_source: (B, S).
    """
    (batch, num_sources), device = of_source.shape, of_source.device
    total, first = num_prefix + num_sources + destinations.shape[-1], num_prefix + num_sources - r
    places = of_source.new_empty(batch, total)
    if num_prefix:
        places[:, :num_prefix] = numbers(0, num_prefix, device=device)
    places.scatter_(1, sources.expand(batch, -1), of_source)
    of_destination = numbers(first, total - r, device=device).expand(batch, -1)
    return places.scatter_(1, destinations.expand(batch, -1), of_destination)


def bipartite_index(
    score: Tensor, partner: Tensor, r: int, num_tokens: int, num_prefix: int, repeats: bool = True
) -> Tensor:
    """Place of every token after best_partners(): score, partner (B, S) -> (B, T) int64.

    Remaining sources keep their old order after a prefix; without one they stay as ranked, as published.
    repeats: whether the same numbers come in every forward, so that what follows from them is kept.
    """
    batch, num_sources, device = *score.shape, score.device
    num_destinations = num_tokens - num_prefix - num_sources
    order = descending_order(score)
    of_source = source_places(order, partner, r, num_destinations, num_prefix, sort=num_prefix > 0)
    if repeats:
        template = table(_destinations_placed, num_tokens, num_prefix, r, device=device).expand(batch, -1)
        sources = numbers(2 * protected_sources(num_prefix), num_tokens, 2, device=device)
        return template.scatter(1, sources.expand(batch, -1), of_source)
    first = num_prefix + num_sources - r
    of_destination = numbers(first, first + num_destinations, device=device).expand(batch, -1)
    prefix = numbers(0, num_prefix, device=device).expand(batch, -1)
    one, other = (of_destination, of_source) if num_prefix % 2 else (of_source, of_destination)
    pairs = torch.stack([one[:, : other.shape[1]], other], 2).flatten(1)
    return torch.cat([prefix, pairs, one[:, other.shape[1] :]], 1)


def _destinations_placed(num_tokens: int, num_prefix: int, r: int, device: torch.device) -> Tensor:
    """Return places of prefix and destinations of a bipartite matching, (T,); those of sources are open."""
    places = torch.arange(num_tokens, device=device)
    destinations = places[2 * (num_prefix // 2) + 1 :: 2]
    first = num_tokens - r - len(destinations)
    destinations.copy_(torch.arange(first, num_tokens - r, device=device))
    return places


@torch.no_grad()
def bipartite_matching(metric: Tensor, r: int, num_prefix: int = 1, repeats: bool = True) -> Merge:
    """Join the r sources that are most similar to a destination with it (bipartite soft matching).

    metric: (B, T, C). r is limited to half of the unprotected tokens, (T - num_prefix) // 2, as published; 0 or
    less joins nothing and keeps the order. Merged order as in bipartite_index().
    """
    batch, num_tokens = metric.shape[:2]
    r = min(r, (num_tokens - num_prefix) // 2)
    if r <= 0:
        return identity(metric)
    score, partner = best_partners(metric, num_prefix)
    index = bipartite_index(score, partner, r, num_tokens, num_prefix, repeats)
    return Merge(index, per_image(num_tokens - r, batch), (score,), protected=protected_sources(num_prefix))


@torch.no_grad()
def unordered_matching(metric: Tensor, r: int, num_prefix: int = 1) -> Merge:
    """As bipartite_matching(), for merges that are undone: in whichever order takes the fewest operators.

    Merged order: destinations, prefix, remaining sources by rank.
    """
    batch, num_tokens = metric.shape[:2]
    r = min(r, (num_tokens - num_prefix) // 2)
    if r <= 0:
        return identity(metric)
    score, partner = best_partners(metric, num_prefix)
    first, device = 2 * protected_sources(num_prefix), metric.device
    stays = descending_order(score)[:, r:]
    left = numbers(num_tokens - r - stays.shape[1], num_tokens - r, device=device)
    of_source = partner.scatter_(1, stays, left.expand(batch, -1))
    template = table(_destinations_first, num_tokens, num_prefix, device=device).expand(batch, -1)
    index = template.scatter(1, numbers(first, num_tokens, 2, device=device).expand_as(of_source), of_source)
    return Merge(index, per_image(num_tokens - r, batch), (score,), protected=protected_sources(num_prefix))


def _destinations_first(num_tokens: int, num_prefix: int, device: torch.device) -> Tensor:
    """Return places of destinations and then of prefix tokens, (T,); those of sources are open."""
    places = torch.arange(num_tokens, device=device)
    destinations = places[2 * (num_prefix // 2) + 1 :: 2]
    destinations.copy_(torch.arange(len(destinations), device=device))
    places[:num_prefix] = len(destinations) + torch.arange(num_prefix, device=device)
    return places


@torch.no_grad()
def kth_matching(metric: Tensor, k: int, num_prefix: int = 0) -> Merge:
    """Join, in every run of k tokens, the first k - 1 into the last: sources and their destination.

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
    of_runs = numbers(num_prefix, end, device=metric.device).view(num_dst, k)
    destinations = torch.cat([of_runs[:, -1], numbers(end, num_tokens, device=metric.device)])
    return all_join(of_runs[:, :-1].flatten(), destinations, partner, score, num_prefix)


@torch.no_grad()
def random_matching(metric: Tensor, r: int, numbers: Tensor, num_prefix: int = 0) -> Merge:
    """Join r random tokens, the sources, into the others, the destinations.

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
    """Return the merge in which every source joins its partner; arguments as in source_places() and merged_places()."""
    r = partner.shape[1]
    of_source = source_places(partner, partner, r, destinations.shape[-1], num_prefix)
    index = merged_places(sources, destinations, of_source, r, num_prefix)
    return Merge(index, per_image(index.shape[1] - r, index.shape[0]), (score,))
