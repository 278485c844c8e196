"""ACT: adaptive clustering of queries by hashing (Zheng et al., BMVC 2021), as Expedite compares it.

The steps are pure functions: bucket_codes() hashes queries, cluster_ids() ranks the codes of a row, cluster_means()
averages each cluster, cluster_values() gives every query its cluster's result; act_attention() is all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.reduction.base import Inside, Reduction
from mmseg_tr.reduction.checks import check_flag, check_integer, check_number, check_precision, check_tokens
from mmseg_tr.reduction.constants import filled, table
from mmseg_tr.reduction.ladder import Dial, Grid, Ladder, rungs
from mmseg_tr.reduction.ops import (
    decided,
    deciding,
    drawn,
    exporting,
    in_rows,
    seeded_generator,
    stat_dtype,
    without_autocast,
)
from mmseg_tr.reduction.tokens import Tokens

CPU = torch.device('cpu')
MAX_HASHES = 32  # two bits each in a code of 64


def _wider(q: Tensor, projection: Tensor) -> torch.dtype:
    """Return float64 where the projection has it, else the dtype in which q is compared."""
    return torch.float64 if projection.dtype == torch.float64 else stat_dtype(q)


@torch.no_grad()
def bucket_codes(q: Tensor, projection: Tensor, offset: Tensor, bucket_width: float = 8) -> Tensor:
    """Return the code of every query: its bucket under each hash, two bits a hash (locality-sensitive hashing).

    q: (..., N, d), scaled as attention scales it; projection: (d, n) Gaussian; offset: (n,) from [0, 1). Buckets are
    floor((q G + b) / width), counted from the lowest of the row; buckets beyond the third carry into the next hash's
    bits, and 64-bit sums wrap around, as published. Returns (..., N) int64. Runs in float32 at least, in float64 with
    a projection of that precision.
    """
    dtype = _wider(q, projection)
    with without_autocast(q):
        bucket = (q.to(dtype) @ projection.to(dtype)).add_(offset.to(dtype)).div_(bucket_width).floor_()
    # whole numbers in floating point, exact up to 2^24 and faster to compare
    bucket = bucket.sub_(bucket.amin(dim=-2, keepdim=True)).long()
    # a shift to the left, which ONNX has for unsigned numbers only
    return (bucket * table(_hash_places, bucket.shape[-1], device=q.device)).sum(-1)


def _hash_places(hashes: int, device: torch.device) -> Tensor:
    return 1 << (2 * torch.arange(hashes, device=device))


@torch.no_grad()
def cluster_ids(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Number the clusters of every row: queries of one code, in ascending order of their (signed) codes.

    codes: (..., N) int64. Returns ids (..., N) int64 from 0 in each row, and how many clusters each row has, (...).
    """
    ranked, order = codes.sort(dim=-1, stable=True)
    first = filled(codes.shape, 0, torch.int64, codes.device)
    if codes.shape[-1] == 1:
        return first, first[..., 0] + 1
    rank = (ranked[..., 1:] != ranked[..., :-1]).cumsum(-1)
    return first.scatter(-1, order[..., 1:], rank), rank[..., -1] + 1


