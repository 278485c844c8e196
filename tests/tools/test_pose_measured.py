"""Pose configs under tools/get_fps_flops.py and tools/compare.py: merged beside plain, PCK instead of mIoU."""

import csv
import json

import pytest
import torch

pytest.importorskip('mmpose')

from mmseg_tr.apis.build import build_model, own_shape
from mmseg_tr.apis.config import load_config
from tests.tiny_pose import write_config
from tests.tools.command import call

SMALL = ('--images', 4, '--batch-size', 2, '--repeats', 1, '--device', 'cpu')


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """Configs by preset, and weights that fit all."""
    folder = tmp_path_factory.mktemp('configs')
    paths = {name: write_config(folder, name) for name in ('original', 'bsm_hq', 'n2d_2x2')}
    model = build_model(load_config(paths['original']), None)
    torch.manual_seed(0)
    state = {
        key: value + 0.05 * torch.randn_like(value)
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    state |= {key: value for key, value in model.state_dict().items() if key not in state}
    torch.save(dict(meta={}, state_dict=state), folder / 'plain.pth')
    return paths, folder / 'plain.pth'


@pytest.fixture(scope='module')
def report(configs, tmp_path_factory):
    file = tmp_path_factory.mktemp('report') / 'report.json'
    quick = ('--repeats', 1, '--threads', 1, '--batch-size', 1, '--num-images', 1)
    assert call('get_fps_flops', configs[0]['bsm_hq'], *quick, '--shape', '128x128', '--json', file) == 0
    return json.loads(file.read_text())


def test_the_merged_network_is_measured_beside_the_plain_one(report):
    assert report['count'] == 'conv-matmul' and report['reduction'] == dict(type='SegFormerPP', preset='bsm_hq')
    assert report['gmacs'] < report['plain']['gmacs'] and report['params'] == report['plain']['params']
    assert report['tokens_per_stage'] == [
        dict(queries=1024, keys=7),
        dict(queries=256, keys=7),
        dict(queries=13, keys=16),
        dict(queries=4, keys=16),
    ]
    assert [stage['keys'] for stage in report['plain']['tokens_per_stage']] == [16, 16, 16, 16]
    run = report['runs'][0]
    assert run['labels'] == 'poses' and run['published_images_per_second'] > 0
    assert {'backbone', 'decoder', 'merging'} <= run['model']['parts_all'].keys()
    assert not run['unknown_operators']


def test_the_table_shows_stages_and_poses(configs, capsys):
    quick = ('--repeats', 1, '--batch-size', 1, '--num-images', 1, '--no-published', '--count', 'segformerpp')
    assert call('get_fps_flops', configs[0]['original'], *quick, '--shape', '128x128') == 0
    said = ' '.join(capsys.readouterr().out.split())
    assert 'poses/s' in said and '1024 to 16' in said and 'without a flip test' in said


def test_the_size_measured_by_default_is_the_codec_s(configs):
    assert own_shape(load_config(configs[0]['original'])) == (64, 48)


def compared(configs, out, *names) -> dict:
    paths = [configs[0][name] for name in names]
    arguments = ('--checkpoint', configs[1], '--out', out, *SMALL, '--frac-dataset', 0.7)
    assert call('compare', *paths, *arguments) == 0
    return json.loads((out / 'compare.json').read_text())


def test_presets_over_one_checkpoint(configs, tmp_path, capsys):
    found = compared(configs, tmp_path, 'n2d_2x2', 'original')
    plain, merged = found['rows']
    assert found['about']['quality'] == 'PCK@0.1' and (plain['method'], merged['method']) == ('plain', 'SegFormer++')
    assert plain['agreement'] == 100 and 0 <= merged['agreement'] <= 100
    assert plain['miou'] is None and 0 <= plain['pck_strict'] <= plain['pck'] <= 100
    assert merged['gmacs'] < plain['gmacs'] and merged['fps'] > 0
    assert merged['tokens_per_stage'][0]['queries'] < plain['tokens_per_stage'][0]['queries']
    with open(tmp_path / 'compare.csv', newline='') as file:
        assert [float(row['pck']) for row in csv.DictReader(file)] == [plain['pck'], merged['pck']]
    assert 'PCK@0.1' in capsys.readouterr().out and (tmp_path / 'compare.png').is_file()


def test_a_merged_config_alone_is_held_against_its_plain_network(configs, tmp_path):
    found = compared(configs, tmp_path, 'n2d_2x2')['rows']
    assert [row['name'] for row in found] == ['plain', 'tiny-pose_n2d_2x2']
    assert found[1]['settings'] == dict(type='SegFormerPP', preset='n2d_2x2')


def test_vit_methods_of_pose_are_compared_by_layer(tmp_path):
    paths = []
    for name, reduction in (('plain', None), ('tome', dict(type='ToMe', r=9))):
        (tmp_path / name).mkdir()
        vit = dict(arch=dict(embed_dim=16, depth=2, num_heads=2, patch_size=4), img_size=(64, 48), reduction=reduction)
        head = dict(in_channels=16, out_channels=14, deconv_out_channels=None)
        more = f"""
model['backbone'] = dict(type='mmseg_tr.ViT', **{vit})
model['head'] = dict(type='HeatmapHead', decoder=codec, **{head})"""
        paths.append(write_config(tmp_path / name, more=more).rename(tmp_path / f'vit_{name}.py'))
    weights = tmp_path / 'plain.pth'
    torch.save(dict(meta={}, state_dict=build_model(load_config(paths[0]), None).state_dict()), weights)
    assert call('compare', *paths, '--checkpoint', weights, '--out', tmp_path / 'out', *SMALL) == 0
    plain, tome = json.loads((tmp_path / 'out' / 'compare.json').read_text())['rows']
    assert plain['tokens_per_layer'] == [193, 193] and tome['tokens_per_layer'] == [184, 175]
    assert tome['method'] == 'ToMe' and tome['tokens_per_stage'] is None


def test_segmentation_under_segformer_is_compared_too(tmp_path):
    import tests.tiny as tiny

    root = tiny.write_dataset(tmp_path / 'data', size=(64, 64))
    arch = dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
    paths = []
    for preset in ('original', 'n2d_2x2'):
        more = f"""
model = dict(
    type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
    backbone=dict(type='mmseg_tr.MiT', arch={arch}, reduction=dict(type='SegFormerPP', preset={preset!r})),
    decode_head=dict(type='SegformerHead', in_channels=[8, 16, 24, 32], in_index=[0, 1, 2, 3], channels=8,
                     num_classes=3, norm_cfg=dict(type='BN'), align_corners=False),
    test_cfg=dict(mode='whole'))"""
        paths.append(tiny.write_config(tmp_path, root, more, f'segformer_{preset}.py'))
    weights = tmp_path / 'plain.pth'
    torch.save(dict(meta={}, state_dict=build_model(load_config(paths[0]), None).state_dict()), weights)
    options = (*SMALL, '--frac-dataset', 0.5)
    assert call('compare', *paths, '--checkpoint', weights, '--out', tmp_path / 'out', *options) == 0
    found = json.loads((tmp_path / 'out' / 'compare.json').read_text())
    plain, merged = found['rows']
    assert found['about']['quality'] == 'mIoU' and plain['pck'] is None and 0 <= merged['miou'] <= 100
    assert plain['tokens_per_stage'][0] == dict(queries=256, keys=4)
    assert merged['tokens_per_stage'][0] == dict(queries=64, keys=4)
