"""SegFormer (Xie et al., NeurIPS 2021) in plain PyTorch: MiT, a head over its four maps, enlargement."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmseg_tr.nn.checks import check_rates, check_sizes
from mmseg_tr.nn.fusion import MultiScaleFusion
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.savable import Savable
from mmseg_tr.nn.segmenter import enlarge_scores
from mmseg_tr.reduction.checks import check_choice


class SegformerHead(MultiScaleFusion):
    """mmseg's SegformerHead, keys included: maps of every level -> class scores (B, K, h, w) at the size of the first.

    dropout: of whole channels, in front of the classifier. Raises ConfigError for numbers that are out of range.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, channels: int = 256, dropout: float = 0.1) -> None:
        check_sizes(num_classes=num_classes, channels=channels)
        check_rates(dropout=dropout)
        super().__init__(in_channels, channels)
        self.convs = self.levels(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        for conv in self.modules():  # initialized as in mmseg
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)

    def levels(self, in_channels: Sequence[int], channels: int) -> nn.ModuleList:
        """Return layers that each level passes before it is enlarged."""
        return self.convs

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.conv_seg(self.dropout(self.fuse(maps)))


class SegformerLinearHead(SegformerHead):
    """The head as NVIDIA and Hugging Face have it: a linear layer per level, without norm and ReLU after it.

    Their weights fit this head only. Arguments and result as SegformerHead; keys convs.{level}.weight and .bias.
    """

    def levels(self, in_channels: Sequence[int], channels: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)


HEADS = dict(conv=SegformerHead, linear=SegformerLinearHead)


class SegFormer(Savable):
    """Image (B, C, H, W) -> logits: (B, K, H, W) with resolution='full', (B, K, ceil(H/4), ceil(W/4)) with 'quarter'.

    head: 'conv', which the weights of OpenMMLab and SegFormer++ need, or 'linear', which those of NVIDIA and Hugging
    Face need. Keys are mmseg's: backbone.*, decode_head.*. With the preset 'downsample' the quarter is an eighth.
    Raises ConfigError for settings that do not exist.
    """

    def __init__(
        self,
        backbone: MixVisionTransformer,
        num_classes: int,
        *,
        head: str = 'conv',
        channels: int = 256,
        dropout: float = 0.1,
        resolution: str = 'full',
    ) -> None:
        super().__init__()
        check_choice('head', head, tuple(HEADS))
        check_choice('resolution', resolution, ('full', 'quarter'))
        self.backbone, self.resolution = backbone, resolution
        widths = [backbone.widths[index] for index in backbone.out_indices]
        self.decode_head = HEADS[head](widths, num_classes, channels, dropout)

    def scores(self, image: Tensor) -> Tensor:
        """Return class scores at the size of the finest map, (B, C, H, W) -> (B, K, ceil(H/4), ceil(W/4))."""
        return self.decode_head(self.backbone(image))

    def forward(self, image: Tensor) -> Tensor:
        scores = self.scores(image)
        return scores if self.resolution == 'quarter' else enlarge_scores(scores, tuple(image.shape[-2:]), None)
