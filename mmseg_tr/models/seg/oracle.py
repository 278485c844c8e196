"""An ablation of CTS: superpatches share by the labels instead of a policy network's prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.models.seg.segmentor import TokenSegmentor
from mmseg_tr.reduction.cts.sharing import IGNORE, oracle_logits
from mmseg_tr.registry import MODELS


@MODELS.register_module()
class OracleSegmentor(TokenSegmentor):
    """TokenSegmentor for a backbone with CTS under policy='oracle': labels decide which superpatches share.

    The label map is appended to the image as one more channel, so that it is cut into the same windows. Use it by
    --cfg-options model.type=mmseg_tr.OracleSegmentor model.backbone.reduction.policy=oracle; the weights are those of
    any CTS or plain model. Raises ConfigError for another backbone, for images without labels, and for flipped views,
    whose labels are loaded unflipped.
    """

    def __init__(self, backbone, *args, **kwargs) -> None:
        super().__init__(backbone, *args, **kwargs)
        if getattr(getattr(self.backbone, 'reduction', None), 'decides', None) != 'oracle':
            raise ConfigError("OracleSegmentor needs a backbone whose reduction has policy='oracle'.")

    def extract_feat(self, inputs: Tensor) -> Sequence:
        """inputs: (B, 4, H, W), the image and its label map."""
        image, labels = inputs[:, :-1], inputs[:, -1].round().long()
        logits = oracle_logits(labels, self.backbone.patch_size)
        features = self.backbone(image, reduction=self.backbone.reduction.guided(logits))
        return self.neck(features) if self.with_neck else features

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict:
        return super().loss(with_labels(inputs, data_samples), data_samples)

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        if any(sample.metainfo.get('flip') for sample in data_samples or ()):
            raise ConfigError('OracleSegmentor does not know the labels of flipped views: test without --tta.')
        return super().predict(with_labels(inputs, data_samples), data_samples)

    def _forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> Tensor:
        return super()._forward(with_labels(inputs, data_samples), data_samples)

    def windowed(self, inputs: Tensor) -> Tensor:
        image = super().windowed(inputs[:, :-1])
        labels = F.interpolate(inputs[:, -1:], size=image.shape[-2:], mode='nearest')  # never interpolated
        return torch.cat([image, labels], 1)


def with_labels(inputs: Tensor, data_samples: list[SegDataSample] | None) -> Tensor:
    """Append the label maps to images (B, 3, H, W) as a fourth channel, at each image's size, 255 in its padding.

    Raises ConfigError when a sample has no labels.
    """
    if not data_samples or any('gt_sem_seg' not in sample for sample in data_samples):
        raise ConfigError('OracleSegmentor needs the labels of every image: give data samples with gt_sem_seg.')
    maps = inputs.new_full((len(inputs), 1, *inputs.shape[-2:]), IGNORE)
    for row, sample in zip(maps, data_samples):
        size = tuple(sample.metainfo.get('img_shape', inputs.shape[-2:]))[:2]
        size = tuple(min(side, whole) for side, whole in zip(size, inputs.shape[-2:]))
        labels = sample.gt_sem_seg.data[None].to(inputs)
        row[:, : size[0], : size[1]] = F.interpolate(labels, size=size, mode='nearest')[0]
    return torch.cat([inputs, maps], 1)
