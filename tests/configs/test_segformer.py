"""Configs of SegFormer and SegFormer++: they agree with what is published, and build, train and run.

Networks keep their settings and are built with one block a stage and 8 channels in the first.
"""

import copy

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.reduction.segformerpp import SegFormerPP
from mmseg_tr.reduction.segformerpp.settings import PRESETS
from mmseg_tr.weights.published import SEGFORMER, SEGFORMERPP
from tests.configs.test_configs import EVERY, ROOT, each, find, load, one_of_each

CONFIGS = [path for path in EVERY if path.parent.name == 'segformerpp']
PLAIN = [path for path in CONFIGS if path.stem.startswith('segformer_')]
VARIANTS = [path for path in CONFIGS if path not in PLAIN]
PUBLISHED = [path for path in CONFIGS if 'photo-mosaic' not in path.name]
SETTINGS = {name.replace('_', '-') for name in PRESETS}
PARAMETERS = dict(b0=3.72, b1=13.68, b2=24.73, b3=44.60, b4=61.37, b5=81.97)  # with a head of 19 classes, in millions
WIDTH = 8


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


def narrow(model):
    """The model's settings over a MiT of one narrow block a stage."""
    model = copy.deepcopy(model)
    heads = (1, 2, 5, 8)
    model.backbone.update(arch=dict(embed_dims=WIDTH, num_layers=(1, 1, 1, 1), num_heads=heads), pretrained=None)
    model.decode_head.update(in_channels=[WIDTH * count for count in heads], channels=16)
    return model


def test_every_published_network_and_setting_has_a_config():
    names = {path.stem for path in CONFIGS}
    stock = {
        f'segformer_mit-b{size}_{data}' for size in range(6) for data in ('cityscapes-1024x1024', 'ade20k-512x512')
    }
    assert {path.stem for path in PLAIN} == stock | {'segformer_mit-b5_ade20k-640x640'} == set(SEGFORMER)
    rows = ['mit-b2_cityscapes-1024x1024', 'mit-b5_cityscapes-1024x1024', 'mit-b5_ade20k-640x640']
    rows.append('mit-tiny_photo-mosaic-128x128')
    assert {path.stem for path in VARIANTS} == {f'segformerpp_{row}_{name}' for row in rows for name in SETTINGS}
    assert set(SEGFORMERPP) <= names


@each(VARIANTS)
def test_a_variant_is_the_original_plus_its_setting(path):
    setting = path.stem.rpartition('_')[2]
    config, original = load(path).to_dict(), load(path.with_name(f'{path.stem[: -len(setting)]}original.py')).to_dict()
    wanted = dict(type='SegFormerPP', preset=setting.replace('-', '_'))
    assert config['model']['backbone'].pop('reduction', None) == (None if setting == 'original' else wanted)
    assert config == original
    if path in PUBLISHED:
        plain = load(ROOT / 'segformerpp' / f'{path.stem.rpartition("_")[0].replace("segformerpp", "segformer")}.py')
        assert original['model'] == plain.model.to_dict()
        assert original['optim_wrapper'] == plain.optim_wrapper.to_dict()


@each(CONFIGS)
def test_crop_window_and_classes_agree(path):
    config = load(path)
    model = config.model
    crop = model.data_preprocessor.size[0]
    dataset = DATASETS.get(config.train_dataloader.dataset.type)
    assert model.decode_head.num_classes == len(dataset.METAINFO['classes'])
    assert f'{crop}x{crop}' in path.stem and model.data_preprocessor.size == (crop, crop)
    if 'ade20k' in path.stem:
        assert model.test_cfg == dict(mode='whole')
    else:
        stride = {1024: 768, 128: 96}[crop]
        assert model.test_cfg == dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride))


