"""SegFormer++'s head for mmpose, and every method of the package as a pose backbone."""

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip('mmpose')

from mmseg_tr.errors import ConfigError
from mmseg_tr.models.pose import SegformerPoseHead
from tests import poses
from tests.reduction.methods import DEPTH, METHODS, PATCH, pictures

SIZE = (96, 64)


def image(batch: int = 2) -> torch.Tensor:
    return pictures(batch, (SIZE[0] // PATCH, SIZE[1] // PATCH))


def levels(head: SegformerPoseHead, batch: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 16), (12, 8), (6, 4), (3, 2)]
    widths = [conv.conv.in_channels for conv in head.convs]
    return [torch.randn(batch, width, *shape, generator=generator) for width, shape in zip(widths, shapes)]


@pytest.mark.parametrize('widths', [(8,), (8, 16), (8, 16, 24, 32)])
def test_any_number_of_levels(widths):
    head = SegformerPoseHead(widths, 8, num_keypoints=5)
    assert head(levels(head)).shape == (1, 5, 24, 16)


def test_keys_are_the_released_ones():
    keys = list(SegformerPoseHead((8, 16), 8, num_keypoints=5).state_dict())
    bn = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    blocks = [
        f'{block}.{key}'
        for block in ('convs.0', 'convs.1', 'fusion_conv')
        for key in ('conv.weight', *(f'bn.{key}' for key in bn))
    ]
    assert sorted(keys) == sorted([*blocks, 'final_layer.weight', 'final_layer.bias'])


def test_norms_of_mmcv_are_a_choice():
    for kind, module in (('BN', torch.nn.BatchNorm2d), ('SyncBN', torch.nn.SyncBatchNorm)):
        head = SegformerPoseHead((8,), 8, num_keypoints=5, norm_cfg=dict(type=kind, requires_grad=True))
        assert isinstance(head.convs[0].bn, module)
    assert 'convs.0.conv.bias' in SegformerPoseHead((8,), 8, num_keypoints=5, norm_cfg=None).state_dict()


def test_start_weights_are_the_published_ones():
    torch.manual_seed(0)
    model = poses.segformer(SIZE)
    model.init_weights()
    for conv in (model.head.convs[0].conv, model.head.fusion_conv.conv, model.head.final_layer):
        assert 0.0005 < conv.weight.std() < 0.002
    assert model.backbone.layers[0][0].projection.weight.std() > 0.01


def test_flip_test_shifts_by_one_column_and_keeps_the_first():
    model, picture = poses.segformer(SIZE), image(1)
    model.test_cfg['output_heatmaps'] = True
    found = model.predict(picture, [poses.pose_sample(SIZE)])[0].pred_fields.heatmaps
    with torch.no_grad():
        own, other = model(picture, None)[0], model(picture.flip(-1), None)[0].flip(-1)[poses.FLIP]
    shifted = torch.cat([other[..., :1], other[..., :-1]], -1)
    assert torch.allclose(found, (own + shifted) / 2, atol=1e-6)


def test_it_learns_and_reports_the_accuracy():
    model = poses.segformer(SIZE, 'bsm_hq').train()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the grid is too small to merge everywhere
        losses = model.loss(image(), poses.labelled(SIZE, 2))
    assert set(losses) == {'loss_kpt', 'acc_pose'}
    losses['loss_kpt'].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_targets_of_another_size_are_refused():
    model = poses.segformer(SIZE).train()
    with pytest.raises(ConfigError, match=r'heatmaps of 24 x 16, the targets are 16 x 16'):
        model.loss(image(), poses.labelled((64, 64), 2))


@pytest.mark.parametrize(
    ('wrong', 'said'),
    [
        (dict(), 'needs num_keypoints'),
        (dict(num_keypoints=0), 'num_keypoints .*0'),
        (dict(num_keypoints=3, out_channels=4), 'say one'),
        (dict(num_keypoints=3, interpolate_mode='cubic'), "interpolate_mode='cubic'"),
        (dict(num_keypoints=3, in_channels=8), 'in_channels=8'),
    ],
    ids=lambda value: '_'.join(value) if isinstance(value, dict) else '',
)
def test_settings_that_do_not_fit_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        SegformerPoseHead(**(dict(in_channels=(8,), channels=8) | wrong))


@pytest.mark.parametrize('merging', ['original', 'bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample'])
def test_every_preset_predicts_poses(merging):
    size = (128, 160)
    decoder = poses.codec(size, 8 if merging == 'downsample' else 4)
    model, picture = poses.segformer(size, merging, decoder=decoder), pictures(2, (32, 40))
    predicted = model.predict(picture, [poses.pose_sample(size) for _ in picture])
    for sample in predicted:
        keypoints, scores = sample.pred_instances.keypoints, sample.pred_instances.keypoint_scores
        assert keypoints.shape == (1, poses.KEYPOINTS, 2)
        keypoints = keypoints[scores > 0]  # mmpose puts the others outside
        assert (keypoints >= 0).all() and (keypoints[..., 0] < 160).all() and (keypoints[..., 1] < 128).all()


METHOD_SETTINGS = {'plain': None} | {method.name: method.settings for method in METHODS}
METHOD_SETTINGS['CTS-network'] = dict(type='CTS', share=0.3)


@pytest.mark.parametrize('method', METHOD_SETTINGS)
def test_every_method_is_a_pose_backbone_under_mmpose_s_own_head(method):
    """ViTPose: a plain ViT whose map two deconvolutions enlarge."""
    backbone = dict(
        type='mmseg_tr.ViT',
        arch=dict(embed_dim=16, depth=DEPTH, num_heads=2, patch_size=PATCH),
        img_size=SIZE,
        reduction=METHOD_SETTINGS[method],
    )
    size = (SIZE[0], SIZE[1])
    head = dict(
        type='HeatmapHead',
        in_channels=16,
        out_channels=poses.KEYPOINTS,
        deconv_out_channels=(8, 8),
        deconv_kernel_sizes=(4, 4),
        loss=dict(type='KeypointMSELoss', use_target_weight=True),
        decoder=poses.codec(size, stride=1),
    )
    model = poses.estimator(backbone, head)
    predicted = model.predict(image(), [poses.pose_sample(size) for _ in range(2)])
    assert all(np.isfinite(sample.pred_instances.keypoints).all() for sample in predicted)
    targets = poses.labelled((4 * SIZE[0], 4 * SIZE[1]), 2)
    model.train().loss(image(), targets)['loss_kpt'].backward()
    assert all(p.grad is not None for name, p in model.backbone.named_parameters() if name.startswith('blocks.'))
