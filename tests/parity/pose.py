"""Golden kinds of pose: a network under mmpose's estimator with its flip test; codec, loss and PCK as configured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmseg_tr.errors import installed
from tests.parity.harness import Case
from tests.poses import pose_sample


def require_mmpose() -> None:
    if not installed('mmpose'):
        pytest.skip('mmpose is not installed')
    import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)


def pose_model(case: Case, arch: dict) -> nn.Module:
    """The case's network as a config of mmpose writes it."""
    from mmengine.registry import MODELS, DefaultScope

    s = case.settings
    files = [name.split()[0] for name in s['weights']]
    stored = {key: value for name in files for key, value in load_file(case.folder / name).items()}
    with DefaultScope.overwrite_default_scope('mmpose'):  # other cases build models of mmseg
        model = MODELS.build(
            dict(
                type='TopdownPoseEstimator',
                data_preprocessor=dict(type='PoseDataPreprocessor'),
                backbone=dict(type='mmseg_tr.MiT', arch=arch, reduction=s['tome_cfg']),
                head=dict(
                    type='mmseg_tr.SegformerPoseHead',
                    in_channels=[arch['embed_dims'] * heads for heads in arch['num_heads']],
                    channels=len(stored['head.fusion_conv.bn.weight']),
                    num_keypoints=s['num_keypoints'],
                    decoder=dict(s['codec']),
                ),
                test_cfg=dict(s['test_cfg']),
            )
        )
    model.load_state_dict({key: value for key, value in stored.items() if not key.startswith('decode_head.')})
    return model.eval()


def run_pose_network(case: Case, image: Tensor, arch: dict, maps: list[Tensor], compare_maps) -> None:
    """The heatmap of a plain forward, and all of the flip test.

    maps: fills up with the rep maps of the matchings, first of the image, then of the flipped one.
    """
    model = pose_model(case, arch)
    case.compare('heatmap', model(image, None))
    calls = len(maps)
    maps.clear()
    model.test_cfg['output_heatmaps'] = True
    sample = model.predict(image, [pose_sample(tuple(image.shape[2:]), case.settings['flip_indices'])])[0]
    case.compare('heatmap_flip_avg', sample.pred_fields.heatmaps[None])
    case.compare('keypoints', sample.pred_instances.keypoints)
    case.compare('keypoint_scores', sample.pred_instances.keypoint_scores)
    compare_maps(case, maps[:calls], 'rep_')
    compare_maps(case, maps[calls:], 'rep_flip_')


def pose_codec(case: Case) -> None:
    require_mmpose()
    from mmpose.evaluation import keypoint_pck_accuracy
    from mmpose.registry import KEYPOINT_CODECS, MODELS

    codec = KEYPOINT_CODECS.build(dict(case.settings['codec']))
    keypoints, visible = case.take('keypoints'), case.take('visible')
    encoded = codec.encode(keypoints.numpy(), visible.numpy())
    case.compare('heatmaps', encoded['heatmaps'])
    case.compare('keypoint_weights', encoded['keypoint_weights'])
    decoded, scores = codec.decode(encoded['heatmaps'])
    case.compare('decoded', decoded)
    case.compare('decoded_scores', scores)
    loss = MODELS.build(dict(type='mmpose.KeypointMSELoss', use_target_weight=True))
    target, weights = torch.from_numpy(encoded['heatmaps'])[None], torch.from_numpy(encoded['keypoint_weights'])
    case.compare('mse', loss(case.take('pred_heatmaps'), target, weights).reshape(1))
    predicted, truth, mask, boxes = (case.take(f'pck_{name}').numpy() for name in ('pred', 'gt', 'mask', 'bboxes'))
    size = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True).repeat(2, 1)
    for threshold, array, mean in ((0.1, 'pck_acc_010', 'pck01'), (0.05, 'pck_acc_005', 'pck005')):
        each, average, _ = keypoint_pck_accuracy(predicted, truth, mask, threshold, size)
        case.compare(array, each.astype(np.float32))
        case.expect(mean, round(float(average), 7), round(case.settings[mean], 7))
    case.expect(
        'PCKAccuracy',
        pck_of_metric(predicted, truth, mask, boxes),
        [round(case.settings[k], 5) for k in ('pck01', 'pck005')],
    )


def pck_of_metric(predicted, truth, mask, boxes) -> list[float]:
    """PCK@0.1 and PCK@0.05 by mmpose's metric, an instance a sample."""
    from mmpose.evaluation.metrics import PCKAccuracy

    found = []
    for threshold in (0.1, 0.05):
        metric = PCKAccuracy(thr=threshold)
        for pred, gt, seen, box in zip(predicted, truth, mask, boxes):
            metric.process(
                {},
                [
                    dict(
                        pred_instances=dict(keypoints=pred[None]),
                        gt_instances=dict(keypoints=gt[None], keypoints_visible=seen[None], bboxes=box[None]),
                    )
                ],
            )
        found.append(round(float(metric.compute_metrics(metric.results)['PCK']), 5))
    return found
