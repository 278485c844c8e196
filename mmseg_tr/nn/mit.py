"""MiT, the encoder of SegFormer (Xie et al., 2021), whose attention can merge tokens as SegFormer++ does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.backbone import Backbone, check_single
from mmseg_tr.nn.blocks import refuse_tracing
from mmseg_tr.nn.checks import check_image, check_numbers, check_rates, check_sizes
from mmseg_tr.nn.mit_blocks import EPS, NOTHING, Block, EfficientAttention, PatchEmbed
from mmseg_tr.reduction import Reduction, build_reduction, method_names
from mmseg_tr.reduction.checks import check_flag, check_number
from mmseg_tr.reduction.ladder import Grid
from mmseg_tr.reduction.observe import Merged
from mmseg_tr.reduction.segformerpp.deprecated import reduction_from_merging
from mmseg_tr.reduction.segformerpp.mergers import StageMerging
from mmseg_tr.reduction.segformerpp.settings import PRESETS, as_reduction
from mmseg_tr.reduction.tokens import as_map
from mmseg_tr.weights.fetch import check_pretrained
from mmseg_tr.weights.mit import load_backbone

DEFAULTS: dict[str, Any] = dict(
    embed_dims=64,
    num_layers=(3, 4, 6, 3),
    num_heads=(1, 2, 5, 8),
    patch_sizes=(7, 3, 3, 3),
    strides=(4, 2, 2, 2),
    sr_ratios=(8, 4, 2, 1),
    mlp_ratio=4,
    qkv_bias=True,
)
ARCHS: dict[str, dict[str, Any]] = dict(
    b0=dict(embed_dims=32, num_layers=(2, 2, 2, 2)),
    b1=dict(num_layers=(2, 2, 2, 2)),
    b2=dict(num_layers=(3, 4, 6, 3)),
    b3=dict(num_layers=(3, 4, 18, 3)),
    b4=dict(num_layers=(3, 8, 27, 3)),
    b5=dict(num_layers=(3, 6, 40, 3)),
)


UNSET: Any = object()
PLAIN = StageMerging()


class MixVisionTransformer(Backbone):
    """MiT for dense prediction, (B, in_channels, H, W) -> a map (B, C_i, h_i, w_i) per level of out_indices.

    arch: 'b0' to 'b5', or dict(embed_dims=, num_layers=, num_heads=, ...) with one entry per stage, see DEFAULTS.
    reduction: dict(type='SegFormerPP', preset='bsm_hq') or dict(type='SegFormerPP', stages=[...]) with one dict per
        stage, see reduction.segformerpp; None for the plain network. The name of a preset alone is accepted too.
    merging: deprecated, the preset or the dicts of `reduction` alone.
    out_indices: stages (from 0) whose maps leave.
    pretrained: True for OpenMMLab's ImageNet weights of that arch, a name of checkpoints.published or a file of any
        known layout; loaded by init_weights().
    norm_eps: eps of every LayerNorm; embed_eps: that of patch embeddings and key reduction alone. NVIDIA's code has
        embed_eps=1e-5, Hugging Face's norm_eps=1e-5; OpenMMLab and SegFormer++ have 1e-6 everywhere.
    with_cp: recompute blocks in the backward pass to save memory.
    Keys of the state dict are those of mmseg's MixVisionTransformer. Raises ConfigError for settings that do not fit.
    """

    kind: ClassVar[str] = 'MiT'
    count_rule: ClassVar[str] = 'conv-matmul'

    def __init__(
        self,
        arch: str | dict = 'b0',
        *,
        reduction: dict | str | Reduction | None = None,
        merging: Any = UNSET,
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
        check_sizes(in_channels=in_channels)
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        check_flag('with_cp', with_cp)
        for name, eps in (('norm_eps', norm_eps), ('embed_eps', norm_eps if embed_eps is None else embed_eps)):
            check_number(name, eps, 0)
        check_pretrained(pretrained)
        if pretrained is True and not isinstance(arch, str):
            raise ConfigError('pretrained=True needs an arch by name: give a weights file for an arch by dimensions.')
        self.arch, self.pretrained = arch, pretrained
        depths = tuple(dims['num_layers'])
        self.out_indices, self.with_cp = check_numbers('out_indices', out_indices, least=0), with_cp
        if list(self.out_indices) != sorted(set(self.out_indices) & set(range(len(depths)))):
            raise ConfigError(
                f'out_indices must name stages from 0 to {len(depths) - 1} in ascending order, got {out_indices}.'
            )
        self.widths = tuple(dims['embed_dims'] * heads for heads in dims['num_heads'])
        step = drop_path_rate / max(sum(depths) - 1, 1)  # stochastic depth grows from block to block
        self.in_channels = in_channels
        self.layers: Any = nn.ModuleList()  # of [embed, blocks, norm]
        for stage, width in enumerate(self.widths):
            blocks = nn.ModuleList()
            for number in range(sum(depths[:stage]), sum(depths[: stage + 1])):
                heads, sr_ratio = dims['num_heads'][stage], dims['sr_ratios'][stage]
                attention = EfficientAttention(width, heads, sr_ratio, dims['qkv_bias'], drop_rate, attn_drop_rate)
                blocks.append(Block(width, dims['mlp_ratio'] * width, attention, drop_rate, number * step))
            embed = PatchEmbed(in_channels, width, dims['patch_sizes'][stage], dims['strides'][stage])
            self.layers.append(nn.ModuleList([embed, blocks, nn.LayerNorm(width, eps=EPS)]))
            in_channels = width
        if merging is not UNSET:
            reduction = reduction_from_merging(merging)
        self.reduction: Any = self.fitted(reduction)
        self.apply(init_module)
        set_eps(self, norm_eps, norm_eps if embed_eps is None else embed_eps)

    def init_weights(self) -> None:
        """Load the weights named by `pretrained`, once; loaded weights are never initialized again.

        Raises CheckpointError when they are not available or belong to another network.
        """
        if self.pretrained:
            load_backbone(self, f'mit_{self.arch}' if self.pretrained is True else self.pretrained)
            self.pretrained = None

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(blocks) for _, blocks, _ in self.layers)

    def layer_of(self, name: str) -> int:
        stage, part, *inside = name.removeprefix('layers.').split('.')
        before = sum(self.depths[: int(stage)])
        if part == '0':  # a later stage's embedding moves with its first block
            return before + 1 if before else 0
        return before + int(inside[0]) + 1 if part == '1' else sum(self.depths[: int(stage) + 1])

    @property
    def width(self) -> int:
        return self.widths[-1]

    @property
    def step(self) -> tuple[int, int]:
        stride, steps = 1, []
        for embed, blocks, _ in self.layers:
            stride *= embed.projection.stride[0]
            steps.append(stride * blocks[0].attn.sr_ratio)
        step = math.lcm(*steps) * (2 if self.reduction is not None and self.reduction.downsample else 1)
        return step, step

    def fitted(self, reduction: dict | str | Sequence[dict | None] | Reduction | None) -> Reduction | None:
        """Return a method fitted to this network; None if it reduces nothing.

        reduction: as build_reduction() takes it, or a preset's name, or one dict per stage. Raises ConfigError.
        """
        settings = as_reduction(reduction)
        try:
            method: Any = build_reduction(settings)
        except ConfigError as error:
            if not isinstance(settings, str):
                raise
            raise ConfigError(
                f'reduction of a MiT must be a preset ({", ".join(PRESETS)}) or the settings of a method, got '
                f'{settings!r}.'
            ) from error
        if method is None:
            return None
        if method.backbone != self.kind:
            fitting = ', '.join(method_names(self.kind))
            raise ConfigError(f'reduction {method.name} is for a {method.backbone}: a MiT takes {fitting}.')
        method = method.bind_stages(self.depths)
        return method if method.active else None

    @property
    def extent(self) -> tuple[int, Grid]:
        return len(self.layers), (1, 1)

    def forward(self, x: Tensor, reduction: Any = None) -> tuple[Tensor, ...]:
        check_image(x, self.in_channels, self.layers[0][0].projection.weight)
        reduction = self.running if reduction is None else reduction
        if reduction is not None:
            refuse_tracing()
        merging = [PLAIN] * len(self.layers) if reduction is None else reduction.bind_stages(self.depths).merging
        if reduction is not None and reduction.downsample:
            x = x[..., : max(x.shape[-2] // 2 * 2, 1) : 2, : max(x.shape[-1] // 2 * 2, 1) : 2]
        maps, small = [], []
        for stage, ((embed, blocks, norm), asked) in enumerate(zip(self.layers, merging, strict=True)):
            x, grid = embed(x)
            sr_ratio = blocks[0].attn.sr_ratio
            if not asked.reaches(grid, (max(grid[0] // sr_ratio, 1), max(grid[1] // sr_ratio, 1))):
                small.append(stage + 1)
            matchings = NOTHING
            for number, block in enumerate(blocks):
                known = NOTHING if asked.compares(number) else matchings
                if self.with_cp and torch.is_grad_enabled():
                    x, matchings = checkpoint(block, x, grid, asked, known, use_reentrant=False)
                else:
                    x, matchings = block(x, grid, asked, known)
            x = as_map(norm(x), grid)
            if stage in self.out_indices:
                maps.append(x.contiguous())
        if small:
            numbers = ', '.join(map(str, small))
            warnings.warn(
                f'the image is too small for this reduction: stage {numbers} merges less or not at all.',
                stacklevel=2,
            )
        return tuple(maps)

    @torch.no_grad()
    def watch(self, image: Tensor) -> list[Merged]:
        """Return queries and keys of every block whose stage merges them, keys on their own, reduced grid.

        A plain MiT has none. Raises ValueError for a batch of several images.
        """
        check_single(image)
        found: list[Merged] = []
        if self.reduction is not None:
            self(image, self.reduction.watched(found, self.depths, image.device))
        return found


def arch_settings(arch: str | dict) -> dict:
    """All dimensions of a MiT. Raises ConfigError for unknown names and keys, and for unequal numbers of stages."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ConfigError(f'arch={arch!r} is unknown: it is one of {", ".join(ARCHS)}, or a dict of dimensions.')
        return DEFAULTS | ARCHS[arch]
    if not isinstance(arch, Mapping):
        raise ConfigError(f'arch must be one of {", ".join(ARCHS)}, or a dict of dimensions, got {arch!r}.')
    unknown = [key for key in arch if key not in DEFAULTS]
    if unknown:
        raise ConfigError(f'arch has no setting {unknown[0]!r}: its settings are {", ".join(DEFAULTS)}.')
    dims = DEFAULTS | dict(arch)
    check_sizes(**{f'arch.{key}': dims[key] for key in ('embed_dims', 'mlp_ratio')})
    check_flag('arch.qkv_bias', dims['qkv_bias'])
    for key in ('num_layers', 'num_heads', 'patch_sizes', 'strides', 'sr_ratios'):
        dims[key] = check_numbers(f'arch.{key}', dims[key])
    counts = {key: len(value) for key, value in dims.items() if isinstance(value, Sequence)}
    if len(set(counts.values())) > 1:
        raise ConfigError(f'arch lists must have one entry per stage each, got {counts}.')
    return dims


def set_eps(model: MixVisionTransformer, norm_eps: float, embed_eps: float) -> None:
    """Set the eps of every LayerNorm: embed_eps in patch embeddings and key reduction, norm_eps elsewhere."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = norm_eps
    for module in model.modules():
        if isinstance(module, PatchEmbed | EfficientAttention) and hasattr(module, 'norm'):
            module.norm.eps = embed_eps


def init_module(module: nn.Module) -> None:
    """Initialize the weights as mmseg does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
