"""SafeCheckpointHook inside real, tiny trainings; what happens under a kill is in tests/tools/test_interrupted.py."""

import os
import shutil

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmseg_tr.apis.train import train
from mmseg_tr.errors import ConfigError
from tests.tiny import write_config, write_dataset

EXACT = 1e-3 if torch.cuda.is_available() else 0  # backward passes on a GPU add up in any order


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('hook') / 'data')


def trained(tmp_path, root, more='', **settings):
    config = write_config(tmp_path, root, more)
    return train(str(config), work_dir=str(tmp_path / 'work'), **settings)


def checkpoints(tmp_path):
    return sorted(name for name in os.listdir(tmp_path / 'work') if name.endswith('.pth'))


def test_files_load_with_weights_only_and_hold_plain_numbers(tmp_path, root):
    runner = trained(tmp_path, root)
    content = torch.load(tmp_path / 'work' / 'iter_4.pth', weights_only=True)
    assert set(content) == {'meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers', 'random_states'}
    history = content['message_hub']['log_scalars']['train/loss']['log_history']
    assert history.tolist() == runner.message_hub.get_scalar('train/loss').data[0].tolist()
    assert len(history) == 4


def test_only_the_newest_are_kept(tmp_path, root):
    trained(tmp_path, root, "default_hooks['checkpoint'].update(interval=1, max_keep_ckpts=2)")
    assert checkpoints(tmp_path) == ['iter_3.pth', 'iter_4.pth']
    assert (tmp_path / 'work' / 'last_checkpoint').read_text().endswith('iter_4.pth')


def test_one_best_checkpoint_is_kept_beside_them_and_resuming_knows_it(tmp_path, root):
    more = "default_hooks['checkpoint'].update(interval=1, save_best='mIoU'); train_cfg['val_interval'] = 1"
    runner = trained(tmp_path, root, more)
    best = runner.message_hub.get_info('best_ckpt')
    assert checkpoints(tmp_path) == sorted([os.path.basename(best), 'iter_4.pth'])
    content = torch.load(tmp_path / 'work' / 'iter_4.pth', weights_only=True)
    assert content['message_hub']['runtime_info']['best_ckpt'] == best
    assert type(content['message_hub']['runtime_info']['best_score']) is float
    assert 'optimizer' not in torch.load(best, weights_only=True)


def test_several_best_checkpoints_by_metric(tmp_path, root):
    more = "default_hooks['checkpoint'].update(interval=1, save_best=['mIoU', 'aAcc']); train_cfg['val_interval'] = 1"
    trained(tmp_path, root, more)
    names = [name.split('_')[1] for name in checkpoints(tmp_path) if name.startswith('best')]
    assert sorted(names) == ['aAcc', 'mIoU']


DROPOUT = "model['backbone'].update(drop_rate=0.2, drop_path_rate=0.3)"


@pytest.mark.parametrize('more', ['', DROPOUT, f"{DROPOUT}; train_cfg['val_interval'] = 1"])
def test_resuming_continues_exactly_as_if_it_had_not_stopped(tmp_path, root, more):
    more = f"default_hooks['checkpoint'].update(interval=1, max_keep_ckpts=-1); {more}"
    straight = trained(tmp_path, root, more)
    whole = torch.load(tmp_path / 'work' / 'iter_4.pth', weights_only=True)
    again = train(
        str(tmp_path / 'tiny.py'), work_dir=str(tmp_path / 'again'), resume=str(tmp_path / 'work' / 'iter_2.pth')
    )
    resumed = torch.load(tmp_path / 'again' / 'iter_4.pth', weights_only=True)
    for key, tensor in whole['state_dict'].items():
        torch.testing.assert_close(tensor, resumed['state_dict'][key], rtol=0, atol=EXACT, msg=key)
    for name in ('train/lr', 'train/loss'):
        history = again.message_hub.get_scalar(name)
        assert isinstance(history, HistoryBuffer)
        assert history.data[0] == pytest.approx(straight.message_hub.get_scalar(name).data[0], rel=0, abs=EXACT)


def test_an_old_checkpoint_left_by_a_kill_is_removed_when_resuming(tmp_path, root):
    """As if the kill came between the new checkpoint and the removal of the old one."""
    trained(tmp_path, root)
    work = tmp_path / 'work'
    (work / 'iter_2.pth').write_bytes((work / 'iter_4.pth').read_bytes())
    (work / '.iter_6.pth.unfinished').write_bytes(b'part')
    trained(tmp_path, root, resume=True, cfg_options={'train_cfg.max_iters': 5})
    assert sorted(name for name in os.listdir(work) if '.pth' in name) == ['iter_5.pth']


