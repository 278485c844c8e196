"""SafeCheckpointHook inside real, tiny trainings; what happens under a kill is in tests/tools/test_interrupted.py."""

import os

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmseg_tr.apis.train import train
from tests.tiny import unformatted_config_text, write_config, write_dataset  # noqa: F401

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
    assert set(content) == {'meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers'}
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


def test_resuming_continues_exactly_as_if_it_had_not_stopped(tmp_path, root):
    more = "default_hooks['checkpoint'].update(interval=1, max_keep_ckpts=-1)"
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
