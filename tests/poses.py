"""Tiny pose networks as configs of mmpose write them, and samples for them. Import where mmpose is installed."""

from __future__ import annotations

import copy

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpose.structures import PoseDataSample
from torch import nn

KEYPOINTS, FLIP = 4, [0, 2, 1, 3]
MIT = dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
WIDTHS = (8, 16, 24, 32)
FLIP_TEST = dict(flip_test=True, flip_mode='heatmap', shift_heatmap=True)


def codec(size: tuple[int, int], stride: int = 4) -> dict:
    """MSRA heatmaps of an input of size (h, w), a cell every `stride` pixels."""
    height, width = size
    return dict(
        type='MSRAHeatmap', input_size=(width, height), heatmap_size=(width // stride, height // stride), sigma=1
    )


def estimator(backbone: dict, head: dict, test_cfg: dict = FLIP_TEST) -> nn.Module:
    """A TopdownPoseEstimator with the same weights for the same network, none of them near 0, in eval mode."""
    init_default_scope('mmpose')
    config = dict(
        type='TopdownPoseEstimator',
        data_preprocessor=dict(type='PoseDataPreprocessor'),
        backbone=backbone,
        head=head,
        test_cfg=dict(test_cfg),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS.build(copy.deepcopy(config))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if 'policy' not in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def segformer(size: tuple[int, int], reduction: str | None = None, **head) -> nn.Module:
    """SegFormer++ for pose on inputs of `size`."""
    backbone = dict(type='mmseg_tr.MiT', arch=MIT, reduction=reduction)
    settings = dict(in_channels=WIDTHS, channels=8, num_keypoints=KEYPOINTS, decoder=codec(size))
    return estimator(backbone, dict(type='mmseg_tr.SegformerPoseHead') | settings | head)


def pose_sample(size: tuple[int, int], flip_indices: list[int] = FLIP) -> PoseDataSample:
    """An image that is its own box, so that predictions in its pixels are those in the input's."""
    height, width = size
    whole = np.array([width, height], dtype=np.float32)
    meta = dict(input_size=whole, input_scale=whole, input_center=whole / 2, img_shape=size, flip_indices=flip_indices)
    sample = PoseDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(bboxes=np.array([[0, 0, width, height]]), bbox_scores=np.ones(1))
    return sample


def labelled(size: tuple[int, int], count: int) -> list[PoseDataSample]:
    """Samples with target heatmaps, (K, h/4, w/4)."""
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(count):
        sample = pose_sample(size)
        heatmaps = torch.rand(KEYPOINTS, size[0] // 4, size[1] // 4, generator=generator)
        sample.gt_fields = PixelData(heatmaps=heatmaps)
        sample.gt_instance_labels = InstanceData(keypoint_weights=torch.ones(1, KEYPOINTS))
        found.append(sample)
    return found