def cluster_means(x: Tensor, ids: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Return mean of every cluster, in float32 at least: x (..., N, d), ids (..., N) -> (..., C, d), members (..., C).

    Clusters that a row does not have are zero rows. Differentiable in x.
    """
    if exporting():  # without additions to computed places, as Merge.apply()
        joins = (ids[..., None, :] == torch.arange(num_clusters, device=ids.device)[:, None]).to(stat_dtype(x))
        members = joins.sum(-1)
        return joins @ x.to(joins.dtype) / members.clamp_min(1)[..., None], members
    rows, dtype = ids.numel() // ids.shape[-1], stat_dtype(x)
    place = in_rows(ids.reshape(rows, -1), num_clusters).flatten()
    sums = filled((rows * num_clusters, x.shape[-1]), 0, dtype, x.device)
    sums = sums.index_add(0, place, x.reshape(-1, x.shape[-1]).to(dtype))
    members = filled((rows * num_clusters,), 0, dtype, x.device)
    members = members.index_add(0, place, filled(place.shape, 1, dtype, x.device))
    shape = (*ids.shape[:-1], num_clusters)
    return (sums / members.clamp_min(1)[:, None]).view(*shape, -1), members.view(shape)


def cluster_values(values: Tensor, ids: Tensor) -> Tensor:
    """Give every query its cluster's result: values (..., C, d), ids (..., N) -> (..., N, d)."""
    rows, clusters = ids.numel() // ids.shape[-1], values.shape[-2]
    place = in_rows(
        ids.reshape(rows, -1), clusters
    ).flatten()  # rows of one table: gather() would read an index per channel
    return values.reshape(-1, values.shape[-1]).index_select(0, place).view(*ids.shape, -1)


class Hashing(NamedTuple):
    """The hashes of a layer: projection (d, n), offset (n,) and width of their buckets, see `bucket_codes`."""

    projection: Tensor
    offset: Tensor
    bucket_width: float = 8


class Clusters(NamedTuple):
    """Clusters of the queries of a layer: ids (..., N) int64, and the largest number of them in a row."""

    ids: Tensor
    number: int


def clusters_of(q: Tensor, hashing: Hashing, factor: float, max_clusters: int | None = None) -> Clusters:
    """Cluster queries by their hashes; arguments as in act_attention(), factor: what attention multiplies q by."""
    scaled = q.detach().to(_wider(q, hashing.projection)) * factor
    ids, counts = cluster_ids(bucket_codes(scaled, *hashing))
    if max_clusters is None:
        return Clusters(ids, decided(counts.max()[None])[0])
    return Clusters(ids.clamp_max(max_clusters - 1), max_clusters)


def act_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hashing: Hashing,
    scale: float | None = None,
    attend: Callable[..., Tensor] = F.scaled_dot_product_attention,
    max_clusters: int | None = None,
    known: Clusters | None = None,
) -> Tensor:
    """Attend with cluster centres instead of queries; every query receives its centre's result.

    q, k, v: (..., N, d), every row of the leading axes (image, head) clustered alone. scale: what attention multiplies
    queries by, d^-1/2 by default, 1 for queries that are scaled already. attend(centres, k, v) is the attention itself,
    which scales by d^-1/2. max_clusters: the number of clusters in every row, the last of which takes all further
    queries. known: clusters of an earlier layer, used instead of new ones. Returns (..., N, d). q and k may have
    further channels, for positions, which are not compared.
    """
    d = v.shape[-1]
    usual = d**-0.5
    factor = usual if scale is None else scale
    with record_function('mmseg_tr::merge'):
        ids, count = known or clusters_of(q[..., :d], hashing, factor, max_clusters)
        centres, _ = cluster_means(q, ids, count)
    out = attend((centres if factor == usual else centres * (factor / usual)).to(q.dtype), k, v)
    with record_function('mmseg_tr::merge'):
        return cluster_values(out, ids)


