"""SegFormer's heads as decode heads of mmseg."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from mmseg.models import decode_heads
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmseg_tr.nn.contenders import ScoreMap
from mmseg_tr.nn.fusion import early_fusion
from mmseg_tr.registry import MODELS


@MODELS.register_module()
class SegformerHead(decode_heads.SegformerHead):
    """mmseg's SegformerHead, which in inference fuses levels before it enlarges them (nn.fusion.early_fusion).

    Arguments and keys are those of mmseg's. fuses_early = False: mmseg's own forward.
    """

    fuses_early = True

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return class scores (B, K, h, w) at the size of the first level."""
        if not self.fuses_early or torch.is_grad_enabled():
            return super().forward(inputs)
        levels = [conv(level) for conv, level in zip(self.convs, self._transform_inputs(inputs))]
        fused = early_fusion(levels, self.fusion_conv.conv, self.enlarge)
        if self.fusion_conv.with_norm:
            fused = self.fusion_conv.norm(fused)
        return self.cls_seg(self.fusion_conv.activate(fused))

    def score_map(self, inputs: Sequence[Tensor], batch_img_metas: list[dict], size: tuple[int, int]) -> ScoreMap:
        """Return scores and their enlargement to `size`, that of the backbone's input; predict() does both at once."""
        enlarge = partial(self.predict_by_feat, batch_img_metas=batch_img_metas)
        return ScoreMap(self.forward(inputs), size, enlarge, self.align_corners)

    def enlarge(self, level: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(level, size=size, mode=self.interpolate_mode, align_corners=self.align_corners)


@MODELS.register_module()
class SegformerLinearHead(SegformerHead):
    """SegformerHead in the form of NVIDIA and Hugging Face: a linear layer per level, without norm and ReLU after it.

    Their weights fit this head only. Arguments are those of SegformerHead.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.convs = nn.ModuleList(nn.Conv2d(width, self.channels, 1) for width in self.in_channels)
