"""MiT, the encoder of SegFormer (Xie et al., 2021), whose attention can merge tokens as SegFormer++ does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.attention import scaled_attention
from mmseg_tr.reduction.segformerpp import Grid, StageMerging
from mmseg_tr.reduction.segformerpp_settings import Merging, parse_merging

DEFAULTS = dict(
    embed_dims=64,
    num_layers=(3, 4, 6, 3),
    num_heads=(1, 2, 5, 8),
    patch_sizes=(7, 3, 3, 3),
    strides=(4, 2, 2, 2),
    sr_ratios=(8, 4, 2, 1),
    mlp_ratio=4,
    qkv_bias=True,
)
ARCHS = dict(
    b0=dict(embed_dims=32, num_layers=(2, 2, 2, 2)),
    b1=dict(num_layers=(2, 2, 2, 2)),
    b2=dict(num_layers=(3, 4, 6, 3)),
    b3=dict(num_layers=(3, 4, 18, 3)),
    b4=dict(num_layers=(3, 8, 27, 3)),
    b5=dict(num_layers=(3, 6, 40, 3)),
)
EPS = 1e-6


class PatchEmbed(nn.Module):
    """Overlapping patches, (B, C, H, W) -> (B, h*w, D) normed and their grid (h, w); h = ceil(H / stride)."""

    def __init__(self, in_channels: int, dim: int, patch: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, dim, patch, stride, padding=patch // 2)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        x = self.projection(x)
        return self.norm(x.flatten(2).transpose(1, 2)), (x.shape[2], x.shape[3])


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

    def forward(self, y: Tensor, grid: Grid, merging: StageMerging) -> Tensor:
        """y: normed tokens (B, h*w, C). Returns their branch of the residual, (B, h*w, C)."""
        source, key_grid = self.reduce(y, grid)
        source = merging.merge_keys(source, key_grid)
        y, unmerge = merging.merge_queries(y, grid)
        q = self.heads(self.attn.project(y, 0, 1))
        k, v = (self.heads(part) for part in self.attn.project(source, 1, 2).chunk(2, dim=-1))
        x = scaled_attention(q, k, v, dropout=self.attn_drop if self.training else 0.0)
        return self.proj_drop(unmerge(self.attn.out_proj(x.transpose(1, 2).flatten(2))))

    def reduce(self, y: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Tokens that keys and values are made of, and their grid."""
        if self.sr_ratio == 1:
            return y, grid
        x = y.transpose(1, 2).unflatten(2, grid)
        # a grid that is smaller than one step of the convolution is filled up with zeros, where mmseg fails
        short = [max(self.sr_ratio - side, 0) for side in grid]
        if any(short):
            x = F.pad(x, (0, short[1], 0, short[0]))
        x = self.sr(x)
        return self.norm(x.flatten(2).transpose(1, 2)), (x.shape[2], x.shape[3])

    def heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """MLP of 1x1 convolutions with a depthwise 3x3 convolution between; (B, h*w, C) -> the same."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        dropout = nn.Dropout(drop)
        self.layers = nn.Sequential(
            nn.Conv2d(dim, hidden, 1), depthwise, nn.GELU(), dropout, nn.Conv2d(hidden, dim, 1), dropout
        )

    def forward(self, y: Tensor, grid: Grid) -> Tensor:
        return self.layers(y.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """x += Attention(LN1 x); x += MixFFN(LN2 x), each with stochastic depth."""

    def __init__(self, dim: int, hidden: int, attention: EfficientAttention, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.ffn = MixFFN(dim, hidden, drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid, merging: StageMerging) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), grid, merging))
        return x + self.drop_path(self.ffn(self.norm2(x), grid))


class MixVisionTransformer(nn.Module):
    """MiT for dense prediction, (B, in_channels, H, W) -> a map (B, C_i, h_i, w_i) per level of out_indices.

    arch: 'b0' to 'b5', or dict(embed_dims=, num_layers=, num_heads=, ...) with one entry per stage, see DEFAULTS.
    merging: a preset of SegFormer++ ('bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample'), or one dict per stage, see
        reduction.segformerpp_settings.parse_merging(); None for the plain model. It adds no weights, and may be
        changed at any time: model.merging = parse_merging(...).
    out_indices: stages (from 0) whose maps leave.
    pretrained: True for OpenMMLab's ImageNet weights of that arch, a name of checkpoints.published or a file of any
        known layout; loaded by init_weights().
    norm_eps: eps of every LayerNorm; embed_eps: that of patch embeddings and key reduction alone. NVIDIA's code has
        embed_eps=1e-5, Hugging Face's norm_eps=1e-5; OpenMMLab and SegFormer++ have 1e-6 everywhere.
    with_cp: recompute blocks in the backward pass to save memory.
    Keys of the state dict are those of mmseg's MixVisionTransformer. Raises ConfigError for what does not fit.
    """

    def __init__(
        self,
        arch: str | dict = 'b0',
        *,
        merging: str | Sequence[dict | None] | None = None,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_eps: float = EPS,
        embed_eps: float | None = None,
        pretrained: bool | str | None = None,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        dims = arch_settings(arch)
        if pretrained is True and not isinstance(arch, str):
            raise ConfigError('pretrained=True needs an arch by name: give a weights file for an arch by dimensions.')
        self.arch, self.pretrained = arch, pretrained
        depths = dims['num_layers']
        self.merging: Merging = parse_merging(merging, len(depths))
        self.out_indices, self.with_cp = tuple(out_indices), with_cp
        if not self.out_indices or not all(index in range(len(depths)) for index in self.out_indices):
            raise ConfigError(f'out_indices={out_indices} must name stages from 0 to {len(depths) - 1}.')
        self.widths = tuple(dims['embed_dims'] * heads for heads in dims['num_heads'])
        step = drop_path_rate / max(sum(depths) - 1, 1)  # stochastic depth grows from block to block
        self.layers = nn.ModuleList()
        for stage, width in enumerate(self.widths):
            blocks = nn.ModuleList()
            for number in range(sum(depths[:stage]), sum(depths[: stage + 1])):
                heads, sr_ratio = dims['num_heads'][stage], dims['sr_ratios'][stage]
                attention = EfficientAttention(width, heads, sr_ratio, dims['qkv_bias'], drop_rate, attn_drop_rate)
                blocks.append(Block(width, dims['mlp_ratio'] * width, attention, drop_rate, number * step))
            embed = PatchEmbed(in_channels, width, dims['patch_sizes'][stage], dims['strides'][stage])
            self.layers.append(nn.ModuleList([embed, blocks, nn.LayerNorm(width, eps=EPS)]))
            in_channels = width
        self.apply(init_module)
        set_eps(self, norm_eps, norm_eps if embed_eps is None else embed_eps)

    def init_weights(self) -> None:
        """Load the weights named by `pretrained`, once; weights that are there are never drawn again.

        Raises CheckpointError when they cannot be had, or belong to another network.
        """
        if self.pretrained:
            from mmseg_tr.checkpoints.mit import load_backbone

            load_backbone(self, f'mit_{self.arch}' if self.pretrained is True else self.pretrained)
            self.pretrained = None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.merging.downsample:
            x = x[..., : x.shape[-2] // 2 * 2 : 2, : x.shape[-1] // 2 * 2 : 2]
        maps, small = [], []
        for stage, ((embed, blocks, norm), merging) in enumerate(zip(self.layers, self.merging.stages, strict=True)):
            x, grid = embed(x)
            sr_ratio = blocks[0].attn.sr_ratio
            if not merging.reaches(grid, (max(grid[0] // sr_ratio, 1), max(grid[1] // sr_ratio, 1))):
                small.append(stage + 1)
            for block in blocks:
                if self.with_cp and torch.is_grad_enabled():
                    x = checkpoint(block, x, grid, merging, use_reentrant=False)
                else:
                    x = block(x, grid, merging)
            x = norm(x).transpose(1, 2).unflatten(2, grid).contiguous()
            if stage in self.out_indices:
                maps.append(x)
        if small:
            numbers = ', '.join(map(str, small))
            warnings.warn(
                f'the image is too small for the merging asked for: stage {numbers} merges less or not at all.',
                stacklevel=2,
            )
        return tuple(maps)


def arch_settings(arch: str | dict) -> dict:
    """All dimensions of a MiT. Raises ConfigError for unknown names and keys, and for unequal numbers of stages."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ConfigError(f'arch={arch!r} is unknown: it is one of {", ".join(ARCHS)}, or a dict of dimensions.')
        return DEFAULTS | ARCHS[arch]
    unknown = [key for key in arch if key not in DEFAULTS]
    if unknown:
        raise ConfigError(f'arch has no setting {unknown[0]!r}: its settings are {", ".join(DEFAULTS)}.')
    dims = DEFAULTS | arch
    counts = {key: len(value) for key, value in dims.items() if isinstance(value, Sequence)}
    if len(set(counts.values())) > 1:
        raise ConfigError(f'arch says different numbers of stages, {counts}: give every list one entry per stage.')
    return dims


def set_eps(model: MixVisionTransformer, norm_eps: float, embed_eps: float) -> None:
    """Give every LayerNorm its eps: embed_eps in patch embeddings and key reduction, norm_eps elsewhere."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = norm_eps
    for module in model.modules():
        if isinstance(module, PatchEmbed | EfficientAttention) and hasattr(module, 'norm'):
            module.norm.eps = embed_eps


def init_module(module: nn.Module) -> None:
    """Start weights, as mmseg's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
