"""A run is refused before it starts when its data cannot be right. The main process alone looks."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from torch import nn

from mmseg_tr.apis.test import evaluate
from mmseg_tr.apis.train import train
from mmseg_tr.engine import data_checks
from mmseg_tr.engine.data_checks import DataPart, check_batch, check_classes_of_heads, check_parts
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.runner import ToolRunner
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.registry import MODELS
from tests.tiny import CLASSES, write_config, write_dataset


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('data') / 'set')


def head(classes, **more):
    return SimpleNamespace(num_classes=classes, **more)


def described(count):
    return SimpleNamespace(metainfo=dict(classes=tuple(f'c{number}' for number in range(count))))


@pytest.mark.parametrize(('predicted', 'named'), [(2, 3), (4, 2), (150, 19), (1, 3)])
def test_heads_and_dataset_must_have_as_many_classes_in_both_directions(predicted, named):
    with pytest.raises(ConfigError, match=f'{predicted} classes.*{named}.*num_classes={named}'):
        check_classes_of_heads([head(named), head(predicted)], described(named))
    check_classes_of_heads([head(named)], described(named))


@pytest.mark.parametrize(('predicted', 'named'), [(1, 1), (1, 2), (2, 2)])
def test_one_output_channel_stands_for_two_classes(predicted, named):
    check_classes_of_heads([head(predicted, out_channels=1)], described(named))
    with pytest.raises(ConfigError):
        check_classes_of_heads([head(predicted, out_channels=1)], described(3))


def part(config, name='train', **more):
    loader = ToolRunner.build_dataloader({**config[f'{name}_dataloader'], **more}, seed=0)
    return DataPart(name, loader)


def preprocessor(size=(32, 32)):
    return MODELS.build(dict(type='mmseg.SegDataPreProcessor', size=size, pad_val=0, seg_pad_val=255))


def config_of(root, tmp_path, **changes):
    init_default_scope('mmseg')
    config = Config.fromfile(write_config(tmp_path, root))
    config.merge_from_dict(changes)
    return config


def write_sizes(root, sizes):
    for number, size in enumerate(sizes):
        for folder, shape in (('images', (*size, 3)), ('labels', size)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, number % 3, np.uint8)).save(root / folder / f'{number}.png')
    return root


CROP = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(32, 32)),
    dict(type='PackSegInputs'),
]


@pytest.mark.parametrize(
    ('sizes', 'changes', 'fits'),
    [
        ([(32, 32)] * 3, {}, True),
        ([(32, 32), (32, 50)], {}, False),
        ([(32, 32)] * 9 + [(90, 60)], {}, False),
        ([(32, 32), (32, 50)], {'train_dataloader.batch_size': 1}, True),
        ([(40, 60), (60, 40), (33, 32)], {'train_dataloader.dataset.pipeline': CROP}, True),
        ([(20, 24), (30, 8)], {}, True),  # padded to the size of the preprocessor
    ],
)
def test_pictures_of_several_sizes_in_a_batch_are_named(sizes, changes, fits, tmp_path):
    config = config_of(write_sizes(tmp_path / 'set', sizes), tmp_path, **changes)
    one = part(config)
    examples = [sizes.index(size) for size in sorted(set(sizes))]
    if fits:
        check_batch(one, preprocessor(), examples)
        return
    with pytest.raises(DatasetError, match='several sizes') as error:
        check_batch(one, preprocessor(), examples)
    for size in {sizes[0], sizes[-1]}:
        assert f'{size[0]} x {size[1]}' in str(error.value)


def test_sizes_that_a_test_cannot_stack_are_named(tmp_path):
    config = config_of(write_sizes(tmp_path / 'set', [(32, 32), (32, 50)]), tmp_path)
    with pytest.raises(DatasetError, match='batch_size=1'):
        check_batch(part(config, 'test', batch_size=2), preprocessor(None), [0, 1])
    check_batch(part(config, 'test'), preprocessor(None), [0, 1])


def test_random_states_stay_as_they_were(tmp_path, pairs):
    config = config_of(pairs, tmp_path, **{'train_dataloader.dataset.pipeline': CROP})
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = nn.Module()
    model.data_preprocessor = preprocessor()
    check_parts(model, [part(config)], logging.getLogger('check'))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def spoil(root, value):
    for path in sorted((root / 'labels').iterdir()):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[3:5] = value
        Image.fromarray(pixels).save(path)


def test_training_and_testing_refuse_foreign_values_unless_told_otherwise(tmp_path):
    root = write_dataset(tmp_path / 'set', 2)
    config = write_config(tmp_path, root, "train_cfg['max_iters'] = 1")
    checkpoint = tmp_path / 'work/iter_1.pth'
    train(str(config), work_dir=str(tmp_path / 'work'))
    spoil(root, 7)
    for run in (
        lambda **more: train(str(config), work_dir=str(tmp_path / 'other'), **more),
        lambda **more: evaluate(str(config), str(checkpoint), work_dir=str(tmp_path / 'other'), **more),
    ):
        with pytest.raises(DatasetError, match='00.png holds 7'):
            run()
        with pytest.raises(DatasetError, match='00.png holds 7'):
            run(check_data=True, cfg_options=dict(check_data=False))
    for off in (dict(check_data=False), dict(cfg_options=dict(check_data=False))):
        evaluate(str(config), str(checkpoint), work_dir=str(tmp_path / 'other'), **off)


def test_a_test_ignores_what_its_metric_ignores(tmp_path):
    """The void number 11 must stand in the evaluator too, else its pixels would be dropped without a word."""
    root = write_dataset(tmp_path / 'set', 2)
    spoil(root, 11)
    config = Config.fromfile(write_config(tmp_path, root))
    config.merge_from_dict(
        {
            'model.decode_head.ignore_index': 11,
            **{
                f'{name}_dataloader.dataset.pipeline': [
                    *CROP[:2],
                    dict(type='mmseg_tr.MapLabels', mapping={255: 11}),
                    CROP[3],
                ]
                for name in ('train', 'val', 'test')
            },
        }
    )
    with pytest.raises(DatasetError, match='ignore_index=11'):
        train(config, work_dir=str(tmp_path / 'work'))
    config.merge_from_dict({'val_evaluator.ignore_index': 11, 'train_cfg.max_iters': 1})
    train(config, work_dir=str(tmp_path / 'work'))


def test_only_the_main_process_looks_and_all_hear_of_it(monkeypatch):
    heard = ConfigError('the head predicts 2 classes')
    monkeypatch.setattr(data_checks, 'is_main_process', lambda: False)
    monkeypatch.setattr(data_checks, 'check_parts', lambda *_: pytest.fail('looked'))
    monkeypatch.setattr(data_checks, 'broadcast_object_list', lambda found: found.__setitem__(0, heard))
    with pytest.raises(ConfigError, match='predicts 2 classes'):
        data_checks.check_run_data(SimpleNamespace(), 'train')


WRONG_METAINFO = [
    dict(classes='water'),
    dict(classes=5),
    dict(classes=None),
    dict(classes=()),
    dict(classes=('a', 1, 'c')),
    dict(classes=('a', 'b', 'a')),
    dict(classes=CLASSES, palette='red'),
    dict(classes=CLASSES, palette=[[0, 0, 0], [1, 1, 1]]),
    dict(classes=CLASSES, palette=[[0, 0, 0], [1, 1, 1], [1, 2]]),
    dict(classes=CLASSES, palette=[[0, 0, 0], [1, 1, 1], [1, 2, 256]]),
    dict(classes=CLASSES, palette=[[0, 0, 0], [1, 1, 1], [1, 2, float('nan')]]),
    'classes.txt',
]


@pytest.mark.parametrize('metainfo', WRONG_METAINFO, ids=str)
@pytest.mark.parametrize('wrapped', [False, True])
def test_classes_and_palettes_of_a_wrong_kind_are_refused_with_what_is_allowed(metainfo, wrapped, pairs):
    config = dict(
        type='mmseg.BaseSegDataset', data_root=str(pairs), data_prefix=dict(img_path='images'), metainfo=metainfo
    )
    if wrapped:
        config = dict(type='RepeatDataset', times=2, dataset=config)
    with pytest.raises(ConfigError, match='metainfo.* must ') as error:
        build_dataset(config)
    assert len(str(error.value)) < 250


def test_classes_may_be_the_name_of_a_file(pairs, tmp_path):
    (tmp_path / 'names.txt').write_text('one\ntwo\n')
    config = dict(
        type='mmseg.BaseSegDataset',
        data_root=str(pairs),
        data_prefix=dict(img_path='images'),
        img_suffix='.png',
        metainfo=dict(classes=str(tmp_path / 'names.txt')),
    )
    assert list(build_dataset(config).metainfo['classes']) == ['one', 'two']
