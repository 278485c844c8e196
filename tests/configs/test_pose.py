"""Configs for pose: they agree with themselves and with what was published, build, train and predict."""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine import Config
from mmengine.registry import init_default_scope
from mmpose.registry import DATASETS, MODELS
from mmpose.testing import get_packed_inputs

from mmseg_tr.datasets.figure_files import write_figures
from mmseg_tr.nn import ViT
from mmseg_tr.nn.mit import MixVisionTransformer

ROOT = Path(__file__).parents[2] / 'local_configs'
FOLDERS = ('segformerpp_pose', 'vitpose')
CONFIGS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob('*.py'))
MIT = [path for path in CONFIGS if path.parent.name == 'segformerpp_pose']
PUBLISHED = [path for path in MIT if 'photo-figures' not in path.stem]
SETTINGS = ('bsm-hq', 'bsm-fast', 'n2d-2x2')
METHODS = ('act', 'algm', 'cts', 'evit', 'expedite', 'tome')
VARIANTS = [path for path in CONFIGS if path.stem.endswith(SETTINGS + METHODS)]


def each(paths):
    return pytest.mark.parametrize('path', paths, ids=[path.stem for path in paths])


@cache
def load(path):
    return Config.fromfile(path)


@pytest.fixture(autouse=True)
def mmpose_scope():
    init_default_scope('mmpose')


def narrow(path):
    """The model's settings; MiT-B5 stands in as one block of few channels a stage, over the same grids."""
    model = load(path).model.copy()
    if '_mit-b5_' in path.stem or '_mit-b0_' in path.stem:
        arch = dict(embed_dims=8, num_layers=(1, 1, 1, 1))
        model.backbone = dict(model.backbone, arch=arch, pretrained=None)
        model.head = dict(model.head, in_channels=(8, 16, 40, 64), channels=16)
    return model


def inputs_for(config, count=2):
    (width, height), (columns, rows) = config.codec.input_size, config.codec.heatmap_size
    return get_packed_inputs(
        count,
        num_instances=1,
        num_keypoints=len(keypoints(config)),
        img_shape=(height, width),
        input_size=(width, height),
        heatmap_size=(columns, rows),
        with_heatmap=True,
    )


def keypoints(config):
    dataset = dict(config.val_dataloader.dataset, lazy_init=True)
    for key in ('ann_file', 'data_root'):
        dataset.pop(key, None)
    return DATASETS.build(dataset).metainfo['keypoint_id2name']