def draw_hashes(head_dim: int, num_hashes: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw projection (d, n) and offset (n,) on the CPU, from torch's own generator by default."""
    projection = torch.randn(head_dim, num_hashes, generator=generator, device='cpu', dtype=torch.float32)
    return projection, torch.rand(num_hashes, generator=generator, device='cpu', dtype=torch.float32)


def seeded_hashes(head_dim: int, num_hashes: int, seed: int, layer: int, device: torch.device) -> Tensor:
    """Return draw_hashes() of a layer, the offset as a last row: (d + 1, n)."""
    if torch.compiler.is_dynamo_compiling():  # a graph cannot hold a generator, and takes plain numbers
        known = (len(range(number)) for number in (head_dim, num_hashes, seed, layer))  # also of symbols
        return torch.tensor(_hash_numbers(*known), device=device)
    return drawn(lambda: _drawn_hashes(head_dim, num_hashes, seed, layer)).to(device)


def _drawn_hashes(head_dim: int, num_hashes: int, seed: int, layer: int) -> Tensor:
    projection, offset = draw_hashes(head_dim, num_hashes, seeded_generator(seed, layer))
    return torch.cat([projection, offset[None]])


@torch.compiler.assume_constant_result
def _hash_numbers(head_dim: int, num_hashes: int, seed: int, layer: int) -> list[list[float]]:
    return _drawn_hashes(head_dim, num_hashes, seed, layer).tolist()


@dataclass(frozen=True)
class ACT(Reduction):
    """Attend with the centres of query clusters, in every layer; keys, values and all tokens stay.

    q_hashes: hashes per query, 1 to 32; more make finer clusters. bucket_width: width of a hash's buckets.
    seed: hashes are drawn from seed and layer, so that results repeat on every device. redraw: draw new ones at every
    forward from torch's generator instead (published). clusters: attend with this number of clusters per head,
    the last of which takes all further queries; for export, which needs fixed shapes. None: as many as there are.
    precision: of similarities and other decisions, 'float32' or 'float64', see docs/methods/index.md.
    match_every: so many layers use the clusters that the first of them finds; 1 is published.
    Raises ConfigError for settings outside these.
    """

    q_hashes: int = 32
    bucket_width: float = 8
    seed: int = 0
    redraw: bool = False
    clusters: int | None = None
    precision: str = 'float32'
    match_every: int = 1

    count_rule: ClassVar[str] = 'expedite'
    remaining: ClassVar[str] = 'all'
    dial: ClassVar[Dial] = Dial('bucket_width', 1e-4, 1e4, geometric=True)
    indexed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_integer('q_hashes', self.q_hashes, 1, MAX_HASHES)
        check_number('bucket_width', self.bucket_width, 0, open_below=True)
        check_integer('seed', self.seed)
        check_flag('redraw', self.redraw)
        check_precision(self.precision)
        check_integer('match_every', self.match_every, 1)
        if self.clusters is not None:
            check_integer('clusters', self.clusters, 1, hint='or None for as many as there are')

    @property
    def adaptive(self) -> bool:
        """Whether the image decides how many queries attend."""
        return self.clusters is None

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        return dict(q_hashes=32)

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return the hashes per query, from 32 down to 1."""
        return [Ladder(cls.name, rungs(own, 'q_hashes', range(MAX_HASHES, 0, -1)))]

    @classmethod
    def fixed_ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return clusters per head, from as many as there are patches down to one."""
        return [Ladder(cls.name, rungs(own, 'clusters', range(math.prod(grid), 0, -1)))]

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return clusters per head, one number for all layers."""
        return {**own, 'clusters': check_tokens(tokens, 1, math.prod(grid))[0]}

    def unexportable(self) -> str | None:
        if self.redraw:
            return 'ACT draws new hashes at every forward, which an exported program cannot do: leave redraw=True out.'
        if self.clusters is not None:
            return None
        return (
            f'{self.name} lets every image decide how many query clusters attend, which fixed shapes do not '
            'allow: set clusters=N in its reduction.'
        )

    def inside(self, attend: Any, y: Tensor, tokens: Tokens, layer: int, part: str) -> list[Inside]:
        """Return the clusters of every head's queries."""
        if part != 'attention':
            return []
        ((q, _, v),) = attend.heads(y, tokens)
        known = self._handed_on(q, tokens, layer)
        if known is None:
            with torch.random.fork_rng(devices=[]):  # redrawn hashes: the attention draws the same ones again
                hashing = self._hashing(layer, v.shape[-1], y.device)
            known = clusters_of(q[..., : v.shape[-1]], hashing, v.shape[-1] ** -0.5, self.clusters)
        rows = known.ids[0, :, tokens.num_prefix :]
        return [Inside(f'head {head}', row, len(row.unique())) for head, row in enumerate(rows, 1)]

    def hashes(self, layer: int, head_dim: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
        """Return the projection (head_dim, q_hashes) and offset (q_hashes,) of a layer, shared by images and heads."""
        if self.redraw:
            return draw_hashes(head_dim, self.q_hashes)
        both = table(seeded_hashes, head_dim, self.q_hashes, self.seed, layer, device=device)
        return both[:-1], both[-1]

    def _hashing(self, layer: int, head_dim: int, device: torch.device) -> Hashing:
        drawn = (deciding(part, self.precision) for part in self.hashes(layer, head_dim, device))
        projection, offset = (part.to(device, non_blocking=True) for part in drawn)
        return Hashing(projection, offset, self.bucket_width)

    def _handed_on(self, q: Tensor, tokens: Tokens, layer: int) -> Clusters | None:
        """Return clusters that an earlier layer found for this one as well. q: (B, H, N, d)."""
        known = tokens.memo if (layer - 1) % self.match_every else None
        return known if isinstance(known, Clusters) and known.ids.shape == q.shape[:-1] else None

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Clusters | None]:
        groups = attend.heads(y, tokens)
        q, d = groups[0][0], groups[0][2].shape[-1]  # queries may have channels for positions
        hashing = self._hashing(layer, d, y.device)
        known = self._handed_on(q, tokens, layer) if len(groups) == 1 else None
        if self.match_every > 1 and known is None and len(groups) == 1:
            with record_function('mmseg_tr::merge'):
                known = clusters_of(q[..., :d], hashing, d**-0.5, self.clusters)
        settings: dict[str, Any] = dict(attend=attend.attend, max_clusters=self.clusters, known=known)
        out = [act_attention(q, k, v, hashing, **settings) for q, k, v in groups]
        return attend.output(out, y, tokens), known

    def after_attention(self, tokens: Tokens, layer: int, seen: Clusters | None) -> Tokens:
        return tokens if seen is None or seen is tokens.memo else tokens.replace(memo=seen)