EPOCHS = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
train_dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True)
default_hooks['checkpoint'].update(by_epoch=True, interval=1, max_keep_ckpts=-1)
param_scheduler = []
log_processor = dict(by_epoch=True)
"""


WORKERS = """
train_dataloader.update(num_workers=2, persistent_workers=True)
train_dataloader['dataset']['pipeline'].insert(2, dict(type='RandomFlip', prob=0.5))
train_dataloader['dataset']['pipeline'].insert(2, dict(type='PhotoMetricDistortion'))
"""


@pytest.mark.parametrize('more', ['', WORKERS])
def test_a_training_by_epochs_resumes_to_the_same_weights(tmp_path, root, more):
    trained(tmp_path, root, f'{EPOCHS}\n{DROPOUT}\n{more}')
    train(str(tmp_path / 'tiny.py'), work_dir=str(tmp_path / 'b'), resume=str(tmp_path / 'work' / 'epoch_1.pth'))
    whole, resumed = (
        torch.load(tmp_path / name / 'epoch_3.pth', weights_only=True)['state_dict'] for name in ('work', 'b')
    )
    for key, tensor in whole.items():
        torch.testing.assert_close(tensor, resumed[key], rtol=0, atol=EXACT, msg=key)


def test_the_seed_of_the_training_goes_on(tmp_path, root):
    more = "default_hooks['checkpoint'].update(interval=1, max_keep_ckpts=-1)"
    trained(tmp_path, root, more, seed=5)
    work = tmp_path / 'work'
    train(str(tmp_path / 'tiny.py'), work_dir=str(tmp_path / 'b'), resume=str(work / 'iter_2.pth'))
    whole, resumed = (torch.load(file, weights_only=True) for file in (work / 'iter_4.pth', tmp_path / 'b/iter_4.pth'))
    assert resumed['meta']['seed'] == 5
    for key, tensor in whole['state_dict'].items():
        torch.testing.assert_close(tensor, resumed['state_dict'][key], rtol=0, atol=EXACT, msg=key)


def test_a_copied_folder_keeps_its_own_best_checkpoint_and_the_original_its_own(tmp_path, root):
    more = (
        "default_hooks['checkpoint'].update(interval=1, save_best='mIoU'); train_cfg['val_interval'] = 1; "
        "optim_wrapper['optimizer']['lr'] = 0.02"
    )
    trained(tmp_path, root, more, cfg_options={'train_cfg.max_iters': 2})
    original, copy = tmp_path / 'work', tmp_path / 'copy'
    shutil.copytree(original, copy)
    before = {path: path.read_bytes() for path in original.iterdir() if path.is_file()}
    train(str(tmp_path / 'tiny.py'), work_dir=str(copy), resume=True, cfg_options={'train_cfg.max_iters': 6})
    assert {path: path.read_bytes() for path in original.iterdir() if path.is_file()} == before
    assert len(list(copy.glob('best_*.pth'))) == 1
    last = torch.load(copy / 'iter_6.pth', weights_only=True)['message_hub']['runtime_info']
    assert os.path.dirname(last['best_ckpt']) == str(copy)


def test_what_a_file_names_outside_of_the_folder_is_never_removed(tmp_path, root):
    """best_ckpt and keep_ckpt_ids of a resumed checkpoint name other people's files and folders."""
    more = "default_hooks['checkpoint'].update(interval=1, save_best='mIoU'); train_cfg['val_interval'] = 1"
    trained(tmp_path, root, more, cfg_options={'train_cfg.max_iters': 1})
    precious, folder = tmp_path / 'best_of_all.pth', tmp_path / 'best_folder.pth'
    precious.write_text('thesis')
    folder.mkdir()
    (folder / 'chapter').write_text('1')
    file = (tmp_path / 'work' / 'iter_1.pth').rename(tmp_path / 'iter_1.pth')
    for path in (precious, folder):
        content = torch.load(file, weights_only=True)
        content['message_hub']['runtime_info'] |= {
            'best_ckpt': str(path), 'best_score': -1.0, 'last_ckpt': str(path), 'keep_ckpt_ids': [f'../../{path}', 1],
        }  # fmt: skip
        content['meta']['config'] = f"_x = __import__('pathlib').Path({str(tmp_path / 'mark')!r}).touch()"
        torch.save(content, tmp_path / 'hostile.pth')
        trained(tmp_path, root, more, cfg_options={'train_cfg.max_iters': 2}, resume=str(tmp_path / 'hostile.pth'))
    assert precious.read_text() == 'thesis' and (folder / 'chapter').read_text() == '1'
    assert not (tmp_path / 'mark').exists()


def test_training_into_a_folder_with_checkpoints_is_refused_without_resume(tmp_path, root):
    trained(tmp_path, root)
    before = (tmp_path / 'work' / 'iter_4.pth').read_bytes()
    with pytest.raises(ConfigError, match='work_dir .* holds checkpoints of an earlier training .*resume'):
        trained(tmp_path, root)
    assert (tmp_path / 'work' / 'iter_4.pth').read_bytes() == before


def test_what_stays_in_force_on_resuming_is_logged(tmp_path, root, capfd):
    more = "default_hooks['checkpoint'].update(interval=2, max_keep_ckpts=-1)"
    plain = "param_scheduler = [dict(type='PolyLR', eta_min=1e-6, power=0.9, begin=0, end=4, by_epoch=False)]"
    trained(tmp_path, root, f'{more}; {plain}')
    changed = {'optim_wrapper.optimizer.lr': 0.5, 'param_scheduler': [dict(type='PolyLR', end=8, by_epoch=False)]}
    capfd.readouterr()
    train(
        str(tmp_path / 'tiny.py'),
        work_dir=str(tmp_path / 'b'),
        resume=str(tmp_path / 'work' / 'iter_2.pth'),
        cfg_options=changed,
    )
    said = capfd.readouterr().out
    assert 'optim_wrapper.optimizer.lr=0.5 of the config is not in force' in said
    assert 'param_scheduler[0].end=8' in said or 'param_scheduler[0].total_iters=8' in said
    assert 'weight_decay' not in said.partition('is not in force')[2].splitlines()[0]


def test_a_metric_that_the_evaluation_does_not_give_is_named(tmp_path, root):
    more = "default_hooks['checkpoint'].update(save_best='PCK', rule='greater'); train_cfg['val_interval'] = 1"
    with pytest.raises(ConfigError, match="save_best must name metrics.*mIoU.*'PCK'"):
        trained(tmp_path, root, more)
