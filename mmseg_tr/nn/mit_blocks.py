"""The parts of MiT. Tokens (B, h*w, C) are channels-last maps (B, h, w, C): the same memory, read in both ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from mmseg_tr.cpu import band_rows, in_bands
from mmseg_tr.nn.attention import scaled_attention
from mmseg_tr.reduction.segformerpp.mergers import Grid, Matchings, StageMerging
from mmseg_tr.reduction.tokens import as_map, as_tokens

EPS = 1e-6
NOTHING = Matchings()


class PatchEmbed(nn.Module):
    """Overlapping patches, (B, C, H, W) -> (B, h*w, D) normed and their grid (h, w); h = ceil(H / stride)."""

    def __init__(self, in_channels: int, dim: int, patch: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, dim, patch, stride, padding=patch // 2)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        tokens, grid = as_tokens(self.projection(x.contiguous(memory_format=torch.channels_last)))
        return self.norm(tokens), grid


class Projections(nn.Module):
    """Weights of multi-head attention under the names that torch's module has."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))  # rows of queries, keys, values
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim)) if bias else None
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.out_proj = nn.Linear(dim, dim, bias=bias)

    def project(self, x: Tensor, start: int, count: int) -> Tensor:
        """`count` of (queries, keys, values) from the start-th on, (B, N, C) -> (B, N, count * C)."""
        rows = slice(start * x.shape[-1], (start + count) * x.shape[-1])
        return F.linear(x, self.in_proj_weight[rows], None if self.in_proj_bias is None else self.in_proj_bias[rows])


class EfficientAttention(nn.Module):
    """Attention whose keys and values come from a grid reduced sr_ratio-fold, and may be merged, as queries may."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, bias: bool, drop: float, attn_drop: float) -> None:
        super().__init__()
        self.num_heads, self.sr_ratio, self.attn_drop = num_heads, sr_ratio, attn_drop
        self.attn = Projections(dim, bias)
        self.proj_drop = nn.Dropout(drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(
        self, y: Tensor, grid: Grid, merging: StageMerging, known: Matchings = NOTHING
    ) -> tuple[Tensor, Matchings]:
        """Return the branch of the residual of the normed tokens y, (B, h*w, C), and the matchings that were used.

        known: matchings of an earlier block, used instead of new ones.
        """
        source, key_grid = self.reduce(y, grid)
        source, of_keys = merging.merge_keys(source, key_grid, known.keys)
        (y, unmerge), of_queries = merging.merge_queries(y, grid, known.queries)
        q = self.heads(self.attn.project(y, 0, 1))
        k, v = (self.heads(part) for part in self.attn.project(source, 1, 2).chunk(2, dim=-1))
        x = scaled_attention(q, k, v, dropout=self.attn_drop if self.training else 0.0)
        branch = self.proj_drop(unmerge(self.attn.out_proj(x.transpose(1, 2).flatten(2))))
        return branch, Matchings(of_queries, of_keys)

    def reduce(self, y: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Return tokens that keys and values are made of, and their grid."""
        if self.sr_ratio == 1:
            return y, grid
        x = as_map(y, grid)
        # a grid smaller than one step of the convolution is padded with zeros; mmseg fails there
        short = [max(self.sr_ratio - side, 0) for side in grid]
        if any(short):
            x = F.pad(x, (0, short[1], 0, short[0]))
        tokens, grid = as_tokens(self.sr(x))
        return self.norm(tokens), grid

    def heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """MLP of 1x1 convolutions with a depthwise 3x3 convolution between; (B, h*w, C) -> the same.

    The weights are those of convolutions, as published. What runs are linear layers on tokens and one convolution on
    the same memory read as a channels-last map: nothing is transposed.
    """

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        dropout = nn.Dropout(drop)
        self.layers = nn.Sequential(
            nn.Conv2d(dim, hidden, 1), depthwise, nn.GELU(), dropout, nn.Conv2d(hidden, dim, 1), dropout
        )

    def forward(self, y: Tensor, grid: Grid) -> Tensor:
        rows = band_rows(y, grid, self.layers[0].out_channels)
        return self.whole(y, grid) if rows is None else in_bands(self.whole, y, grid, rows, self.layers[4].out_channels)

    def whole(self, y: Tensor, grid: Grid) -> Tensor:
        """Return all rows at once, padded with zeros."""
        widen, depthwise, activation, dropout, narrow, _ = self.layers
        hidden, _ = as_tokens(depthwise(as_map(pointwise(widen, y), grid)))
        return dropout(pointwise(narrow, dropout(activation(hidden))))


def pointwise(conv: nn.Conv2d, tokens: Tensor) -> Tensor:
    """Return a 1x1 convolution on tokens (B, N, C) -> (B, N, D)."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)


class Block(nn.Module):
    """x += Attention(LN1 x); x += MixFFN(LN2 x), each with stochastic depth."""

    def __init__(self, dim: int, hidden: int, attention: EfficientAttention, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.ffn = MixFFN(dim, hidden, drop)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, grid: Grid, merging: StageMerging, known: Matchings = NOTHING
    ) -> tuple[Tensor, Matchings]:
        """Return tokens (B, h*w, C) after the block, and the matchings it used: `known`, where there are some."""
        y, matchings = self.attn(self.norm1(x), grid, merging, known)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.ffn(self.norm2(x), grid)), matchings
