"""Rows of human pose from a local file server: stand-ins of weights, COCO and JBD under the published configs."""

import json

import pytest
import torch
import yaml

import mmseg_tr  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.logging import HistoryBuffer

from mmseg_tr.apis import reproduce as verb
from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.reproduce import page, steps
from mmseg_tr.datasets.figure_files import write_figures
from mmseg_tr.paths import CONFIGS
from tests.tools.command import call
from tests.tools.served import serving

TASK = 'Body 2D Keypoint'
PREFIX = 'segformerpp_mit-b5_'
ROWS = ('coco-384x288_original', 'jbd-640x480_n2d-2x2', 'jbd-640x480_bsm-fast')
# the published configs with a network of a few channels
CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(
        pretrained=None, arch=dict(_delete_=True, embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))),
    head=dict(in_channels=(8, 16, 24, 32), channels=8))
test_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
"""


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    """A metafile of three rows and their datasets in the published layouts; JBD's fast is not on the server."""
    folder, models = tmp_path_factory.mktemp('pose'), []
    write_dataset(folder / 'data' / 'coco', 'coco', 'person_keypoints_val2017.json', 'val2017')
    write_dataset(folder / 'data' / 'jump_broadcast', 'jump_broadcast', 'val_jump.json', 'images/val')
    with pytest.MonkeyPatch.context() as patch, serving(folder / 'served') as address:
        patch.setenv('MMSEG_TR_CACHE', str(folder / 'cache'))
        patch.setenv('DATASET', str(folder / 'data'))
        for name in ROWS:
            config = folder / f'{name}.py'
            config.write_text(CONFIG.format(base=str(CONFIGS / 'segformerpp_pose' / f'{PREFIX}{name}.py')))
            if name != ROWS[-1]:
                write_weights(config, folder / 'served' / name / 'checkpoint.pth')
            result = dict(Task=TASK, Dataset=name[:4].strip('-').upper(), Metrics={'PCK@0.1': 50.0, 'PCK@0.05': 1.0})
            entry = dict(Name=name, Config=config.name, Results=[result], Weights=f'{address}/{name}/checkpoint.pth')
            models.append(entry)
        (folder / 'metafile.yml').write_text(yaml.safe_dump(dict(Models=models)))
        yield folder / 'metafile.yml'


def write_dataset(folder, joints, annotations, images):
    write_figures(folder, 'val', 3, size=(96, 96), joints=joints)
    (folder / 'annotations' / 'val.json').rename(folder / 'annotations' / annotations)
    (folder / 'images' / 'val').rename(folder / images)


def write_weights(config, path):
    """As mmengine writes them, training curves included, which are objects and not plain values."""
    path.parent.mkdir(parents=True)
    model = build_model(load_config(str(config)), None)
    hub = dict(log_scalars={'train/loss': HistoryBuffer([1.0], [1])})
    torch.save(dict(meta=dict(epoch=210), state_dict=model.state_dict(), message_hub=hub), path)


def test_rows_of_pose_end_with_the_page_and_continue(table, tmp_path, capsys):
    out = tmp_path / 'out'
    assert call('reproduce', '--metafile', table, '--out', out, '--device', 'cpu') == 1  # one row cannot be had
    said = capsys.readouterr().out
    assert 'jbd-640x480_bsm-fast/checkpoint.pth' in said and 'PCK@0.1' in said
    assert 'mmengine' not in said and 'annotation' not in said
    states = {name: json.loads((out / name / 'state.json').read_text())['steps'] for name in ROWS}
    assert [list(state) for state in states.values()] == 2 * [list(steps.STEPS)] + [['dataset']]
    merged = states['jbd-640x480_n2d-2x2']
    assert {'pck@0.1', 'pck@0.05'} == set(merged['reduced']) and 'plain_pck@0.05' in merged['plain']
    assert merged['dataset']['images'] >= 3 and states[ROWS[0]]['reduced'] == {}
    assert merged['speed']['gmacs'] < merged['speed']['plain_gmacs']
    text = (out / 'reproduce.html').read_text()
    assert text.count(TASK) == 1 and '<th>PCK@0.05 difference</th>' in text and '50.00' in text
    assert call('reproduce', '--metafile', table, '--out', out, '--device', 'cpu', ROWS[0]) == 0
    assert '  plain' not in capsys.readouterr().out  # a step that is done


def test_a_missing_pose_dataset_says_where_it_comes_from(table, tmp_path, monkeypatch):
    monkeypatch.setenv('DATASET', str(tmp_path / 'nowhere'))
    found = verb.reproduce(ROWS[:2], metafile=str(table), out=str(tmp_path / 'out'), device='cpu')
    assert 'val2017.zip' in found[ROWS[0]]['error'] and 'prepare-dataset jbd' in found[ROWS[1]]['error']


def test_the_worst_of_several_scores_decides(table):
    row = verb.find_rows([ROWS[0]], str(table))[0]
    for second, word in ((1.05, 'reproduced'), (1.3, 'close'), (3.0, 'differs')):
        found = {'plain_pck@0.1': 50.0, 'plain_pck@0.05': second, 'gmacs': 1.0}
        assert page.verdict(row, found, 1) == word


def test_published_rows_of_pose_are_read():
    rows = [row for row in verb.find_rows() if row.task == TASK]
    assert len(rows) == 8 and all(len(row.published) == 2 and row.weights for row in rows)
