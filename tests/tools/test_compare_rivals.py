"""tools/compare.py --rivals: what could be picked instead of a method, in the same table."""

import json

import pytest
import torch

pytest.importorskip('mmseg')

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.compare import rivals
from mmseg_tr.apis.compare.options import CompareOptions
from mmseg_tr.apis.config import load_config
from mmseg_tr.paths import config_path
from tests.tools.command import call, mistake

NAME = 'vit-tiny-p8_photo-mosaic-128x128'
PLAIN, ALGM = (str(config_path(f'{name}/{name}_{NAME}.py')) for name in ('segmenter', 'algm'))
POSE = str(config_path('segformerpp_pose/segformerpp_mit-tiny_photo-figures-192x144_original.py'))
SMALL = ('--images', 2, '--batch-size', 2, '--repeats', 1, '--frac-dataset', 0.5, '--device', 'cpu')
SET = ('test_dataloader.dataset.length=6', 'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False')
NARROW = {'model.backbone.arch.embed_dim': 32, 'model.decode_head.in_channels': 32}
OPTIONS = ('--cfg-options', *SET, *(f'{key}={value}' for key, value in NARROW.items()))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Untrained weights of the plain network, and a config and weights of one of half the depth."""
    folder = tmp_path_factory.mktemp('weights')
    smaller = folder / 'shallow.py'
    smaller.write_text(f'_base_ = [{PLAIN!r}]\nmodel = dict(backbone=dict(arch=dict(depth=3)))\n')
    for name, config in (('plain', PLAIN), ('shallow', str(smaller))):
        torch.manual_seed(0)
        state = build_model(load_config(config, NARROW), None).state_dict()
        state = {key: value + 0.05 * torch.randn_like(value) for key, value in state.items()}
        torch.save(dict(meta={}, state_dict=state), folder / f'{name}.pth')
    return folder


def test_rivals_stand_in_the_table_with_their_quality_work_and_time(weights, tmp_path, capsys, monkeypatch):
    # compiling takes half a minute, and what is compiled is not what this test is about
    monkeypatch.setattr(torch, 'compile', lambda function, **options: function)
    smaller = ('--smaller', weights / 'shallow.py', weights / 'shallow.pth')
    given = ('--checkpoint', weights / 'plain.pth', '--out', tmp_path, *SMALL)
    assert call('compare', PLAIN, ALGM, '--rivals', *smaller, *given, *OPTIONS) == 0
    found = json.loads((tmp_path / 'compare.json').read_text())
    plain, algm, *others = found['rows']
    names = ['plain, input 0.75', 'plain, input 0.5', 'plain, patch 16', 'shallow', 'plain, compiled']
    assert [row['name'] for row in others] == names == found['about']['rivals']
    assert all(row.keys() == plain.keys() and row['method'] == 'plain' for row in others)
    by_name = {row['name']: row for row in others}
    assert by_name['plain, input 0.75']['tokens_per_layer'] == [145.0] * 6  # 12 x 12 of 16 x 16
    for name in ('plain, input 0.5', 'plain, patch 16'):
        assert by_name[name]['tokens_per_layer'] == [65.0] * 6
    assert by_name['shallow']['tokens_per_layer'] == [257.0] * 3
    work = [row['gmacs'] / plain['gmacs'] for row in others]
    # attention falls with the square of the tokens, everything else with the tokens
    assert 0.75**4 < work[0] < 0.75**2 and 0.5**4 < work[1] < work[2] < 0.5**2
    assert work[3] == pytest.approx(0.5, abs=0.05) and work[4] == 1
    assert all(0 < row['agreement'] < 100 and 0 <= row['miou'] <= 100 for row in others[:4])
    assert by_name['plain, compiled']['miou'] == plain['miou'] and by_name['plain, compiled']['fps'] != plain['fps']
    assert [row['settings'] for row in others[:3]] == [dict(input=0.75), dict(input=0.5), dict(patch=16)]
    assert 'plain, input 0.75' in capsys.readouterr().out


def test_rivals_that_make_no_sense_are_left_out_by_name(monkeypatch):
    def failing(function, **options):
        raise torch._dynamo.exc.BackendCompilerFailed(None, RuntimeError('no compiler'), None)

    monkeypatch.setattr(torch, 'compile', failing)
    config = load_config(PLAIN)
    config.model.backbone.img_size = config.model.data_preprocessor.size = (8, 8)
    config.model.test_cfg.crop_size = config.model.test_cfg.stride = (8, 8)
    plain = build_model(config, None)
    found = rivals.build_rivals(dict(plain=plain), config, CompareOptions(rivals=True), None, lambda text: None)
    assert not found.models and not found.compiled
    assert found.left_out.keys() == {'plain, input 0.75', 'plain, input 0.5', 'plain, patch 16', 'plain, compiled'}


def test_mistakes_with_rivals_are_one_sentence(weights, tmp_path, capsys):
    pose = tmp_path / 'pose.pth'
    torch.save(dict(meta={}, state_dict=build_model(load_config(POSE), None).state_dict()), pose)
    out = ('--out', tmp_path / 'out', *SMALL)
    assert '--rivals are for segmentation' in mistake(capsys, 'compare', POSE, '--checkpoint', pose, '--rivals', *out)
    assert '--rivals is for a config' in mistake(
        capsys, 'compare', '--model', 'timm:vit_tiny_patch16_224', '--checkpoint', 'none', '--rivals',
        '--out', tmp_path / 'out', '--device', 'cpu',
    )  # fmt: skip
    base = ('compare', PLAIN, '--checkpoint', weights / 'plain.pth', *out)
    shallow = (weights / 'shallow.py', weights / 'shallow.pth')
    twice = mistake(capsys, *base, '--smaller', *shallow, '--smaller', *shallow, *OPTIONS)
    assert '--smaller must name each config once, got shallow twice' in twice
    reduced = mistake(capsys, *base, '--smaller', ALGM, weights / 'plain.pth', *OPTIONS)
    assert '--smaller must name plain networks' in reduced
    other = weights / 'other.py'
    other.write_text(f'_base_ = [{str(weights / "shallow.py")!r}]\nmodel = dict(test_cfg=dict(stride=(64, 64)))\n')
    assert 'same test_cfg' in mistake(capsys, *base, '--smaller', other, weights / 'shallow.pth', *OPTIONS)
    assert 'shallow.pth' in mistake(capsys, *base, '--smaller', PLAIN, weights / 'shallow.pth', *OPTIONS)
    assert not (tmp_path / 'out').exists()
