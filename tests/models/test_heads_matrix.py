"""Every method under every head, on square, non-square and odd grids, alone and in a batch, forward and backward."""

import copy

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.models.seg.segmentor import check_test_cfg
from mmseg_tr.reduction.cts.policy import PolicyNet
from tests.reduction.methods import DEPTH, METHODS, PATCH, pictures

CLASSES, WIDTH = 3, 16
GRIDS = {'square': (8, 8), 'non-square': (6, 10), 'odd': (7, 9)}
NORM = dict(type='GN', num_groups=2)  # batch statistics of one pixel, as UPer pools to, would not be any
OTHERS = dict(channels=8, num_classes=CLASSES, norm_cfg=NORM, align_corners=False)
LEVELS = tuple(range(DEPTH))
# head -> (settings of the backbone, of the head)
HEADS = {
    'linear': (
        dict(out='tokens'),
        dict(type='mmseg_tr.SegmenterLinearHead', in_channels=WIDTH, num_classes=CLASSES),
    ),
    'mask': (
        dict(out='tokens'),
        dict(type='mmseg_tr.SegmenterMaskHead', in_channels=WIDTH, num_classes=CLASSES, depth=1, num_heads=2),
    ),
    'fcn': ({}, dict(type='FCNHead', in_channels=WIDTH, num_convs=1, concat_input=False, **OTHERS)),
    'uper': (
        dict(out_indices=LEVELS),
        dict(type='UPerHead', in_channels=[WIDTH] * DEPTH, in_index=LEVELS, pool_scales=(1, 2), **OTHERS),
    ),
}
WITHOUT_WEIGHTS = {'plain': None} | {method.name: method.settings for method in METHODS}
REDUCTIONS = WITHOUT_WEIGHTS | {'CTS-network': dict(type='CTS', share=0.3)}


def build(head: str, reduction: dict | None, **changes) -> nn.Module:
    """A segmentor of one head; the same weights whatever the method."""
    init_default_scope('mmseg')
    backbone, decode_head = HEADS[head]
    arch = dict(embed_dim=WIDTH, depth=DEPTH, num_heads=2, patch_size=PATCH)
    backbone = dict(type='mmseg_tr.ViT', arch=arch, img_size=8 * PATCH, reduction=reduction) | backbone | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type='mmseg_tr.TokenSegmentor',
                backbone=copy.deepcopy(backbone),
                decode_head=copy.deepcopy(decode_head),
                test_cfg=dict(mode='whole'),
            )
        )
        with torch.no_grad():  # weights as drawn make attention so even that hardly anything depends on it
            for name, parameter in model.named_parameters():
                if 'policy' not in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.fixture(scope='module')
def models():
    """Built once a head and method."""
    built: dict[tuple[str, str], nn.Module] = {}

    def get(head: str, method: str) -> nn.Module:
        if (head, method) not in built:
            built[head, method] = build(head, REDUCTIONS[method])
        return built[head, method].eval()

    return get


def samples(batch: int, size: tuple[int, int]) -> list[SegDataSample]:
    labels = torch.randint(0, CLASSES, (batch, 1, *size), generator=torch.Generator().manual_seed(1))
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
    return [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=meta) for label in labels]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('grid', GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('method', REDUCTIONS)
def test_every_method_predicts_and_learns_under_every_head(models, method, head, grid, batch):
    model, images = models(head, method), pictures(batch, grid)
    size = tuple(images.shape[2:])
    predicted = model.predict(images, samples(batch, size))
    assert [sample.pred_sem_seg.data.shape for sample in predicted] == [(1, *size)] * batch
    assert not any('seg_logits' in sample for sample in predicted)
    model.test_cfg.seg_logits = True
    asked = model.predict(images, samples(batch, size))
    del model.test_cfg.seg_logits
    assert all(sample.seg_logits.data.isfinite().all() for sample in asked)
    for sample, labels in zip(asked, predicted):
        assert torch.equal(sample.pred_sem_seg.data, labels.pred_sem_seg.data)

    model.train().zero_grad(set_to_none=True)
    losses = model.loss(images, samples(batch, size))
    sum(loss for name, loss in losses.items() if 'loss' in name).backward()
    found = gradients(model)
    assert all(gradient.isfinite().all() for gradient in found.values())
    first = found['backbone.patch_embed.proj.weight']
    assert first.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.decode_head.parameters())


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('method', [name for name in REDUCTIONS if name != 'plain'])
def test_a_method_changes_what_is_predicted_and_batch_mates_do_not(models, method, head):
    model, images = models(head, method), pictures(3, GRIDS['non-square'])
    with torch.no_grad():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
        plain = models(head, 'plain')(images)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert (together - plain).abs().max() > 1e-4


