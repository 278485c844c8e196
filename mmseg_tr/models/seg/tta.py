"""Test-time augmentation of segmentation: the mean probability over scaled and flipped views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_tr.models.seg.segmentor import TokenSegmentor
from mmseg_tr.registry import MODELS


@MODELS.register_module()
class TokenTTAModel(SegTTAModel):
    """mmseg's test-time augmentation for a TokenSegmentor or any other segmentor of mmseg.

    A single view gives the labels that the segmentor gives without augmentation. With one output channel mmseg's
    seg_logits are probabilities, which are averaged without another sigmoid and held against the head's threshold.
    """

    def test_step(self, data: Any) -> list[SegDataSample]:
        """Return merged predictions of a batch of images, each in several views."""
        with logits_kept(self.module):
            return super().test_step(data)

    def merge_preds(self, data_samples_list: Sequence[Sequence[SegDataSample]]) -> list[SegDataSample]:
        """Return one sample per image, from its views."""
        return [views[0] if len(views) == 1 else self.merge_views(views) for views in data_samples_list]

    def merge_views(self, views: Sequence[SegDataSample]) -> SegDataSample:
        several = self.module.out_channels > 1
        maps = [view.seg_logits.data for view in views]  # (K, H, W) each, at the size of the image
        mean = sum(map_.softmax(0) if several else map_ for map_ in maps) / len(maps)
        merged = views[0]
        merged.pred_sem_seg = PixelData(data=mean.argmax(0, keepdim=True) if several else self.foreground(mean))
        del merged.seg_logits  # those of one view
        return merged

    def foreground(self, probability: Tensor) -> Tensor:
        head = self.module.decode_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head  # of a cascade, the last
        return (probability > head.threshold).to(torch.uint8)


@contextmanager
def logits_kept(segmentor: nn.Module) -> Iterator[None]:
    """Make a TokenSegmentor keep logits in its samples, as every other segmentor of mmseg does."""
    if not isinstance(segmentor, TokenSegmentor):
        yield
        return
    before = segmentor.test_cfg
    segmentor.test_cfg = ConfigDict(before | dict(seg_logits=True))
    try:
        yield
    finally:
        segmentor.test_cfg = before
