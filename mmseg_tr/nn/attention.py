"""The one attention function of this package: timm's Attention modules on torch's scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor

from mmseg_tr.reduction.ops import host_numbers, running_starts
from mmseg_tr.reduction.tokens import Tokens

try:  # older torch has none
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d) + log size) v on a fused kernel. q: (B, H, M, d); k, v: (B, H, N, d) -> (B, H, M, d).

    size: (B, N), how often each key counts; None for once each.
    """
    if size is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    if q.device.type == 'cuda':
        return attention_with_size_channels(q, k, v, size, dropout)
    bias = size.log()[:, None, None].to(q.dtype)  # the CPU's fused kernel takes a bias
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def attention_with_size_channels(q: Tensor, k: Tensor, v: Tensor, size: Tensor, dropout: float = 0.0) -> Tensor:
    """As scaled_attention() with sizes, for kernels that take no bias (flash attention on CUDA): sizes as channels.

    The new channel holds sqrt(d) in queries (1 after scaling), log size in keys, 0 in values. Kernels pad to 8
    channels, so a second one holds the rounding error of the first in half precision.
    """
    d = q.shape[-1]
    exact = size.log()[:, None, :, None]
    coarse = exact.to(k.dtype)
    more = torch.cat([coarse, (exact - coarse).to(k.dtype), coarse.new_zeros(*coarse.shape[:-1], 6)], -1)
    q = torch.cat([q, q.new_full((*q.shape[:-1], 2), d**0.5), q.new_zeros(*q.shape[:-1], 6)], -1)
    k = torch.cat([k, more.expand(-1, k.shape[1], -1, -1)], -1)
    return F.scaled_dot_product_attention(q, k, F.pad(v, (0, 8)), dropout_p=dropout, scale=d**-0.5)[..., :d]


def packed_attention(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Attention within each image of a packed row in one kernel. q, k, v: (1, S, H, d) -> the same, S = sum(lengths).

    For CUDA in half precision, where packed_kernel() is true.
    """
    starts = host_numbers([*running_starts(lengths), sum(lengths)], q.device).to(torch.int32)
    longest = max(lengths)
    kernel: Any = varlen_attn
    return kernel(q[0], k[0], v[0], starts, starts, longest, longest)[None]


def packed_kernel(x: Tensor, dropout: float = 0.0) -> bool:
    """Whether images of different lengths attend in one kernel here, instead of one after another."""
    return varlen_attn is not None and x.is_cuda and x.dtype in (torch.float16, torch.bfloat16) and not dropout


@dataclass(frozen=True)
class SelfAttention:
    """Attention of one block, in the steps between which a token-reduction method may act.

    Packed images go through the linear layers together and through attention one by one, so that nothing is padded.
    """

    module: Attention
    turn: Callable[[Tensor, Tensor, Tokens], tuple[Tensor, Tensor]] | None = None  # queries and keys by position

    def __call__(self, y: Tensor, tokens: Tokens) -> Tensor:
        """Let every image attend to itself. y: normed tokens, laid out as tokens.x; returns the same layout."""
        q, k, v = self.placed_heads(y, tokens)
        if tokens.lengths is not None and packed_kernel(q, self.dropout):
            return self.project(packed_attention(q, k, v, tokens.lengths).flatten(2), y)
        return self.output([self.attend(*qkv) for qkv in self.grouped(q, k, v, tokens)], y, tokens)

    def packed_heads(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (..., N, H, d), after their norms if any."""
        qkv = self.module.qkv(y).unflatten(-1, (3, self.module.num_heads, self.module.head_dim))
        q, k, v = qkv.unbind(-3)
        return self.module.q_norm(q), self.module.k_norm(k), v

    def placed_heads(self, y: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """packed_heads(), turned by their rotary positions where the network has some."""
        q, k, v = self.packed_heads(y)
        return (q, k, v) if self.turn is None else (*self.turn(q, k, tokens), v)

    def grouped(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> list[tuple[Tensor, Tensor, Tensor]]:
        """packed_heads() per group of tokens.groups(), each (B, H, N, d)."""
        groups = (tokens.groups(part) for part in (q, k, v))
        return [tuple(part.transpose(1, 2) for part in group) for group in zip(*groups, strict=True)]

    def heads(self, y: Tensor, tokens: Tokens) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Queries, keys and values per group of tokens.groups(), each (B, H, N, d), after their norms if any."""
        return self.grouped(*self.placed_heads(y, tokens), tokens)

    @property
    def dropout(self) -> float:
        return self.module.attn_drop.p if self.module.training else 0.0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        """scaled_attention with this block's dropout. size: (B, N), how often each key counts."""
        return scaled_attention(q, k, v, size, self.dropout)

    def output(self, groups: list[Tensor], y: Tensor, tokens: Tokens) -> Tensor:
        """Return heads (B, H, N, d) per group joined, gated where the model is, and projected; laid out as tokens.x."""
        return self.project(tokens.join([group.transpose(1, 2).flatten(2) for group in groups]), y)

    def project(self, joined: Tensor, y: Tensor) -> Tensor:
        """Return heads side by side, (..., N, H * d), gated where the model is, and projected."""
        module: Any = self.module
        joined = module.norm(joined)
        if getattr(module, 'gate', None) is not None:
            joined = joined * module.gate(y).sigmoid()
        return module.proj_drop(module.proj(joined))


def attention_probabilities(attn: Attention, x: Tensor) -> Tensor:
    """Attention of the normed tokens x (B, N, C) as probabilities, (B, H, N, N), for pictures."""
    ((q, k, _),) = SelfAttention(attn).heads(x, Tokens(x, grid=(1, x.shape[1])))
    return softmax_scores(q, k)


def softmax_scores(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)), (..., M, d), (..., N, d) -> (..., M, N), for pictures."""
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
