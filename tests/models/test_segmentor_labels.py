"""Labels without logits, from a few classes at a time, are those of the logits: windows, padding, flips and sizes."""

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_tr.nn import contenders

CLASSES, SIZE = 25, (80, 112)
VIT = dict(type='mmseg_tr.ViT', arch=dict(embed_dim=16, depth=1, num_heads=2, patch_size=8), img_size=80, out='tokens')
MIT = dict(type='mmseg_tr.MiT', arch=dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)))
TOKENS = dict(in_channels=16, num_classes=CLASSES)
LEVELS = dict(in_channels=[8, 16, 32, 64], in_index=[0, 1, 2, 3], channels=8, num_classes=CLASSES)
MODELS_OF = dict(
    linear=(VIT, dict(type='mmseg_tr.SegmenterLinearHead', **TOKENS)),
    straight=(VIT, dict(type='mmseg_tr.SegmenterMaskHead', depth=1, enlarge='straight', num_heads=2, **TOKENS)),
    segformer=(MIT, dict(type='mmseg_tr.SegformerHead', align_corners=False, **LEVELS)),
    corners=(MIT, dict(type='mmseg_tr.SegformerHead', align_corners=True, **LEVELS)),
)
TEST_CFGS = (
    dict(mode='whole'),
    dict(mode='slide', crop_size=SIZE, stride=SIZE, small_images='shrink'),
    dict(mode='slide', crop_size=(80, 80), stride=(37, 37), window_batch=3),
    dict(mode='slide', crop_size=(96, 96), stride=(48, 48)),  # the images are enlarged to it
)
METAS = (
    dict(ori_shape=SIZE),
    dict(ori_shape=(131, 203)),
    dict(ori_shape=(30, 42)),  # where torch enlarges by other arithmetic
    dict(ori_shape=(160, 224), flip=True, flip_direction='horizontal'),
    dict(ori_shape=SIZE, flip=True, flip_direction='vertical'),
    dict(ori_shape=(150, 210), padding_size=[3, 2, 1, 4]),
)


@pytest.fixture(scope='module', params=MODELS_OF)
def model(request):
    """A segmentor whose random scores make few classes win, as trained ones do."""
    init_default_scope('mmseg')
    backbone, head = MODELS_OF[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = MODELS.build(dict(type='mmseg_tr.TokenSegmentor', backbone=dict(backbone), decode_head=dict(head)))
    decide = torch.zeros(CLASSES)
    decide[::6] = 10

    def lifted(module, inputs, scores):
        return scores + decide[:, None, None]

    (getattr(built.decode_head, 'decoder', None) or built.decode_head.conv_seg).register_forward_hook(lifted)
    return built.eval()


@pytest.mark.parametrize('test_cfg', TEST_CFGS, ids=['whole', 'one window', 'windows', 'enlarged'])
def test_labels_are_those_of_the_logits(model, test_cfg, monkeypatch):
    compared = []
    real = contenders.contenders
    monkeypatch.setattr(
        'mmseg_tr.models.seg.segmentor.contenders', lambda *inputs: compared.append(real(*inputs)) or compared[-1]
    )
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    for meta in METAS:
        found = []
        for asked in (False, True):
            model.test_cfg = ConfigDict(test_cfg, seg_logits=asked)
            samples = [SegDataSample(metainfo=meta | dict(img_shape=SIZE, pad_shape=SIZE)) for _ in images]
            with torch.no_grad():
                found.append(model.predict(images, samples))
        for alone, with_logits in zip(*found):
            assert 'seg_logits' not in alone
            assert alone.pred_sem_seg.data.dtype == with_logits.pred_sem_seg.data.dtype
            assert torch.equal(alone.pred_sem_seg.data, with_logits.pred_sem_seg.data), meta
    assert min(map(len, compared)) < CLASSES < max(map(len, compared)) + 1
