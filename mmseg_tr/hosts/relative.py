"""Attention with decomposed relative positions (SAM), in fused kernels.

The bias of a query at row i to a key at row j is q . R[i - j], and the same for columns. It enters attention exactly as
further channels: of a query, its products with R for every row and column of keys; of a key, a one for its row and one
for its column. No matrix of queries times keys is kept, and kernels without a bias fit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.nn.attention import SelfAttention
from mmseg_tr.reduction import Merge, Tokens
from mmseg_tr.reduction.ops import stat_dtype


class RelativeAttention(SelfAttention):
    """Attention of SAM in timm. Tokens have the mean coordinates of their patches, between which positions are linear.

    Queries and keys have further channels than values, for their positions.
    """

    returns_weights = False

    def __call__(self, y: Tensor, tokens: Tokens) -> Tensor:
        return self.output([self.attend(*qkv) for qkv in self.heads(y, tokens)], y, tokens)

    @property
    def num_heads(self) -> int:
        return self.module.num_heads

    def packed_heads(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.module.qkv(y).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        return self.module.q_norm(q), self.module.k_norm(k), v

    def heads(self, y: Tensor, tokens: Tokens) -> list[tuple[Tensor, Tensor, Tensor]]:
        q, k, v = (part.transpose(1, 2) for part in self.packed_heads(y))  # (B, H, N, d)
        if not self.module.use_rel_pos:
            return [(q, k, v)]
        tables = self.module.rel_pos_h, self.module.rel_pos_w
        if tokens.inner is None:
            more_q, more_k = on_grid(q, tokens.grid, tables)
        else:
            more_q, more_k = between(q, mean_coordinates(tokens.inner, tokens), tokens.grid, tables)
        more_q = more_q * q.shape[-1] ** 0.5  # what attention divides by
        fill = q.new_zeros(*q.shape[:-1], -(q.shape[-1] + more_q.shape[-1]) % 8)  # kernels want whole eights
        q = torch.cat([q, more_q, fill], -1)
        return [(q, torch.cat([k, more_k.to(k.dtype).expand(*k.shape[:3], -1), fill], -1), v)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        if size is not None:
            raise NotImplementedError('attention with relative positions takes no sizes of tokens')
        d = v.shape[-1]
        v = F.pad(v, (0, q.shape[-1] - d))
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, scale=d**-0.5)[..., :d]

    def project(self, joined: Tensor, y: Tensor) -> Tensor:
        return self.module.proj_drop(self.module.proj(joined))


class SamAttention(RelativeAttention):
    """Attention of SAM in transformers; returns no probabilities."""

    returns_weights = True

    @property
    def num_heads(self) -> int:
        return self.module.num_attention_heads

    def packed_heads(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.module.qkv(y).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)

    @property
    def dropout(self) -> float:
        return self.module.dropout if self.module.training else 0.0

    def project(self, joined: Tensor, y: Tensor) -> Tensor:
        return self.module.proj(joined)


def resized_table(table: Tensor, side: int) -> Tensor:
    """Return the table of a side, (2 * side - 1, d), linearly from one of another length, as SAM does."""
    if table.shape[0] == 2 * side - 1:
        return table
    return F.interpolate(table.T[None], size=2 * side - 1, mode='linear')[0].T


def on_grid(q: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return further channels of queries (B, H, h*w, h + w) and of keys (h*w, h + w), for one token per patch.

    q: (B, H, h*w, d). tables: of rows and of columns, of any length.
    """
    h, w = grid
    rows, columns = (
        resized_table(table, side).to(q.dtype)[_differences(side, q.device)] for table, side in zip(tables, grid)
    )
    q = q.unflatten(2, grid)
    of_rows = torch.einsum('bnhwc,hkc->bnhwk', q, rows)
    of_columns = torch.einsum('bnhwc,wkc->bnhwk', q, columns)
    ones = [torch.eye(side, device=q.device, dtype=q.dtype) for side in grid]
    keys = torch.cat([ones[0].repeat_interleave(w, 0), ones[1].repeat(h, 1)], 1)
    return torch.cat([of_rows, of_columns], -1).flatten(2, 3), keys


def _differences(side: int, device: torch.device) -> Tensor:
    """Place in a table of the position of a query minus that of a key, (side, side)."""
    place = torch.arange(side, device=device)
    return place[:, None] - place + side - 1


def mean_coordinates(merge: Merge, tokens: Tokens) -> Tensor:
    """Return the row and column of tokens that merged inside a layer, (B, T, 2): the mean over their patches."""
    h, w = tokens.grid
    place = torch.arange(h * w, device=tokens.x.device)
    grid = torch.stack([place // w, place % w], 1).to(stat_dtype(tokens.x))
    return merge.apply(grid.expand(tokens.x.shape[0], -1, -1), None, (h * w,) * tokens.x.shape[0])[0]


def between(q: Tensor, at: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """As on_grid(), of tokens at any coordinates: keys (B, 1, T, h + w). q: (B, H, T, d). at: (B, T, 2)."""
    queries, keys = [], []
    for axis, (side, table) in enumerate(zip(grid, tables)):
        products = q @ resized_table(table, side).to(q.dtype).T  # with every difference, (B, H, T, 2 * side - 1)
        place = at[..., axis]
        low = place.floor()
        rest = (place - low).to(q.dtype)[:, None, :, None]
        first = low.long()[..., None] - torch.arange(side, device=q.device) + side - 1  # (B, T, side)
        pair = [
            products.gather(-1, index[:, None].expand(-1, q.shape[1], -1, -1))
            for index in (first, (first + 1).clamp_max(2 * side - 2))
        ]
        queries.append(pair[0] * (1 - rest) + pair[1] * rest)
        places = torch.arange(side, device=q.device)
        keys.append((1 - (place[..., None] - places).abs()).clamp_min(0).to(q.dtype)[:, None])
    return torch.cat(queries, -1), torch.cat(keys, -1)