@each(PUBLISHED)
def test_pipelines_and_schedule_are_as_published(path):
    config = load(path)
    crop = config.model.data_preprocessor.size[0]
    scale = (2048, 512 if crop == 512 else 640 if crop == 640 else 1024)
    train = config.train_dataloader.dataset.pipeline
    resize = find(train, 'RandomResize')
    assert resize.scale == find(config.test_pipeline, 'Resize').scale == scale and resize.ratio_range == (0.5, 2.0)
    for loader in (config.val_dataloader, config.test_dataloader):
        assert find(loader.dataset.pipeline, 'Resize').scale == scale
    assert find(train, 'RandomCrop') == dict(type='RandomCrop', crop_size=(crop, crop), cat_max_ratio=0.75)
    assert find(train, 'RandomFlip').prob == 0.5 and find(train, 'PhotoMetricDistortion')
    batch = (4, 8) if path in VARIANTS else (8, 16)  # the authors' per GPU; OpenMMLab's over 8 GPUs
    assert config.train_dataloader.batch_size == batch['ade20k' in path.stem]
    assert config.optim_wrapper.optimizer == dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    keys = config.optim_wrapper.paramwise_cfg.custom_keys
    assert keys == dict(pos_block=dict(decay_mult=0.0), norm=dict(decay_mult=0.0), head=dict(lr_mult=10.0))
    assert config.train_cfg.max_iters == 160000 and config.train_cfg.val_interval == 16000
    warmup, poly = config.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.begin, warmup.end) == ('LinearLR', 1e-6, 0, 1500)
    assert (poly.type, poly.power, poly.eta_min, poly.begin, poly.end) == ('PolyLR', 1.0, 0.0, 1500, 160000)
    assert config.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert config.model.data_preprocessor.std == [58.395, 57.12, 57.375]


@each(PLAIN)
def test_networks_start_from_the_weights_of_their_name(path):
    settings = load(path).model
    assert settings.backbone.pretrained is True and settings.backbone.drop_path_rate == 0.1
    assert f'mit-{settings.backbone.arch}_' in path.stem
    assert settings.decode_head.in_channels == [settings.decode_head.in_channels[0] * heads for heads in (1, 2, 5, 8)]


@each([path for path in PLAIN if path.stem.endswith('ade20k-512x512')])
def test_networks_are_as_large_as_published(path):
    settings = load(path).model
    with torch.device('meta'):
        model = MODELS.build(settings)
    assert list(model.backbone.widths) == settings.decode_head.in_channels
    parameters = sum(weight.numel() for weight in model.parameters()) - 257 * (settings.decode_head.num_classes - 19)
    assert round(parameters / 1e6, 2) == PARAMETERS[settings.backbone.arch]


@each(one_of_each(CONFIGS, lambda path: path.stem.split('_', 2)[2]))
def test_model_builds_trains_and_runs(path):
    """For one size of network, as all are narrowed to the same."""
    torch.manual_seed(0)
    model = MODELS.build(narrow(load(path).model))
    assert isinstance(model.backbone, MixVisionTransformer)
    classes = model.decode_head.num_classes
    images, labels = torch.randn(2, 3, 128, 160), torch.randint(0, classes, (2, 1, 128, 160))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=(128, 160))) for label in labels]
    losses = model(images, samples, mode='loss')
    losses['decode.loss_ce'].backward()
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    image = torch.randint(0, 256, (3, 140, 150), dtype=torch.uint8)
    sample = SegDataSample(metainfo=dict(ori_shape=(70, 75), img_shape=(140, 150)))
    with torch.no_grad():
        (result,) = model.eval().test_step(dict(inputs=[image], data_samples=[sample]))
    assert result.pred_sem_seg.data.shape == (1, 70, 75)


def test_tiny_network_of_the_embedded_data_set_merges_on_its_pictures():
    x = torch.rand(1, 3, 128, 128)
    settings = dict(load(ROOT / 'segformerpp' / 'segformerpp_mit-tiny_photo-mosaic-128x128_original.py').model.backbone)
    settings.pop('type')
    torch.manual_seed(0)
    model = MixVisionTransformer(**settings).eval()
    with torch.no_grad():
        plain = model(x)
        for name in ('bsm_hq', 'bsm_fast', 'n2d_2x2'):
            model.reduction = SegFormerPP(name)
            assert all(not torch.equal(a, b) for a, b in zip(plain, model(x), strict=True))
