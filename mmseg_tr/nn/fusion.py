"""The decoder of SegFormer (Xie et al., 2021, section 3.2): 1x1 convolutions fuse maps of several levels.

The heads of SegFormer and SegFormer++, for segmentation and for pose, use it with one more 1x1 convolution after it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError


def conv_norm_relu(inside: int, outside: int, norm: Callable[[int], nn.Module] | None) -> nn.Sequential:
    """1x1 convolution, norm, ReLU under mmcv's names `conv` and `bn`; a bias without a norm."""
    layers = OrderedDict(conv=nn.Conv2d(inside, outside, 1, bias=norm is None))
    if norm is not None:
        layers['bn'] = norm(outside)
    layers['activate'] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def early_fusion(
    levels: Sequence[Tensor], conv: nn.Conv2d, enlarge: Callable[[Tensor, tuple[int, int]], Tensor]
) -> Tensor:
    """Return conv(concatenation of the enlarged levels) for a 1x1 convolution, without enlarging all levels first.

    Convolution and enlargement are linear and commute, up to rounding: every level goes through its own part of the
    weight first, at its own size. For SegFormer's four levels that is a third of the work and of the memory.
    levels: (B, C_i, h_i, w_i); enlarge: to a size (h, w). Returns (B, D, h_0, w_0).
    """
    first, *others = conv.weight.split([level.shape[1] for level in levels], dim=1)
    fused = F.conv2d(levels[0], first, conv.bias)
    for level, weight in zip(levels[1:], others, strict=True):
        fused += enlarge(F.conv2d(level, weight), fused.shape[-2:])
    return fused


class MultiScaleFusion(nn.Module):
    """Maps of any number of levels -> one map (B, channels, h, w) at the size of the first.

    Every level goes through a 1x1 convolution to `channels` and is enlarged; all are concatenated and go through one
    more, which in inference comes before the enlargement (early_fusion) unless fuses_early is False. in_channels:
    channels of each level. norm: from a number of channels to a norm layer, e.g. nn.SyncBatchNorm; None for
    convolutions with bias and no norm. interpolate_mode, align_corners: of torch's interpolate. Keys of the state dict:
    convs.{level}.conv, convs.{level}.bn, fusion_conv.conv, fusion_conv.bn. Raises ConfigError for settings that do not
    exist.
    """

    fuses_early = True

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
        interpolate_mode: str = 'bilinear',
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(in_channels, int) or not in_channels:
            raise ConfigError(
                f'in_channels={in_channels!r} must list the channels of every level, for example [64, 128].'
            )
        if interpolate_mode not in ('nearest', 'bilinear', 'bicubic'):
            raise ConfigError(
                f"interpolate_mode={interpolate_mode!r} is unknown: it is 'nearest', 'bilinear' or 'bicubic'."
            )
        self.interpolate_mode, self.align_corners = interpolate_mode, align_corners
        self.convs = nn.ModuleList(conv_norm_relu(width, channels, norm) for width in in_channels)
        self.fusion_conv = conv_norm_relu(channels * len(self.convs), channels, norm)

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: (B, C_i, h_i, w_i) per level -> (B, channels, h_0, w_0). Raises ConfigError for more or fewer."""
        if len(maps) != len(self.convs):
            raise ConfigError(
                f'the backbone gives {len(maps)} maps, the head takes {len(self.convs)}: in_channels must name as '
                'many as out_indices.'
            )
        levels = [conv(level) for conv, level in zip(self.convs, maps)]
        if self.fuses_early and not torch.is_grad_enabled():
            return self.fusion_conv[1:](early_fusion(levels, self.fusion_conv.conv, self.enlarge))
        size = levels[0].shape[-2:]
        return self.fusion_conv(torch.cat([self.enlarge(level, size) for level in levels], dim=1))

    def enlarge(self, level: Tensor, size: tuple[int, int]) -> Tensor:
        if level.shape[-2:] == size:
            return level
        # 'nearest' has no corners to align
        corners = None if self.interpolate_mode == 'nearest' else self.align_corners
        return F.interpolate(level, size=size, mode=self.interpolate_mode, align_corners=corners)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.fuse(maps)
