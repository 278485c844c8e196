"""Pose configs under tools/train.py and tools/test.py: the same command lines, their files, one sentence a mistake."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip('mmpose')


from PIL import Image

from tests.tiny_pose import SCENES, write_config, write_files
from tests.tools.command import TOOLS, call, launch_forked, mistake

ROOT = TOOLS.parent


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Config, checkpoint and folder of a training of two updates."""
    folder = tmp_path_factory.mktemp('pose')
    config = write_config(folder)
    assert call('train', config, '--work-dir', folder / 'run') == 0
    return config, folder / 'run' / 'iter_2.pth', folder


def scored(trained, tmp_path, *arguments) -> dict:
    config, checkpoint, _ = trained
    scores = tmp_path / 'scores.yml'
    assert call('test', config, checkpoint, '--work-dir', tmp_path, '--scores', scores, *arguments) == 0
    return yaml.safe_load(scores.read_text())


def test_training_leaves_a_checkpoint_that_loads_safely_and_has_the_released_keys(trained):
    state = torch.load(trained[1], weights_only=True)['state_dict']
    assert {'head.final_layer.weight', 'head.convs.3.bn.running_var', 'head.fusion_conv.conv.weight'} <= state.keys()


def test_a_training_is_continued(trained, tmp_path):
    config, checkpoint, _ = trained
    more = ('--resume', checkpoint, '--cfg-options', 'train_cfg.max_iters=4')
    assert call('train', config, '--work-dir', tmp_path, *more) == 0
    assert (tmp_path / 'iter_4.pth').is_file()


def test_scores_of_the_config_and_where_they_come_from(trained, tmp_path):
    found = scored(trained, tmp_path)
    assert {'PCK@0.1', 'PCK@0.05', 'coco/AP', 'coco/AR'} <= found.keys()
    assert 0 <= found['PCK@0.05'] <= found['PCK@0.1'] <= 1
    assert found['inference']['flip_test'] is True and found['inference']['checkpoint'].endswith('iter_2.pth')


def test_scores_are_chosen_by_name(trained, tmp_path):
    found = scored(trained, tmp_path, '--eval', 'PCK', 'PCK@0.2', 'AUC', 'EPE')
    assert found.keys() - {'inference'} == {'PCK@0.1', 'PCK@0.05', 'PCK@0.2', 'AUC', 'EPE'}
    assert found['PCK@0.2'] >= found['PCK@0.1']
    assert 'coco/AP' in scored(trained, tmp_path, '--eval', 'AP')


def test_unknown_scores_are_listed_in_one_sentence(trained, capsys):
    said = mistake(capsys, 'test', *trained[:2], '--eval', 'PCK', 'mIoU', 'PCK@x')
    assert 'metric mIoU, PCK@x: choose among PCK' in said and 'AUC, EPE, AP' in said


def test_predictions_and_pictures_are_written(trained, tmp_path):
    out, pictures = tmp_path / 'out', tmp_path / 'pictures'
    part = scored(trained, tmp_path, '--out', out, '--show-dir', pictures, '--eval', 'PCK', '--frac-dataset', 0.5)
    poses = json.loads((out / 'predictions.keypoints.json').read_text())
    assert len(poses) == part['inference']['images'] < 2 * SCENES
    assert all(len(pose['keypoints']) == 3 * 14 for pose in poses)
    drawn = list(pictures.glob('*.png'))
    assert len(drawn) == len(poses)
    with Image.open(drawn[0]) as picture:
        assert picture.size[0] >= 96


def test_only_predictions(trained, tmp_path):
    assert call('test', *trained[:2], '--work-dir', tmp_path, '--out', tmp_path / 'out', '--format-only') == 0
    assert (tmp_path / 'out' / 'predictions.keypoints.json').is_file()


def test_merging_without_retraining(trained, tmp_path):
    merged = write_config(tmp_path, 'bsm_hq', more="model['backbone']['merging'] = 'n2d_2x2'")
    assert 'PCK@0.1' in scored((merged, trained[1], None), tmp_path, '--eval', 'PCK')


