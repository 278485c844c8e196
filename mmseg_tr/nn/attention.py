"""The one attention function of this package: timm's Attention modules on torch's scaled_dot_product_attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor

from mmseg_tr.reduction.tokens import Tokens


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v on a fused kernel. q: (B, H, M, d); k, v: (B, H, N, d) -> (B, H, M, d)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


@dataclass(frozen=True)
class SelfAttention:
    """Attention of one block, in the pieces that a token-reduction method may want to step between.

    Packed images go through the linear layers together and through attention one by one, so that nothing is padded.
    """

    module: Attention

    def __call__(self, y: Tensor, tokens: Tokens) -> Tensor:
        """Every image attends to itself. y: normed tokens, laid out as tokens.x; returns the same layout."""
        return self.output([self.attend(*qkv) for qkv in self.heads(y, tokens)], y, tokens)

    def heads(self, y: Tensor, tokens: Tokens) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Queries, keys and values per group of tokens.groups(), each (B, H, N, d), behind their norms if any."""
        split = (3, self.module.num_heads, self.module.head_dim)
        groups = tokens.groups(self.module.qkv(y))
        qkv = (group.unflatten(-1, split).permute(2, 0, 3, 1, 4).unbind(0) for group in groups)
        return [(self.module.q_norm(q), self.module.k_norm(k), v) for q, k, v in qkv]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """scaled_attention with this block's dropout."""
        return scaled_attention(q, k, v, bias, self.module.attn_drop.p if self.module.training else 0.0)

    def output(self, groups: list[Tensor], y: Tensor, tokens: Tokens) -> Tensor:
        """Heads (B, H, N, d) per group joined, gated where the model is, and projected; laid out as tokens.x."""
        module = self.module
        joined = module.norm(tokens.join([group.transpose(1, 2).flatten(2) for group in groups]))
        if getattr(module, 'gate', None) is not None:
            joined = joined * module.gate(y).sigmoid()
        return module.proj_drop(module.proj(joined))


def attention_probabilities(attn: Attention, x: Tensor) -> Tensor:
    """Attention of the normed tokens x (B, N, C) as probabilities, (B, H, N, N), for those who want to look at it."""
    ((q, k, _),) = SelfAttention(attn).heads(x, Tokens(x, grid=(1, x.shape[1])))
    return torch.softmax(q @ k.transpose(-2, -1) * attn.head_dim**-0.5, dim=-1)
