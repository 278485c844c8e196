"""tools/train.py and tools/test.py as a user calls them, on a data set of eight pictures."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mmseg_tr import files
from mmseg_tr.engine import SafeVisBackend
from mmseg_tr.errors import WriteError
from tests.tiny import CLASSES, write_config, write_dataset
from tests.tools.command import call, mistake


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with the data set, a config and one finished training of it."""
    folder = tmp_path_factory.mktemp('tools')
    write_dataset(folder / 'data')
    config = write_config(folder, folder / 'data')
    assert call('train', config, '--work-dir', folder / 'work') == 0
    return folder


@pytest.fixture
def checkpoint(place):
    return place / 'work' / 'iter_4.pth'


def run_test(place, tmp_path, *arguments, config=None):
    """Test the trained model; returns the scores in the file that it wrote."""
    config = config or place / 'tiny.py'
    assert call('test', config, place / 'work' / 'iter_4.pth', '--work-dir', tmp_path, *arguments) == 0
    name = 'scores_ms.yml' if '--tta' in arguments else 'scores_ss.yml'
    path = tmp_path / name
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def read_image(path):
    return np.asarray(Image.open(path))


# ---------------------------------------------------------------- training


def test_training_learns_and_leaves_a_checkpoint(place):
    saved = torch.load(place / 'work' / 'iter_4.pth', weights_only=True)
    losses = saved['message_hub']['log_scalars']['train/loss']['log_history']
    assert losses[-1] < losses[0]
    assert saved['meta']['iter'] == 4


