"""Test-time augmentation: one view changes nothing, several are averaged, one output channel included."""

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import MaskTransformer

SIZE = (24, 40)
TOKENS = dict(type='mmseg_tr.ViT', arch=dict(embed_dim=16, depth=1, num_heads=2, patch_size=8), img_size=32)
BINARY = dict(num_classes=2, out_channels=1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
HEADS = {
    'linear, several classes': dict(type='mmseg_tr.SegmenterLinearHead', in_channels=16, num_classes=3),
    'linear, one channel': dict(type='mmseg_tr.SegmenterLinearHead', in_channels=16, **BINARY),
    'linear, one channel, threshold 0.5': dict(
        type='mmseg_tr.SegmenterLinearHead', in_channels=16, threshold=0.5, **BINARY
    ),
    'mask, two classes': dict(type='mmseg_tr.SegmenterMaskHead', in_channels=16, num_classes=2, depth=1, num_heads=2),
    'FCN, one channel': dict(type='FCNHead', in_channels=16, channels=8, num_convs=1, concat_input=False, **BINARY),
    'FCN, several classes': dict(
        type='FCNHead', in_channels=16, channels=8, num_convs=1, concat_input=False, num_classes=4
    ),
}
SEGMENTORS = ('mmseg_tr.TokenSegmentor', 'EncoderDecoder')


def build(head, segmentor, **test_cfg):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    settings = dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3)
    model = MODELS.build(
        dict(
            type=segmentor,
            data_preprocessor=settings,
            backbone=dict(TOKENS, drop_rate=0.0),
            decode_head=dict(HEADS[head]),
            test_cfg=ConfigDict(mode='whole', **test_cfg),
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def view(image, scale=1, flip=False):
    """What a pipeline gives for one view of an image."""
    seen = torch.nn.functional.interpolate(image[None].float(), scale_factor=scale)[0].byte()
    meta = dict(ori_shape=SIZE, img_shape=tuple(seen.shape[1:]), flip=flip, flip_direction='horizontal')
    return dict(
        inputs=[seen.flip(-1) if flip else seen], data_samples=[SegDataSample(metainfo=meta | dict(img_path='a.png'))]
    )


def stacked(*views):
    return {key: [item[key] for item in views] for key in views[0]}


def image(seed=0):
    return torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@torch.no_grad()
def labels(model, data):
    return model.test_step(data)[0].pred_sem_seg.data.long().squeeze()


@pytest.mark.parametrize('segmentor', SEGMENTORS)
@pytest.mark.parametrize('head', HEADS)
def test_views_are_averaged_and_a_single_one_changes_nothing(head, segmentor):
    model = build(head, segmentor)
    tta = MODELS.build(dict(type='mmseg_tr.TokenTTAModel', module=model))
    plain = labels(model, view(image()))
    assert plain.float().std() > 0, 'every pixel alike would compare nothing'
    assert torch.equal(labels(tta, stacked(view(image()))), plain)
    assert torch.equal(labels(tta, stacked(view(image()), view(image()))), plain)
    with torch.no_grad():
        wanted = 0
        for seen in (view(image()), view(image(), flip=True), view(image(), scale=2)):
            sample = MODELS.build(dict(type='mmseg_tr.TokenTTAModel', module=model)).test_step(stacked(seen))[0]
            logits = sample.seg_logits.data
            wanted = wanted + (logits.softmax(0) if len(logits) > 1 else logits)
    wanted = wanted / 3
    wanted = wanted.argmax(0) if len(wanted) > 1 else (wanted[0] > model.decode_head.threshold).long()
    views = stacked(view(image()), view(image(), flip=True), view(image(), scale=2))
    assert torch.equal(labels(tta, views), wanted)


def test_a_module_replaced_after_construction_is_asked_for_logits():
    tta = MODELS.build(dict(type='mmseg_tr.TokenTTAModel', module=build('mask, two classes', SEGMENTORS[1])))
    other = build('linear, several classes', SEGMENTORS[0])
    tta.module = other
    views = stacked(view(image()), view(image(), flip=True))
    assert labels(tta, views).shape == SIZE
    assert 'seg_logits' not in other.test_cfg
    assert 'seg_logits' not in other.test_step(view(image()))[0]


def test_a_mask_transformer_of_one_class_is_refused():
    init_default_scope('mmseg')
    with pytest.raises(ConfigError, match='num_classes must be 2 or more.*linear'):
        MaskTransformer(1, 16, num_heads=2)
    for settings in (BINARY, dict(num_classes=1)):
        with pytest.raises(ConfigError, match='num_classes must be 2 or more'):
            MODELS.build(dict(type='mmseg_tr.SegmenterMaskHead', in_channels=16, num_heads=2, **settings))
