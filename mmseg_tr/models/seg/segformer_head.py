"""SegFormer's head in the form of NVIDIA and Hugging Face, as an mmseg decode head."""

from __future__ import annotations

from mmseg.models.decode_heads import SegformerHead
from torch import nn

from mmseg_tr.registry import MODELS


@MODELS.register_module()
class SegformerLinearHead(SegformerHead):
    """mmseg's SegformerHead with a linear layer per level, without norm and ReLU behind it: what their weights need.

    Arguments are those of SegformerHead.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.convs = nn.ModuleList(nn.Conv2d(width, self.channels, 1) for width in self.in_channels)