@each(CONFIGS)
def test_sizes_and_keypoints_agree(path):
    config = load(path)
    width, height = config.codec.input_size
    assert f'-{height}x{width}' in path.stem
    assert config.codec.heatmap_size == (width // 4, height // 4)
    assert config.model.head.decoder == config.codec
    head = config.model.head
    assert head.get('num_keypoints', head.get('out_channels')) == len(keypoints(config))
    assert config.train_dataloader.dataset.type == config.val_dataloader.dataset.type
    for loader, step in (('train_dataloader', 'TopdownAffine'), ('val_dataloader', 'TopdownAffine')):
        (affine,) = (item for item in config[loader].dataset.pipeline if item.type == step)
        assert affine.input_size == config.codec.input_size
    (target,) = (item for item in config.train_dataloader.dataset.pipeline if item.type == 'GenerateTarget')
    assert target.encoder == config.codec


@each(CONFIGS)
def test_whole_model_has_the_widths_that_the_head_takes(path):
    """At full size, without memory for its weights."""
    backbone = dict(load(path).model.backbone)
    with torch.device('meta'):
        net = {'mmseg_tr.MiT': MixVisionTransformer, 'mmseg_tr.ViT': ViT}[backbone.pop('type')](**backbone)
    widths = tuple(net.widths) if path in MIT else net.embed_dim
    assert load(path).model.head.in_channels == widths


@each(CONFIGS)
@pytest.mark.filterwarnings('ignore:CTS. policy_checkpoint:UserWarning')
def test_trains_and_predicts(path):
    """Random pictures of the config's size; every stage merges, or a warning would say that it cannot."""
    torch.manual_seed(0)
    model, config = MODELS.build(narrow(path)), load(path)
    batch = inputs_for(config)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*merges less or not at all')
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
        losses['loss_kpt'].backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        assert {'loss_kpt', 'acc_pose'} <= set(losses)
        with torch.no_grad():
            results = model.eval().test_step(inputs_for(config))
    assert [result.pred_instances.keypoints.shape for result in results] == [(1, len(keypoints(config)), 2)] * 2
    assert all(np.isfinite(result.pred_instances.keypoints).all() for result in results)
    assert model.test_cfg['flip_test'] and model.test_cfg['shift_heatmap']


@each(VARIANTS)
def test_variant_is_the_plain_config_plus_one_setting(path):
    setting = path.stem.rpartition('_')[2]
    stem = path.stem.removesuffix(f'_{setting}') + ('_original' if path in MIT else '')
    ours, plain = load(path).to_dict(), load(path.with_name(f'{stem}.py')).to_dict()
    ours.pop('policy_checkpoint', None)
    if path in MIT:
        assert ours['model']['backbone'].pop('reduction') == dict(type='SegFormerPP', preset=setting.replace('-', '_'))
    else:
        assert ours['model']['backbone'].pop('reduction')['type'].lower() == setting
    assert ours == plain


def test_every_variant_is_there():
    names = {path.stem for path in CONFIGS}
    for data in ('coco-384x288', 'jbd-640x480'):
        assert f'segformer_mit-b0_{data}' in names
        assert {f'segformerpp_mit-b5_{data}_{setting}' for setting in ('original', *SETTINGS)} <= names
    data = 'photo-figures-192x144'
    assert {f'segformerpp_mit-tiny_{data}_{setting}' for setting in ('original', *SETTINGS)} <= names
    assert {f'vitpose_vit-tiny-p16_{data}_{method}' for method in METHODS} <= names


@each(PUBLISHED)
def test_schedule_is_the_published_one_with_reachable_steps(path):
    config = load(path)
    assert (config.train_cfg.max_epochs, config.train_dataloader.batch_size) == (210, 16)
    assert config.train_cfg.val_interval == (1 if 'coco' in path.stem else 10)
    assert config.codec.sigma == 3 and config.codec.type == 'MSRAHeatmap'
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=config.optim_wrapper.optimizer.lr)
    init_default_scope('mmengine')
    from mmengine.registry import PARAM_SCHEDULERS

    steps = PARAM_SCHEDULERS.build(dict(config.param_scheduler[1]), default_args=dict(optimizer=optimizer))
    rates = []
    for _ in range(config.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        steps.step()
    np.testing.assert_allclose(
        [rates[0], rates[169], rates[170], rates[199], rates[200]], [5e-4] * 2 + [5e-5] * 2 + [5e-6]
    )
    names = [dict(metric).get('type') for metric in np.atleast_1d(config.val_evaluator)]
    assert ('mmseg_tr.CocoMetric' in names) == ('coco' in path.stem)


@each([path for path in CONFIGS if path not in PUBLISHED])
def test_short_schedule_ends_with_its_updates(path):
    config = load(path)
    warmup, decay = config.param_scheduler
    assert (warmup.end, decay.end) == (decay.begin, config.train_cfg.max_iters)
    assert config.train_cfg.max_iters % config.default_hooks.checkpoint.interval == 0
    assert config.train_cfg.max_iters % config.train_cfg.val_interval == 0


@pytest.mark.parametrize('base', ['coco_384x288', 'jbd_640x480'])
def test_data_sets_are_read_where_they_are_prepared(base, tmp_path, monkeypatch):
    """Figures stand in for the photographs, in the places and under the names of the real files."""
    monkeypatch.setenv('DATASET', str(tmp_path))
    config = Config.fromfile(ROOT / f'_base_/datasets/{base}.py')
    joints = 'coco' if 'coco' in base else 'jump_broadcast'
    for loader in (config.train_dataloader, config.val_dataloader):
        root, dataset = Path(loader.dataset.data_root), loader.dataset
        written = write_figures(tmp_path / 'written', 'val', 2, size=(64, 64), joints=joints)
        for source, target in (
            (written, dataset.ann_file),
            (tmp_path / 'written/images/val', dataset.data_prefix['img']),
        ):
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            source.rename(root / target)
        item = DATASETS.build(dataset)[0]
        assert item['inputs'].shape == (3, *config.codec.input_size[::-1])


@pytest.mark.parametrize('base', ['coco_384x288', 'jbd_640x480'])
def test_unset_dataset_folder_can_be_recognised(base, monkeypatch):
    monkeypatch.delenv('DATASET', raising=False)
    config = Config.fromfile(ROOT / f'_base_/datasets/{base}.py')
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.data_root.startswith('unset:DATASET/')