def test_coco_files_serve_too_and_a_part_is_scored_by_its_own_labels(trained, tmp_path):
    config = write_config(tmp_path, root=write_files(tmp_path / 'data'))
    whole = scored((config, trained[1], None), tmp_path)
    assert whole.keys() == scored(trained, tmp_path).keys()
    half = scored((config, trained[1], None), tmp_path, '--frac-dataset', 0.5)
    assert half['inference']['images'] < whole['inference']['images'] and 0 <= half['coco/AP'] <= 1


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['model.head.num_keypoints=17'], 'the head predicts 17 keypoints, the dataset PhotoFigures has 14: set'),
        (['model.head.in_channels=(8,16,24,40)'], 'gives maps of (8, 16, 24, 32) channels, the head takes'),
        (
            ['model.head.decoder.heatmap_size=(24,32)'],
            'have heatmap_size=(12, 16), the head decodes heatmap_size=(24, 32)',
        ),
        (['model.backbone.merging=bsm_best'], "got 'bsm_best'"),
        (['model.backbone.arch.num_layers=(1,1,1)'], "'num_layers': 3"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_parts_that_do_not_fit_are_told_when_the_run_is_built(trained, tmp_path, capsys, options, said):
    config = trained[0]
    assert said in mistake(capsys, 'train', config, '--work-dir', tmp_path / 'run', '--cfg-options', *options)


def test_tokens_in_front_of_a_pose_head_are_refused(tmp_path, capsys):
    arch = 'dict(embed_dim=8, depth=1, num_heads=1, patch_size=4)'
    vit = f"dict(type='mmseg_tr.ViT', arch={arch}, img_size=64, out='tokens')"
    config = write_config(tmp_path, more=f"model['backbone'] = {vit}")
    assert "set out='maps'" in mistake(capsys, 'train', config, '--work-dir', tmp_path / 'run')


def test_annotations_that_are_missing_damaged_or_of_other_joints_are_told(tmp_path, capsys):
    root = write_files(tmp_path / 'data')
    config, annotations = write_config(tmp_path, root=root), root / 'annotations' / 'train.json'
    train = ('train', config, '--work-dir', tmp_path / 'run')
    content = json.loads(annotations.read_text())
    for annotation in content['annotations']:
        annotation['keypoints'] = annotation['keypoints'][: 3 * 12]
    annotations.write_text(json.dumps(content))
    assert 'train.json marks 12 keypoints, the metainfo of CocoDataset describes 14' in mistake(capsys, *train)
    annotations.write_text('{"images": [')
    assert 'train.json is not a valid JSON annotation file' in mistake(capsys, *train)
    annotations.unlink()
    assert 'train.json does not exist' in mistake(capsys, *train)


def test_mmpose_s_own_tools_run_the_configs(tmp_path):
    tool = Path(importlib.util.find_spec('mmpose').origin).parent / '.mim' / 'tools' / 'train.py'
    if not tool.is_file():
        pytest.skip(f'this mmpose comes without tools: there is no {tool}')
    # SyncBN has no implementation on a CPU, and mmpose's tools do not replace it
    more = "model['head']['norm_cfg'] = dict(type='BN')\nsync_bn = None"
    config = write_config(tmp_path, more=more)
    command = [sys.executable, tool, config, '--work-dir', tmp_path / 'run']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'run' / 'iter_2.pth').is_file() and 'PCK@0.1' in done.stdout + done.stderr


def test_two_processes_train_and_test(tmp_path):
    """With a hook that averages the batch norms over the processes."""
    config, log = write_config(tmp_path, more="custom_hooks = [dict(type='SyncBuffersHook')]"), tmp_path / 'log.txt'
    done = launch_forked(2, log, 'train', config, '--work-dir', tmp_path / 'run')
    assert done == [0, 0], log.read_text()[-3000:]
    scores = tmp_path / 'scores.json'
    options = ('--eval', 'PCK', '--work-dir', tmp_path / 'test', '--scores', scores)
    done = launch_forked(2, log, 'test', config, tmp_path / 'run' / 'iter_2.pth', *options)
    assert done == [0, 0], log.read_text()[-3000:]
    assert 0 <= json.loads(scores.read_text())['PCK@0.1'] <= 1
