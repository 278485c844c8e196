"""tools/get_fps_flops.py: its numbers, its file, and one sentence for every mistake."""

import json

import pytest
import torch
from PIL import Image

from mmseg_tr.paths import config_path
from tests.tools.command import TOOLS, call, mistake

pytest.importorskip('mmseg')

ALGM = str(config_path('algm/algm_vit-tiny-p8_photo-mosaic-128x128.py'))
PLAIN = str(config_path('segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'))
FOREIGN = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=False),
    backbone=dict(type='ResNetV1c', depth=18, num_stages=4, out_indices=(0, 1, 2, 3), norm_cfg=norm_cfg,
                  style='pytorch', strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1)),
    decode_head=dict(type='FCNHead', in_channels=512, in_index=3, channels=16, num_convs=1, concat_input=False,
                     num_classes=4, norm_cfg=norm_cfg, align_corners=False),
    auxiliary_head=dict(type='FCNHead', in_channels=256, in_index=2, channels=16, num_convs=1, concat_input=False,
                        num_classes=4, norm_cfg=norm_cfg, align_corners=False),
    test_cfg=dict(mode='whole'))
"""
QUICK = ('--repeats', 1, '--threads', 1)


def measured(tmp_path, *arguments) -> dict:
    file = tmp_path / 'report.json'
    assert call('get_fps_flops', *arguments, *QUICK, '--json', file) == 0
    return json.loads(file.read_text())


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    sizes = ('--shape', '128x128', '64x96', '--batch-size', 1, 2, '--num-images', 2)
    return measured(folder, ALGM, *sizes)


def test_top_level_numbers_and_the_same_of_the_plain_network(report):
    keys = ('gmacs', 'gflops', 'params', 'images_per_second', 'tokens_per_layer')
    for numbers in (report, report['plain']):
        assert all(numbers[key] for key in keys)
        assert numbers['gflops'] == 2 * numbers['gmacs']
        assert len(numbers['tokens_per_layer']) == 6
    assert report['gmacs'] < report['plain']['gmacs']
    assert report['params'] == report['plain']['params']
    assert report['plain']['tokens_per_layer'] == [257.0] * 6


def test_every_shape_and_batch_size_is_there(report):
    runs = [(tuple(run['shape']), run['batch_size']) for run in report['runs']]
    assert runs == [((128, 128), 1), ((128, 128), 2), ((64, 96), 1), ((64, 96), 2)]
    assert report['runs'][0]['model']['gmacs'] == report['gmacs']
    assert report['runs'][2]['plain']['tokens_per_layer'] == [97.0] * 6
    assert {'merging', 'restoring'} == set(report['shares'])


def test_the_circumstances_are_written_down(report):
    assert report['count'] == 'segmenter'
    assert report['threads'] == 1
    assert report['torch'] == torch.__version__
    assert report['reduction']['type'] == 'ALGM'
    assert report['machine'] and report['date'] and report['device'] == 'cpu'


def test_random_weights_of_an_adaptive_method_are_warned_of(report, capsys):
    assert any(warning.startswith('ALGM') and 'random' in warning for warning in report['warnings'])


def test_a_checkpoint_is_loaded_and_silences_the_warning(tmp_path, capsys):
    from mmseg_tr.apis.build import build_model
    from mmseg_tr.apis.config import load_config

    config = load_config(ALGM)
    model = build_model(config, None)
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / 'model.pth')
    found = measured(
        tmp_path, ALGM, '--checkpoint', tmp_path / 'model.pth', '--batch-size', 1, '--num-images', 1, '--no-published'
    )
    said = capsys.readouterr().out
    assert not any('random' in warning for warning in found['warnings'])
    assert 'GMACs, segmenter' in said and 'encoder attention' in said and 'tokens per layer' in said


def test_random_weights_are_the_same_in_every_run(tmp_path, report):
    again = measured(tmp_path, ALGM, '--batch-size', 1, '--num-images', 2, '--no-published', '--count', 'all')
    assert again['tokens_per_layer'] == report['tokens_per_layer']
    assert again['count'] == 'all'
    assert again['gmacs'] == pytest.approx(report['runs'][0]['model']['gmacs_all'])


@pytest.mark.parametrize(
    ('text', 'kind'), [('tome', 'ToMe'), ('type=EViT,layers=[2],keep_rate=0.5', 'EViT'), ('None', None)]
)
def test_a_method_is_switched_on_over_the_config(tmp_path, text, kind):
    quick = ('--batch-size', 1, '--num-images', 1, '--shape', 64, '--no-published')
    found = measured(tmp_path, ALGM, *quick, '--reduction', text)
    assert (found['reduction'] or {}).get('type') == kind
    assert (found['ratios'] is None) == (kind is None)


def test_own_images_and_settings(tmp_path, monkeypatch):
    monkeypatch.setattr('mmseg_tr.apis.build.multiplies_bfloat16', lambda: True)  # any CPU can, if slowly
    folder = tmp_path / 'images'
    folder.mkdir()
    for number, colour in enumerate(('red', 'green')):
        Image.new('RGB', (40, 30), colour).save(folder / f'{number}.png')
    found = measured(
        *(tmp_path, ALGM, '--images', folder, '--shape', 64, 64, '--batch-size', 2, '--amp', 'bf16', '--no-published'),
        *('--cfg-options', 'model.backbone.reduction.threshold=1.0', 'model.backbone.reduction.layers=(2,)'),
    )
    assert found['image_source'] == str(folder)
    assert found['precision'] == 'bf16'
    assert found['reduction']['layers'] == [2]
    assert found['runs'][0]['images'] == 2


def test_a_plain_config_has_the_same_numbers_twice(tmp_path, capsys):
    found = measured(tmp_path, PLAIN, '--batch-size', 1, '--num-images', 1)
    assert found['plain'] == {key: found[key] for key in found['plain']}
    assert found['ratios'] is None
    assert found['reduction'] is None
    assert found['warnings'] == []
    assert 'reduced' not in capsys.readouterr().out


def test_a_segmentor_of_mmseg_is_measured_too(tmp_path):
    config = tmp_path / 'fcn.py'
    config.write_text(FOREIGN)
    found = measured(tmp_path, config, '--shape', 64, '--batch-size', 1, '--num-images', 1)
    assert found['count'] == 'conv-matmul'
    assert found['tokens_per_layer'] is None
    assert set(found['runs'][0]['model']['parts']) == {'backbone', 'decoder'}
    assert not found['warnings']


def test_a_setting_that_saves_nothing_is_told(tmp_path):
    found = measured(
        *(tmp_path, ALGM, '--batch-size', 1, '--num-images', 1, '--no-published', '--cfg-options'),
        *('model.backbone.reduction.layers=(2,)', 'model.backbone.reduction.threshold=1.0'),
    )
    assert any('saves no work' in warning for warning in found['warnings'])


def test_an_existing_file_is_kept_unless_forced(tmp_path, capsys):
    file = tmp_path / 'report.json'
    file.write_text('precious')
    sentence = mistake(capsys, 'get_fps_flops', PLAIN, '--json', file)
    assert 'report.json' in sentence and '--force' in sentence
    assert file.read_text() == 'precious'
    once = (PLAIN, *QUICK, '--batch-size', 1, '--num-images', 1, '--no-published', '--json', file)
    assert call('get_fps_flops', *once, '--force') == 0
    assert json.loads(file.read_text())['gmacs'] > 0


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['nowhere.py'], 'config file nowhere.py does not exist'),
        ([PLAIN, '--device', 'gpu'], '--device must be cpu, cuda or cuda:1, got gpu'),
        ([PLAIN, '--device', 'meta'], '--device must be cpu, cuda or cuda:1, got meta'),
        ([PLAIN, '--device', 'cuda:99'], '--device cuda:99 is not available: this machine has'),
        ([PLAIN, '--device', 'cpu', '--amp', 'fp16'], '--amp must be bf16 on a CPU'),
        ([PLAIN, '--amp', 'int8'], '--amp must be bf16 or fp16, got int8'),
        ([PLAIN, '--count', 'fvcore'], "'fvcore' is unknown: it is one of segmenter, expedite, conv-matmul, all"),
        ([PLAIN, '--shape', '512by512'], '--shape must be sizes such as 512x512 (height x width), got 512by512.'),
        ([PLAIN, '--shape', '512x'], '--shape must be sizes such as 512x512 (height x width), got 512x.'),
        ([PLAIN, '--shape', '0x64'], '--shape must be sizes such as 512x512 (height x width), got 0x64.'),
        ([PLAIN, '--shape', '1', '2', '3'], '--shape must be sizes such as 512x512 (height x width), got 1 2 3.'),
        ([PLAIN, '--batch-size', '0'], '--batch-size must be positive integers, got (0,)'),
        ([PLAIN, '--repeats', '0'], '--repeats must be a positive integer, got 0'),
        ([PLAIN, '--threads', '0'], '--threads must be a positive integer, got 0'),
        (
            [PLAIN, '--num-images', '4', '--batch-size', '8'],
            '--num-images must be at least the largest of --batch-size, 8, got 4',
        ),
        ([PLAIN, '--checkpoint', 'nowhere.pth'], 'nowhere.pth'),
        ([PLAIN, '--images', 'nowhere'], 'there is no folder nowhere'),
        ([PLAIN, '--json', str(TOOLS)], '--json must be a file'),
        ([ALGM, '--cfg-options', 'model.backbone.reduction.layers=(1,99)'], 'layers=(1, 99)'),
        ([PLAIN, '--cfg-options', 'model.type=Nothing'], 'names an unknown type'),
    ],
    ids=lambda value: '_'.join(value[1:3]) if isinstance(value, list) else '',
)
def test_mistakes_are_told_in_one_sentence(capsys, arguments, said):
    assert said in mistake(capsys, 'get_fps_flops', *arguments)


@pytest.mark.parametrize(('asked', 'measured_at'), [((1, 8), [1, 2]), ((8,), [2]), ((2, 3), [2]), ((1,), [1])])
def test_fewer_images_than_a_batch_are_measured_as_they_are(tmp_path, asked, measured_at):
    folder = tmp_path / 'images'
    folder.mkdir()
    for number, colour in enumerate(('red', 'green')):
        Image.new('RGB', (40, 30), colour).save(folder / f'{number}.png')
    found = measured(tmp_path, PLAIN, '--images', folder, '--no-published', '--batch-size', *asked)
    assert [run['batch_size'] for run in found['runs']] == measured_at
    missing = [size for size in asked if size > 2]
    assert all(str(size) in ' '.join(found['warnings']) for size in missing) and bool(found['warnings']) == bool(
        missing
    )


CHANNELS = """
_base_ = {base!r}
model = dict(backbone=dict(in_chans={channels}),
             data_preprocessor=dict(_delete_=True, type='SegDataPreProcessor', mean=[100.0] * {channels},
                                    std=[50.0] * {channels}, size=(128, 128)))
"""


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_any_number_of_channels_is_measured(tmp_path, channels):
    config = tmp_path / 'channels.py'
    config.write_text(CHANNELS.format(base=PLAIN, channels=channels))
    found = measured(tmp_path, config, '--batch-size', 1, '--num-images', 1, '--shape', 64, '--no-published')
    three = measured(tmp_path, PLAIN, '--batch-size', 1, '--num-images', 1, '--shape', 64, '--no-published', '--force')
    of_a_channel = 64 * 64 * 128 / 1e9  # pixels times the width of the tokens
    assert found['gmacs'] - three['gmacs'] == pytest.approx((channels - 3) * of_a_channel)


def test_images_that_do_not_serve_are_refused(tmp_path, capsys):
    assert 'holds no image' in mistake(capsys, 'get_fps_flops', PLAIN, '--images', tmp_path)
    Image.new('RGB', (40, 30), 'red').save(tmp_path / 'a.png')
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG no more')
    assert 'broken.png cannot be read' in mistake(capsys, 'get_fps_flops', PLAIN, '--images', tmp_path)
