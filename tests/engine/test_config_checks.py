"""Mistakes in a config end in one sentence that names the setting and its value, before anything is built."""

import pytest

from mmseg_tr.apis.config import fit_to_run, load_config
from mmseg_tr.apis.test import evaluate, other_classes
from mmseg_tr.apis.train import train
from mmseg_tr.engine import config_checks
from mmseg_tr.errors import ConfigError, InputError, MissingExtraError
from mmseg_tr.paths import CONFIGS
from tests.tiny import write_config, write_dataset

EARLY = {
    'model': [{}, None, 3, 'ViT', []],
    'model.backbone': [None, 3, {}, 'ViT'],
    'model.decode_head': [None, [], 'x'],
    'model.decode_head.num_classes': [0, -1, '3', None, 2.5],
    'train_dataloader.batch_size': [0, -1, 'two', None, 1.5, True],
    'test_dataloader.num_workers': [-1, 'a', None],
    'train_dataloader.dataset': [5, None],
    'train_cfg.max_iters': [0, -1, 'many', 2.5, float('nan')],
    'train_cfg.val_interval': [0, None, 'x'],
    'optim_wrapper.optimizer.lr': [-1, 'a', float('nan'), float('inf'), None],
    'randomness.seed': [-1, 'a', 1.5, 2**32],
    'model.data_preprocessor.mean': [[1.0], [1, 2], 'a', ['a'] * 3, [float('nan')] * 3, 5],
    'model.data_preprocessor.std': [[0, 1, 1], [1.0], 0],
}
# found when the parts are built, by whatever type refuses them
BUILT = {
    'optim_wrapper.optimizer': [dict(type='SGD', lr=0.1, momentom=0.9), dict(type='Adagrat', lr=1)],
    'param_scheduler': [[dict(type='PolyLR', powr=1)], [dict(type='Nope')]],
    'model.decode_head.loss_decode.loss_weight': ['a'],
    'model.decode_head.loss_decode.class_weight': [[1.0, 2.0], 5, ['a', 'b', 'c']],
    'default_hooks': [5],
    'log_level': ['LOUD'],
    'visualizer': [5],
    'model.backbone.arch': [dict(embed_dim=31, depth=2, num_heads=2, patch_size=8)],
    'model.decode_head.in_channels': ['a'],
    'train_cfg.type': ['NoLoop'],
}


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mistakes')
    return write_config(folder, write_dataset(folder / 'data', count=2))


@pytest.mark.parametrize(('name', 'value'), [(name, value) for name, values in EARLY.items() for value in values])
def test_a_value_that_cannot_be_right_is_named(config, name, value):
    loaded = load_config(str(config))
    node = loaded
    *folders, last = name.split('.')
    for key in folders:
        node = node[key]
    node[last] = value
    with pytest.raises(ConfigError) as caught:
        load_config(loaded)
    assert name.rpartition('.')[2] in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(('name', 'value'), [(name, value) for name, values in BUILT.items() for value in values])
def test_a_value_that_a_type_refuses_is_told_in_one_sentence(config, name, value, tmp_path):
    with pytest.raises(InputError) as caught:
        train(str(config), work_dir=str(tmp_path), cfg_options={name: value, 'train_cfg.max_iters': 1})
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('seed', [-5, 2**32, True, 'a', 1.5])
def test_a_seed_is_a_non_negative_integer(config, seed):
    with pytest.raises(ConfigError, match='seed must be an integer from 0') as caught:
        fit_to_run(load_config(str(config)), None, 'none', seed)
    assert caught.value.parameters == ('seed',)


def test_a_config_that_leaves_the_program_is_an_error(tmp_path):
    (tmp_path / 'leave.py').write_text('import sys\nsys.exit(0)\n')
    with pytest.raises(ConfigError, match=r'leave\.py'):
        load_config(str(tmp_path / 'leave.py'))


def test_a_pose_config_without_mmpose_names_the_extra(monkeypatch):
    monkeypatch.setattr(config_checks, 'installed', lambda module: False)
    path = next(CONFIGS.glob('segformerpp_pose/*.py'))
    with pytest.raises(MissingExtraError, match=r'mmseg_tr\[pose\].*--no-deps mmpose'):
        load_config(str(path))


def test_loaders_without_workers_take_settings_of_workers(config, tmp_path):
    options = {
        f'{name}_dataloader.{key}': value
        for name in ('train', 'test', 'val')
        for key, value in dict(num_workers=0, persistent_workers=True, prefetch_factor=2, pin_memory=False).items()
    }
    train(str(config), work_dir=str(tmp_path), cfg_options={**options, 'train_cfg.max_iters': 1})
    evaluate(str(config), str(tmp_path / 'iter_1.pth'), work_dir=str(tmp_path), cfg_options=options)


def test_other_classes_than_those_of_the_training_are_named():
    names = dict(classes=('road', 'car'))
    assert other_classes(dict(dataset_meta=names), names) is None
    assert other_classes({}, names) is None and other_classes(dict(dataset_meta=3), names) is None
    assert other_classes(dict(dataset_meta=dict(classes=['road', 'car'])), names) is None
    assert "class 1 is 'sky' there and 'car' here" in other_classes(
        dict(dataset_meta=dict(classes=['road', 'sky'])), names
    )
    assert '3 classes, the dataset has 2' in other_classes(dict(dataset_meta=dict(classes=['a', 'b', 'c'])), names)
