"""Every config under local_configs: it loads, agrees with itself and its data set, builds and runs."""

import copy
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
import mmcv
from mmengine import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.nn import ViT
from tests.configs.weightless import weightless

ROOT = Path(__file__).parents[2] / 'local_configs'
EVERY = sorted(path for path in ROOT.glob('*/*.py') if path.parent.name != '_base_')
POLICIES = [path for path in EVERY if path.stem.startswith('cts-policy_')]  # classifiers, not segmentation networks
OTHERS = ('segformerpp', 'segformerpp_pose', 'vitpose')  # networks on MiT and for pose: tested beside this file
CONFIGS = [path for path in EVERY if path not in POLICIES and path.parent.name not in OTHERS]
SEGMENTER = [path for path in CONFIGS if path.parent.name == 'segmenter']
ALGM = [path for path in CONFIGS if path.parent.name == 'algm']
CTS = [path for path in CONFIGS if path.parent.name == 'cts']
# one network under many settings, the rows of one comparison: test_compared.py builds and runs them, for less time
COMPARED = [path for path in CONFIGS if path.parent.name in ('expedite', 'evit', 'tome', 'act')]
COMPARED = [path for path in COMPARED if '_vit-l16_' in path.stem and 'original' not in path.stem]
# the plain network beside them, in that repository's dialect
EXPEDITE = [*COMPARED, *(path for path in SEGMENTER if path.stem.endswith('_expedite'))]
PUBLISHED = [path for path in CONFIGS if 'photo-mosaic' not in path.name]
# training images, batch of the whole world, epochs, learning rate, epochs between evaluations; cap of the long side
SCHEDULES = {
    'ADE20KDataset': (20210, 8, 64, 1e-3, 2),
    'PascalContextDataset': (4998, 16, 256, 1e-3, 8),
    'CityscapesDataset': (2975, 8, 216, 1e-2, 4),
    'coco_stuff10k': (9000, 8, 64, 1e-3, 4),  # ours, with ADE20K's learning rate: none was published
    'coco_stuff164k': (118287, 8, 16, 1e-3, 1),
}
SIZES = {512: (2048, 512), 640: (2560, 640), 480: (4160, 520), 768: (2048, 1024)}
STRIDES = {512: 480, 640: 608, 480: 448, 768: 512, 128: 96}
EXPEDITE_STRIDES = {640: 640, 480: 320, 768: 512}
CTS_STRIDES = {512: 512, 640: 512, 480: 320, 768: 512, 128: 96}
# crop -> shared superpatches, patches kept, tokens
CTS_SCHEDULES = {512: (103, 612, 715), 640: (160, 960, 1120), 480: (90, 540, 630), 768: (336, 960, 1296)}


def network_of(path):
    """Name of a config without its data set."""
    return re.sub(r'_(ade20k|cityscapes|pascal-context|coco-stuff\d+k|photo-mosaic)-\d+x\d+', '', path.stem)


def one_of_each(paths, key):
    """The first path of every key."""
    return list({key(path): path for path in reversed(paths)}.values())[::-1]


def plain_of(path):
    """The config that one of ALGM or CTS is equal to but for the reduction, as tests below show; of others itself."""
    plain = ROOT / 'segmenter' / re.sub('^(algm|cts)_', 'segmenter_', path.name)
    return plain if plain.exists() else path


def each(paths):
    return pytest.mark.parametrize('path', paths, ids=[path.stem for path in paths])


@cache
def load(path):
    return Config.fromfile(path)


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


def find(pipeline, kind):
    return next(step for step in pipeline if step['type'] == kind)


def narrow(model, width=16):
    """The model's settings with an encoder and heads of few channels; depth, grid and reduction stay."""
    backbone = {key: value for key, value in model.backbone.items() if key != 'type'}
    vit = weightless(ViT, **backbone)
    arch = dict(embed_dim=width, depth=len(vit.blocks), num_heads=1)
    arch |= dict(patch_size=vit.patch_size[0], distilled=vit.dist_token is not None)
    parts = ('neck', 'decode_head', 'auxiliary_head')
    ours = {
        part: with_channels(value, vit.embed_dim, width) for part, value in model.to_dict().items() if part in parts
    }
    return model.to_dict() | ours | dict(backbone=dict(model.backbone, arch=arch, pretrained=None))


