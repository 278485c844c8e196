"""Compare and tune speak of pictures: the cost of a picture is that of all of its windows."""

import json

import pytest

pytest.importorskip('mmseg')

import torch

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.compare import CompareOptions, compare
from mmseg_tr.apis.compare.loop import of_one_size
from mmseg_tr.apis.config import load_config
from tests.tiny import write_config, write_dataset
from tests.tools.command import call, mistake

FEW = CompareOptions(images=2, batch_size=2, repeats=1, device='cpu')
WHOLE = "model['test_cfg'] = dict(mode='whole')"


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    config = write_config(folder, write_dataset(folder / 'data', count=1))
    torch.save(dict(state_dict=build_model(load_config(config), None).state_dict()), folder / 'plain.pth')
    return str(folder / 'plain.pth')


def compared(folder, checkpoint, size, more=''):
    config = write_config(folder, write_dataset(folder / 'data', count=2, size=size), more)
    return compare([str(config)], checkpoint, FEW)


@pytest.mark.parametrize(('size', 'windows'), [((32, 32), 1), ((32, 56), 2), ((32, 80), 3), ((56, 80), 6)])
def test_work_of_a_picture_is_that_of_all_windows_that_test_runs(tmp_path, checkpoint, size, windows):
    (tmp_path / 'one').mkdir(), (tmp_path / 'many').mkdir()
    one = compared(tmp_path / 'one', checkpoint, (32, 32))
    many = compared(tmp_path / 'many', checkpoint, size)
    assert many.about['windows_per_image'] == windows
    assert many.about['shape'] == [32, 32]
    assert many.rows[0].gmacs == pytest.approx(windows * one.rows[0].gmacs)
    assert many.rows[0].tokens_per_layer == one.rows[0].tokens_per_layer


def test_speed_of_a_picture_counts_its_windows(tmp_path, checkpoint, monkeypatch):
    from mmseg_tr.analysis.speed import Seconds

    monkeypatch.setattr(
        'mmseg_tr.analysis.measure.time_in_turn',
        lambda contestants, *_, **__: dict.fromkeys(contestants, Seconds(0.5, 1)),
    )
    row = compared(tmp_path, checkpoint, (56, 80)).rows[0]
    assert (row.fps, row.throughput) == pytest.approx((1 / 3, 1 / 3))


def test_a_network_that_sees_whole_pictures_is_measured_on_whole_pictures(tmp_path, checkpoint):
    found = compared(tmp_path, checkpoint, (40, 64), WHOLE)
    assert (found.about['shape'], found.about['windows_per_image']) == ([40, 64], 1)


def test_pictures_of_several_sizes_share_the_middle():
    images = [torch.arange(h * w).view(1, 1, h, w) for h, w in ((4, 6), (6, 4))]
    cut = of_one_size(images)
    assert [image.shape for image in cut] == [(1, 1, 4, 4)] * 2
    assert torch.equal(cut[0], images[0][..., 1:5]) and torch.equal(cut[1], images[1][..., 1:5, :])


def test_windows_are_named_beside_the_table_and_in_the_file(tmp_path, checkpoint, capsys):
    config = write_config(tmp_path, write_dataset(tmp_path / 'data', count=2, size=(56, 80)))
    few = ('--images', 2, '--batch-size', 2, '--repeats', 1, '--device', 'cpu', '--out', tmp_path / 'out')
    assert call('compare', config, '--checkpoint', checkpoint, *few) == 0
    assert '6 windows of 32x32' in ' '.join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / 'out' / 'compare.json').read_text())['about']['windows_per_image'] == 6


def test_methods_by_name_and_by_settings_stand_beside_the_plain_model(tmp_path, checkpoint):
    config = write_config(tmp_path, write_dataset(tmp_path / 'data', count=2))
    methods, reductions = ('tome', 'algm'), ('type=ToMe,r=[4,0]', "dict(type='EViT', layers=(1,), keep_rate=0.5)")
    rows = compare([str(config)], checkpoint, FEW, methods=methods, reductions=reductions).rows
    assert [row.name for row in rows] == ['tiny', *methods, *reductions]
    assert [row.method for row in rows] == ['plain', 'ToMe', 'ALGM', 'ToMe', 'EViT']
    assert rows[1].settings['r'] != [4, 0] and rows[3].settings == dict(type='ToMe', r=[4, 0])
    assert all(row.gmacs < rows[0].gmacs for row in rows[3:])


def test_settings_without_a_type_change_those_of_the_config(tmp_path, checkpoint):
    more = "model['backbone']['reduction'] = dict(type='ToMe', r=[2, 0])"
    config = write_config(tmp_path, write_dataset(tmp_path / 'data', count=2), more)
    rows = compare([str(config)], checkpoint, FEW, reductions=['r=[4,0]']).rows
    assert [row.settings.get('r') for row in rows] == [None, [2, 0], [4, 0]]


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (('--methods', 'tmoe'), 'tmoe'),
        (('--methods', 'type=ToMe'), 'type=ToMe'),
        (('--methods', 'tome', 'tome'), 'tome twice'),
        (('--reduction', 'tome', '--reduction', 'tome'), 'tome twice'),
        (('--methods', 'plain'), 'plain'),
        (('--reduction', 'r=3'), 'r=3'),
        (('--reduction', 'None'), 'None'),
    ],
    ids=lambda value: '_'.join(value) if isinstance(value, tuple) else '',
)
def test_methods_that_are_none_are_refused_before_anything_is_built(tmp_path, checkpoint, capsys, arguments, named):
    config = write_config(tmp_path, write_dataset(tmp_path / 'data', count=2))
    assert named in mistake(capsys, 'compare', config, '--checkpoint', checkpoint, *arguments)