@pytest.mark.parametrize('head', ['fcn', 'uper'])
@pytest.mark.parametrize('method', REDUCTIONS)
def test_tokens_in_front_of_a_head_for_maps_are_refused(method, head):
    with pytest.raises(ConfigError, match="gives tokens .out='tokens'., which (FCN|UPer)Head cannot take: set out="):
        build(head, REDUCTIONS[method], out='tokens')


@pytest.mark.parametrize('head', ['linear', 'mask'])
def test_segmenter_s_heads_take_maps_too(head):
    model, images = build(head, REDUCTIONS['ALGM'], out='maps').eval(), pictures(2, GRIDS['odd'])
    with torch.no_grad():
        assert model(images).shape == (2, CLASSES, *GRIDS['odd'])


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('method', WITHOUT_WEIGHTS)
def test_a_plain_checkpoint_loads_strictly_under_every_method(models, method, head):
    plain = models(head, 'plain').state_dict()
    model = models(head, method)
    assert model.state_dict().keys() == plain.keys()
    model.load_state_dict(plain, strict=True)


def test_a_plain_checkpoint_under_cts_s_policy_network_is_completed_or_refused(models, tmp_path):
    plain, file = models('linear', 'plain').state_dict(), tmp_path / 'policy.pth'
    cts = REDUCTIONS['CTS-network']
    with pytest.raises(CheckpointError, match='holds no policy network'):
        build('linear', cts).load_state_dict(plain, strict=True)
    policy = PolicyNet().state_dict()
    torch.save(dict(state_dict={f'policy.{key}': value for key, value in policy.items()}), file)
    model = build('linear', cts | dict(policy_checkpoint=str(file)))
    model.load_state_dict(plain, strict=True)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.items())
    assert all(torch.equal(state[f'backbone.reduction.policy.{key}'], value) for key, value in policy.items())
    # and the other way round: the plain model needs no more than its own weights
    models('linear', 'CTS-random').load_state_dict(state, strict=True)


def test_labels_without_logits_are_those_of_the_logits_whatever_becomes_of_the_image():
    model = build('linear', None)
    image = pictures(1, (10, 12))
    size = tuple(image.shape[2:])
    metas = [
        dict(ori_shape=size),
        dict(ori_shape=(33, 50)),
        dict(ori_shape=size, flip=True, flip_direction='horizontal'),
        dict(ori_shape=(size[0] - 3, size[1] - 2), padding_size=[0, 2, 0, 3]),
    ]
    for test_cfg in (
        dict(mode='whole'),
        dict(mode='slide', crop_size=size, stride=size),
        dict(mode='slide', crop_size=size, stride=size, small_images='shrink'),
        dict(mode='slide', crop_size=(32, 32), stride=(8, 16)),
    ):
        for meta in metas:
            found = []
            for asked in (False, True):
                model.test_cfg = ConfigDict(test_cfg, seg_logits=asked)
                found += model.predict(image, [SegDataSample(metainfo=meta | dict(img_shape=size))])
            assert ['seg_logits' in sample for sample in found] == [False, True]
            assert torch.equal(found[0].pred_sem_seg.data, found[1].pred_sem_seg.data)
            assert torch.equal(found[1].seg_logits.data.argmax(0, keepdim=True), found[1].pred_sem_seg.data)


def test_a_test_cfg_says_whether_logits_are_wanted():
    with pytest.raises(ConfigError, match="seg_logits='yes' must be True or False"):
        check_test_cfg(dict(mode='whole', seg_logits='yes'))