def with_channels(settings, encoder, width):
    """Settings in which every number of the encoder's channels and every `channels` is the given width."""
    if isinstance(settings, dict):
        return {
            key: width if key == 'channels' else with_channels(value, encoder, width) for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return type(settings)(with_channels(value, encoder, width) for value in settings)
    return width if settings == encoder and not isinstance(settings, bool) else settings


@each(
    one_of_each(
        [path for path in EVERY if path not in COMPARED],
        lambda path: (path.stem.split('_')[0], path.stem.split('_', 2)[2]),
    )
)
def test_pretty_text_reads_back_as_the_same_config(path, tmp_path, request):
    """One of every folder, data set and setting. Formatted for the first of each folder: that changes no value."""
    if path == next(other for other in EVERY if other.parent == path.parent):
        request.getfixturevalue('formatted_config_text')
    config = load(path)
    file = tmp_path / 'copy.py'
    file.write_text(config.pretty_text)
    assert Config.fromfile(file).to_dict() == config.to_dict()


@each([path for path in CONFIGS if path not in EXPEDITE and plain_of(path) == path])
def test_whole_model_fits_together(path):
    """At full width and depth, without memory for weights; nothing merges, as there is nothing to compare."""
    settings = copy.deepcopy(load(path).model)
    settings.backbone.pop('reduction', None)
    model = weightless(MODELS.build, settings).eval()
    patch = model.backbone.patch_size[0]
    with torch.device('meta'), torch.no_grad():
        scores = model(torch.empty(1, 3, 8 * patch, 6 * patch), mode='tensor')
    assert scores.shape[:2] == (1, settings.decode_head.num_classes)


@each(one_of_each([path for path in CONFIGS if path not in EXPEDITE], network_of))
def test_narrow_model_trains_and_runs(path):
    """Two small random images, for one data set: others change the number of classes and the size of the grid.

    Weights are random too, since building a model downloads nothing.
    """
    torch.manual_seed(0)
    settings = narrow(load(path).model)
    model = MODELS.build(settings)
    patch, classes = model.backbone.patch_size[0], settings['decode_head']['num_classes']
    images = torch.randn(2, 3, 8 * patch, 6 * patch)
    labels = torch.randint(0, classes, (2, 1, 8 * patch, 6 * patch))
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=label.shape[-2:])) for label in labels
    ]
    losses = model(images, samples, mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.eval()
    with torch.no_grad():
        scores = model(images, mode='tensor')
    assert scores.shape[:2] == (2, classes)
    assert torch.isfinite(scores).all()
    work = count_macs(model, images)
    assert work.total() > 0 and not work.unknown


@each([path for path in CONFIGS if path not in PUBLISHED])
def test_predicts_at_the_size_of_the_image(path):
    model = MODELS.build(load(path).model).eval()
    image = torch.randint(0, 256, (3, 100, 150), dtype=torch.uint8)
    sample = SegDataSample(metainfo=dict(ori_shape=(100, 150), img_shape=(100, 150)))
    with torch.no_grad():
        (result,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    assert result.pred_sem_seg.data.shape == (1, 100, 150)


@each(CONFIGS)
def test_crop_window_and_classes_agree(path):
    config = load(path)
    model, crop = config.model, config.model.backbone.img_size
    heads = [model.decode_head] + ([model.auxiliary_head] if 'auxiliary_head' in model else [])
    dataset = DATASETS.get(config.train_dataloader.dataset.type)
    assert {head.num_classes for head in heads} == {len(dataset.METAINFO['classes'])}
    assert f'{crop}x{crop}' in path.stem
    assert model.data_preprocessor.size == model.test_cfg.crop_size == (crop, crop)
    stride = (CTS_STRIDES if path in CTS else EXPEDITE_STRIDES if path in EXPEDITE else STRIDES)[crop]
    assert model.test_cfg.stride == (stride, stride)
    assert all(head.loss_decode.avg_non_ignore for head in heads)


@each(PUBLISHED)
def test_pipelines_have_the_published_sizes(path):
    config = load(path)
    crop = config.model.backbone.img_size
    train = config.train_dataloader.dataset.pipeline
    assert find(train, 'RandomResize').scale == find(config.test_pipeline, 'Resize').scale == SIZES[crop]
    assert find(train, 'RandomCrop') == dict(type='RandomCrop', crop_size=(crop, crop), cat_max_ratio=0.75)
    long, short = SIZES[crop]
    scales = [resize.scale for resize in find(config.tta_pipeline, 'TestTimeAug').transforms[0]]
    assert scales == [(int(long * r), int(short * r)) for r in (0.5, 0.75, 1, 1.25, 1.5, 1.75)]


@each(PUBLISHED)
def test_schedule_has_the_published_length(path):
    config = load(path)
    dataset = config.train_dataloader.dataset
    images, batch, epochs, lr, every = SCHEDULES.get(dataset.type) or SCHEDULES[Path(dataset.data_root).name]
    epoch = math.ceil(images / batch)
    assert config.train_dataloader.batch_size == batch
    assert config.train_cfg.max_iters == config.param_scheduler[0].end == epochs * epoch
    method = path.parent.name, dataset.type
    every = {('algm', 'ADE20KDataset'): 1, ('cts', 'CityscapesDataset'): 8}.get(method, every)
    assert config.train_cfg.val_interval == every * epoch
    assert config.optim_wrapper.optimizer == dict(type='SGD', lr=lr, momentum=0.9, nesterov=True, weight_decay=0.0)


@each(ALGM)
def test_algm_config_is_segmenter_plus_merging(path):
    """Heads of mmsegmentation aside, only the reduction differs."""
    model = load(path).model.copy()
    assert model.backbone.reduction.type == 'ALGM'
    plain = path.stem.replace('algm_', 'segmenter_').replace('fcn_', '').replace('upernet_', '')
    base = load(ROOT / 'segmenter' / f'{plain}.py').model
    shared = set(base) - ({'decode_head'} if plain[10:] != path.stem[5:] else set())
    ours = {key: value for key, value in model.backbone.items() if key not in ('reduction', 'out', 'out_indices')}
    assert ours == {key: value for key, value in base.backbone.items() if key != 'out'}
    assert all(model[key] == base[key] for key in shared - {'backbone'})


@each(CTS)
def test_cts_config_is_segmenter_plus_sharing(path):
    """Only the reduction and the stride of the windows differ; how many tokens remain is as published."""
    model = load(path).model
    base = load(ROOT / 'segmenter' / path.name.replace('cts_', 'segmenter_')).model
    ours = {key: value for key, value in model.backbone.items() if key != 'reduction'}
    assert ours == base.backbone and model.decode_head == base.decode_head
    assert dict(model.test_cfg, stride=None) == dict(base.test_cfg, stride=None)
    reduction = model.backbone.reduction
    policy = ROOT / 'cts' / f'{Path(reduction.policy_checkpoint).parent.name}.py'
    last = load(policy).train_cfg.max_iters
    assert reduction.policy_checkpoint == f'work_dirs/{policy.stem}/iter_{last}.pth'
    vit = weightless(ViT, **{key: value for key, value in model.backbone.items() if key != 'type'})
    patches, shared = vit.grid[0] * vit.grid[1], vit.reduction.count(vit.grid)
    if path in PUBLISHED:
        assert (shared, patches - 4 * shared, patches - 3 * shared) == CTS_SCHEDULES[model.backbone.img_size]
        assert reduction.shared == shared


@each(POLICIES)
def test_policy_network_is_trained_as_published(path):
    config = load(path)
    model = config.model
    size = model.data_preprocessor.size
    assert f'{size[0]}x{size[1]}' in path.stem and size[0] % 32 == size[1] % 32 == 0
    assert model.data_preprocessor.mean == model.data_preprocessor.std == [127.5] * 3
    assert config.train_dataloader.batch_size == 8
    assert config.val_evaluator == config.test_evaluator == dict(type='mmseg_tr.PolicyAccuracy')
    if 'photo-mosaic' in path.stem:
        return
    dataset = config.train_dataloader.dataset
    rules = dict(
        ADE20KDataset=dict(ignore_mixed_border=True),
        PascalContextDataset=dict(zero_is_ignore=True),
        CityscapesDataset={},
    )
    assert model.labels == rules[dataset.type]
    assert dataset.get('reduce_zero_label', False) == (dataset.type == 'ADE20KDataset')
    assert model.pretrained is True and config.train_cfg.max_iters == 50000 and config.param_scheduler == []
    assert config.optim_wrapper.optimizer == dict(type='AdamW', lr=5e-5, weight_decay=1e-3)


@each(POLICIES)
def test_policy_network_builds_trains_and_predicts(path):
    config = load(path)
    model = MODELS.build(dict(config.model, pretrained=None))
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]
    labels = torch.randint(0, 3, (2, 1, 64, 96), dtype=torch.uint8)
    labels[0] = 2
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=(64, 96))) for label in labels]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    loss = model(**data, mode='loss')['loss']
    loss.backward()
    assert torch.isfinite(loss) and model.policy.head.weight.grad.abs().sum() > 0
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=(64, 96))) for label in labels]
    found = model.eval().test_step(dict(inputs=images, data_samples=samples))
    assert [sample.pred_policy.data.shape for sample in found] == [(1, 2, 3)] * 2


@pytest.mark.parametrize('size', [(683, 512), (511, 340), (2048, 1024), (500, 375), (333, 500), (1000, 97)])
def test_keep_ratio_resize_rounds_as_published(size):
    width, height = size
    for long, short in SIZES.values():
        factor = min(long / max(size), short / min(size))
        resized = mmcv.imrescale(np.zeros((height, width), np.uint8), (long, short))
        assert resized.shape == (int(height * factor + 0.5), int(width * factor + 0.5))
