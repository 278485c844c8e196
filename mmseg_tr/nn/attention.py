"""The one attention function of this package: timm's Attention modules on torch's scaled_dot_product_attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor

from mmseg_tr.reduction.tokens import Tokens


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v on a fused kernel. q: (B, H, M, d); k, v: (B, H, N, d) -> (B, H, M, d)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def project_qkv(attn: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of tokens x (B, N, C), each (B, H, N, d), normed where the model does."""
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    return attn.q_norm(q), attn.k_norm(k), v


def self_attention(attn: Attention, x: Tensor, tokens: Tokens) -> Tensor:
    """Self-attention of every image with itself. x is laid out as tokens.x; returns the same layout.

    Packed images go through the linear layers together and through attention one by one, so that nothing is padded.
    """
    dropout = attn.attn_drop.p if attn.training else 0.0
    qkv = attn.qkv(x)
    out = []
    for group in tokens.groups(qkv):
        q, k, v = group.unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        heads = scaled_attention(attn.q_norm(q), attn.k_norm(k), v, dropout=dropout)
        out.append(heads.transpose(1, 2).flatten(2))  # (B, H, N, d) -> (B, N, H*d)
    gated = attn.norm(tokens.join(out))
    if getattr(attn, 'gate', None) is not None:
        gated = gated * attn.gate(x).sigmoid()
    return attn.proj_drop(attn.proj(gated))


def attention_probabilities(attn: Attention, x: Tensor) -> Tensor:
    """Attention of the normed tokens x (B, N, C) as probabilities, (B, H, N, N), for those who want to look at it."""
    q, k, _ = project_qkv(attn, x)
    return torch.softmax(q @ k.transpose(-2, -1) * attn.head_dim**-0.5, dim=-1)