def test_settings_of_the_command_line_replace_those_of_the_config(place, tmp_path):
    options = ['train_cfg.max_iters=1', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    assert call('train', place / 'tiny.py', '--work-dir', tmp_path, '--seed', 7, '--cfg-options', *options) == 0
    assert torch.load(tmp_path / 'iter_1.pth', weights_only=True)['meta']['seed'] == 7


def test_work_dir_defaults_to_the_name_of_the_config(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call('train', place / 'tiny.py', '--cfg-options', 'train_cfg.max_iters=1') == 0
    assert (tmp_path / 'work_dirs' / 'tiny' / 'iter_1.pth').is_file()


def test_trains_in_mixed_precision(place, tmp_path):
    assert call('train', place / 'tiny.py', '--work-dir', tmp_path, '--amp') == 0
    kind = 'AmpOptimWrapper' if torch.cuda.is_available() else 'BFloat16OptimWrapper'
    assert kind in (tmp_path / 'tiny.py').read_text()


def test_resume_continues_the_last_training_of_the_work_dir(place, tmp_path):
    work = shutil.copytree(place / 'work', tmp_path / 'moved')  # last_checkpoint names the old folder
    (place / 'work' / 'iter_4.pth').rename(place / 'hidden.pth')
    try:
        options = ['train_cfg.max_iters=6', 'param_scheduler.0.end=6']
        assert call('train', place / 'tiny.py', '--work-dir', work, '--resume', '--cfg-options', *options) == 0
    finally:
        (place / 'hidden.pth').rename(place / 'work' / 'iter_4.pth')
    rates = torch.load(work / 'iter_6.pth', weights_only=True)['message_hub']['log_scalars']['train/lr']
    assert len(rates['log_history']) == 6


def test_load_from_takes_a_backbone_and_lets_the_head_differ(place, checkpoint, tmp_path, capfd):
    config = write_config(tmp_path, place / 'data', "model['decode_head'].update(num_classes=5)")
    arguments = ['--work-dir', tmp_path / 'work', '--load-from', checkpoint, '--no-check-data', '--cfg-options',
                 'train_cfg.max_iters=1']  # fmt: skip
    call('train', config, *arguments, 'optim_wrapper.optimizer.lr=0.', 'val_cfg=None', 'val_dataloader=None',
         'val_evaluator=None')  # fmt: skip
    assert 'start anew: decode_head.' in capfd.readouterr().out
    before = torch.load(checkpoint, weights_only=True)['state_dict']
    after = torch.load(tmp_path / 'work' / 'iter_1.pth', weights_only=True)['state_dict']
    assert torch.equal(before['backbone.norm.weight'], after['backbone.norm.weight'])


def test_synchronised_norms_become_plain_ones_on_a_cpu(place, tmp_path):
    from mmseg_tr.apis.config import fit_to_run, load_config

    options = {'model.decode_head.norm_cfg': dict(type='SyncBN', requires_grad=True)}
    config = load_config(str(place / 'tiny.py'), options)
    fit_to_run(config, str(tmp_path), 'none')
    assert (config.model.decode_head.norm_cfg.type == 'BN') is not torch.cuda.is_available()


# ---------------------------------------------------------------- testing


def test_scores_are_written_in_the_published_words_and_plain_numbers(place, tmp_path):
    scores = run_test(place, tmp_path, '--eval', 'mIoU', 'mDice', 'mFscore')
    assert set(scores) >= {'pixel_accuracy', 'mean_accuracy', 'mean_iou', 'cat_iou', 'mIoU', 'mDice', 'mFscore'}
    assert scores['mean_iou'] == scores['mIoU'] == pytest.approx(np.mean(scores['cat_iou']), abs=0.01)
    assert scores['inference']['images'] == 8
    assert scores['classes'] == list(CLASSES)


def test_scores_agree_with_the_prediction_files(place, tmp_path):
    scores = run_test(place, tmp_path, '--out', tmp_path / 'out')
    both, either = np.zeros(3), np.zeros(3)
    for name in os.listdir(place / 'data' / 'labels'):
        label, prediction = read_image(place / 'data' / 'labels' / name), read_image(tmp_path / 'out' / name)
        for index in range(3):
            seen, known = (prediction == index) & (label != 255), label == index
            both[index] += (seen & known).sum()
            either[index] += (seen | known).sum()
    assert scores['cat_iou'] == pytest.approx(list(100 * both / either), abs=0.005)


def test_json_says_null_where_a_class_is_nowhere(place, tmp_path):
    more = "test_dataloader['dataset']['metainfo'] = dict(classes=('a', 'b', 'c', 'none'), palette=[[0] * 3] * 4)"
    config = write_config(tmp_path, place / 'data', more)
    arguments = ['--scores', tmp_path / 'scores.json', '--eval', 'mDice', '--no-check-data']
    run_test(place, tmp_path, *arguments, config=config)
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert scores['cat_iou'][3] is None
    assert 0 < scores['mean_iou'] < 100
    assert 'mDice' in scores


@pytest.mark.parametrize(('fraction', 'names'), [(0.5, ['00', '02', '04', '06']), (0.01, ['00']), (0.3, ['00', '04'])])
def test_a_fraction_is_spread_over_the_data_set(place, tmp_path, fraction, names):
    scores = run_test(place, tmp_path, '--frac-dataset', fraction, '--out', tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out')) == [f'{name}.png' for name in names]
    assert scores['inference']['images'] == len(names)


def test_augmentation_changes_the_scores_and_their_file(place, tmp_path):
    single = run_test(place, tmp_path)
    several = run_test(place, tmp_path, '--tta')
    assert several['inference']['augmented'] and not single['inference']['augmented']
    assert several['cat_iou'] != single['cat_iou']


def test_mixed_precision_scores_nearly_the_same(place, tmp_path):
    assert run_test(place, tmp_path, '--amp')['mIoU'] == pytest.approx(run_test(place, tmp_path)['mIoU'], abs=5)


def test_every_image_is_drawn(place, tmp_path):
    run_test(place, tmp_path, '--show-dir', tmp_path / 'shown')
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 8


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, '_move', full)
    with pytest.raises(WriteError, match='0.png_0.png'):
        SafeVisBackend(str(tmp_path)).add_image('a/test_0.png', np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.rglob('*.png'))


def test_ade20k_files_count_from_one(place, tmp_path):
    more = "test_dataloader['dataset'].update(reduce_zero_label=True)"
    config = write_config(tmp_path, place / 'data', more)
    run_test(place, tmp_path, '--out', tmp_path / 'out', config=config)
    plain = tmp_path / 'plain'
    run_test(place, tmp_path, '--out', plain)
    np.testing.assert_array_equal(read_image(tmp_path / 'out' / '03.png'), read_image(plain / '03.png') + 1)


def test_images_of_one_name_in_several_folders_keep_their_folders(place, tmp_path):
    root = tmp_path / 'set'
    for kind in ('images', 'labels'):
        for folder, number in (('a', 0), ('b', 0), ('b', 1)):
            (root / kind / folder).mkdir(parents=True, exist_ok=True)
            source = place / 'data' / kind / f'0{number}.png'
            (root / kind / folder / f'{number}.png').write_bytes(source.read_bytes())
    config = write_config(tmp_path, root)
    run_test(place, tmp_path, '--out', tmp_path / 'out', '--show-dir', tmp_path / 'shown', config=config)
    written = sorted(path.relative_to(tmp_path / 'out').as_posix() for path in (tmp_path / 'out').rglob('*.png'))
    assert written == ['a/0.png', 'b/0.png', 'b/1.png']
    (shown,) = (tmp_path / 'shown').rglob('vis_image')
    drawn = sorted(path.relative_to(shown).as_posix() for path in shown.rglob('*.png'))
    assert [name.partition('.png')[0] for name in drawn] == ['a/test_0', 'b/test_0', 'b/test_1']


def test_cityscapes_files_hold_label_ids(place, tmp_path):
    from mmseg_tr.evaluation.submission import CITYSCAPES_CLASSES, CITYSCAPES_LABEL_IDS

    more = f"""
test_dataloader['dataset'].update(metainfo=dict(classes={CITYSCAPES_CLASSES!r}, palette=[[0] * 3] * 19))
"""
    config = write_config(tmp_path, place / 'data', more)
    run_test(place, tmp_path, '--out', tmp_path / 'out', '--no-check-data', config=config)
    run_test(place, tmp_path, '--out', tmp_path / 'plain')
    expected = np.array(CITYSCAPES_LABEL_IDS)[read_image(tmp_path / 'plain' / '03.png')]
    np.testing.assert_array_equal(read_image(tmp_path / 'out' / '03.png'), expected)


@pytest.mark.parametrize('more', [[], ['--tta']])
def test_a_test_set_without_labels_is_only_written(place, tmp_path, more):
    shutil.copytree(place / 'data' / 'images', tmp_path / 'data' / 'images')
    config = write_config(tmp_path, tmp_path / 'data')
    assert run_test(place, tmp_path, '--format-only', '--out', tmp_path / 'out', *more, config=config) is None
    assert len(os.listdir(tmp_path / 'out')) == 8


# ---------------------------------------------------------------- mistakes


def test_missing_or_broken_config(place, checkpoint, tmp_path, capsys):
    assert 'config file nowhere.py does not exist' in mistake(capsys, 'train', 'nowhere.py')
    assert 'config file nowhere.py does not exist' in mistake(capsys, 'test', 'nowhere.py', checkpoint)
    (tmp_path / 'broken.py').write_text('model = dict(\n')
    assert 'cannot be read: ' in mistake(capsys, 'train', tmp_path / 'broken.py')
    (tmp_path / 'based.py').write_text("_base_ = './nowhere.py'\n")
    assert 'nowhere.py' in mistake(capsys, 'train', tmp_path / 'based.py')
    (tmp_path / 'short.py').write_text("default_scope = 'mmseg'\n")
    said = mistake(capsys, 'train', tmp_path / 'short.py')
    assert 'model, train_dataloader, train_cfg, optim_wrapper' in said


def test_unknown_types_and_settings_in_the_config(place, tmp_path, capsys):
    arguments = ['train', place / 'tiny.py', '--work-dir', tmp_path, '--cfg-options']
    assert 'Nowhere is not in the' in mistake(capsys, *arguments, 'model.type=Nowhere')
    assert 'colour' in mistake(capsys, *arguments, 'model.decode_head.colour=1')
    for part in ('train_dataloader.dataset', 'val_dataloader.dataset', 'optim_wrapper.optimizer', 'param_scheduler.0'):
        assert 'names an unknown type: Nowhere' in mistake(capsys, *arguments, f'{part}.type=Nowhere')
    assert 'mood' in mistake(capsys, *arguments, 'train_dataloader.dataset.mood=good')


def test_work_dir_that_cannot_be_made(place, checkpoint, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    for arguments in (['train', place / 'tiny.py'], ['test', place / 'tiny.py', checkpoint]):
        assert 'Not a directory' in mistake(capsys, *arguments, '--work-dir', tmp_path / 'file' / 'work')


def test_malformed_options(place, capsys):
    assert "train_cfg='fast': give a dict" in mistake(
        capsys, 'train', place / 'tiny.py', '--cfg-options', 'train_cfg=fast'
    )
    assert call('train', place / 'tiny.py', '--cfg-options', 'train_cfg') == 2
    assert "--cfg-options takes KEY=VALUE pairs, got 'train_cfg'" in capsys.readouterr().err
    assert call('train', place / 'tiny.py', '--resume', '--load-from', 'x.pth') == 2


def test_missing_checkpoint(place, capsys):
    assert 'no checkpoint file nowhere.pth' in mistake(capsys, 'test', place / 'tiny.py', 'nowhere.pth')
    said = mistake(capsys, 'train', place / 'tiny.py', '--load-from', 'nowhere.pth')
    assert 'nowhere.pth' in said
    said = mistake(capsys, 'train', place / 'tiny.py', '--resume', 'nowhere.pth')
    assert said.startswith('--resume') and 'nowhere.pth' in said


def test_nothing_to_resume_from(place, checkpoint, tmp_path, capsys):
    said = mistake(capsys, 'train', place / 'tiny.py', '--work-dir', tmp_path, '--resume')
    assert said.startswith('--resume') and str(tmp_path) in said
    weights = {key: torch.load(checkpoint, weights_only=True)[key] for key in ('meta', 'state_dict')}
    torch.save(weights, tmp_path / 'weights.pth')
    said = mistake(capsys, 'train', place / 'tiny.py', '--work-dir', tmp_path, '--resume', tmp_path / 'weights.pth')
    assert 'holds weights only' in said


def test_checkpoint_of_another_model(place, checkpoint, tmp_path, capsys):
    other = write_config(tmp_path, place / 'data', "model['backbone']['arch'].update(depth=3)")
    work = ['--work-dir', tmp_path]
    for arguments in (
        ['test', other, checkpoint],
        ['train', other, '--resume', checkpoint],
        ['train', other, '--load-from', checkpoint],
    ):
        said = mistake(capsys, *arguments, *work)
        assert 'is the checkpoint of another model' in said
        assert 'backbone.blocks.2' in said


def test_damaged_or_unsafe_checkpoint(place, checkpoint, tmp_path, capsys):
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(checkpoint.read_bytes()[:-1000])
    assert 'truncated' in mistake(capsys, 'test', place / 'tiny.py', cut, '--work-dir', tmp_path)
    torch.save({'state_dict': {}, 'call': os.system}, tmp_path / 'unsafe.pth')
    said = mistake(capsys, 'test', place / 'tiny.py', tmp_path / 'unsafe.pth', '--work-dir', tmp_path)
    assert 'mmseg-tr convert-checkpoint' in said and '--trust' in said


def test_dataset_folder_variable_not_set(place, checkpoint, tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path, '{{$DATASET:unset:DATASET}}/a')
    monkeypatch.delenv('DATASET', raising=False)
    for arguments in (['train', config], ['test', config, checkpoint]):
        said = mistake(capsys, *arguments, '--work-dir', tmp_path / 'work')
        assert 'the environment variable DATASET is not set' in said
    monkeypatch.setenv('DATASET', str(tmp_path / 'nowhere'))
    said = mistake(capsys, 'train', config, '--work-dir', tmp_path / 'work')
    assert f'{tmp_path}/nowhere/a does not exist' in said


def test_missing_folder_of_images(place, checkpoint, tmp_path, capsys):
    (tmp_path / 'data' / 'labels').mkdir(parents=True)
    config = write_config(tmp_path, tmp_path / 'data')
    for arguments in (['train', config], ['test', config, checkpoint]):
        assert 'data/images does not exist' in mistake(capsys, *arguments, '--work-dir', tmp_path)


@pytest.mark.parametrize('serialize', [True, False])
def test_empty_dataset_folder(place, checkpoint, tmp_path, capsys, serialize):
    for name in ('images', 'labels'):
        (tmp_path / 'data' / name).mkdir(parents=True)
    more = f"for part in (train_dataloader, test_dataloader): part['dataset']['serialize_data'] = {serialize}"
    config = write_config(tmp_path, tmp_path / 'data', more)
    for arguments in (['train', config], ['test', config, checkpoint]):
        said = mistake(capsys, *arguments, '--work-dir', tmp_path)
        assert 'BaseSegDataset is empty: there is no image whose name ends in .png' in said


DAMAGE = {
    'garbage': lambda path: path.write_bytes(b'no image at all'),
    'empty': lambda path: path.write_bytes(b''),
    'cut': lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]),
    'missing': lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ('kind', 'damage'),  # a missing image is not in the list of the data set
    [(kind, damage) for kind in ('images', 'labels') for damage in DAMAGE if (kind, damage) != ('images', 'missing')],
)
def test_corrupt_file_is_named(place, checkpoint, tmp_path, capsys, damage, kind):
    shutil.copytree(place / 'data', tmp_path / 'data')
    bad = tmp_path / 'data' / kind / '05.png'
    DAMAGE[damage](bad)
    config = write_config(tmp_path, tmp_path / 'data')
    assert str(bad) in mistake(capsys, 'test', config, checkpoint, '--work-dir', tmp_path)
    assert str(bad) in mistake(capsys, 'train', config, '--work-dir', tmp_path)


def test_corrupt_jpeg_is_named_by_a_worker_process(place, checkpoint, tmp_path, capsys):
    shutil.copytree(place / 'data', tmp_path / 'data')
    for path in (tmp_path / 'data' / 'images').iterdir():
        Image.open(path).save(path.with_suffix('.jpg'))
    bad = tmp_path / 'data' / 'images' / '05.jpg'
    DAMAGE['cut'](bad)  # OpenCV would fill the rest with grey
    more = "test_dataloader['dataset']['img_suffix'] = '.jpg'; test_dataloader['num_workers'] = 1"
    config = write_config(tmp_path, tmp_path / 'data', more)
    said = mistake(capsys, 'test', config, checkpoint, '--work-dir', tmp_path, '--no-check-data')
    assert said == f'the file {bad} of the dataset cannot be read: it is damaged or no image'


@pytest.mark.parametrize('fraction', ['0', '-0.5', '1.01', 'nan'])
def test_fraction_out_of_range(place, checkpoint, capsys, fraction):
    said = mistake(capsys, 'test', place / 'tiny.py', checkpoint, f'--frac-dataset={fraction}')
    assert said.startswith('--frac-dataset must be') and fraction in said


def test_unknown_metric_or_scores_file(place, checkpoint, capsys):
    said = mistake(capsys, 'test', place / 'tiny.py', checkpoint, '--eval', 'mIoU', 'mAP')
    assert said == 'metric mAP: choose among mIoU, mDice, mFscore'
    said = mistake(capsys, 'test', place / 'tiny.py', checkpoint, '--scores', 'scores.txt')
    assert said.startswith('--scores') and 'scores.txt' in said


def test_window_without_a_screen(place, checkpoint, monkeypatch, capsys):
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    assert '--show-dir' in mistake(capsys, 'test', place / 'tiny.py', checkpoint, '--show')


def test_augmentation_that_the_config_does_not_have(place, checkpoint, tmp_path, capsys):
    config = write_config(tmp_path, place / 'data', 'del tta_model, tta_pipeline')
    assert 'tta_model, tta_pipeline' in mistake(capsys, 'test', config, checkpoint, '--tta', '--work-dir', tmp_path)


def test_more_processes_than_gpus(place, checkpoint, monkeypatch, capsys):
    for name, value in dict(RANK=0, WORLD_SIZE=3, LOCAL_RANK=0, LOCAL_WORLD_SIZE=3).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for arguments in (['train', place / 'tiny.py'], ['test', place / 'tiny.py', checkpoint]):
        said = mistake(capsys, *arguments, '--launcher', 'pytorch')
        assert '3 processes were started here for 2 GPUs: start at most 2' in said


def test_launcher_that_did_not_start_the_process(place, monkeypatch, capsys):
    monkeypatch.delenv('RANK', raising=False)
    assert 'RANK is not set' in mistake(capsys, 'train', place / 'tiny.py', '--launcher', 'pytorch')


def test_missing_extra_is_named(place, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr('mmseg_tr.errors.installed', lambda module: module != 'mmseg')
    for arguments in (['train', place / 'tiny.py'], ['test', place / 'tiny.py', checkpoint]):
        assert "pip install 'mmseg_tr[seg]'" in mistake(capsys, *arguments)
