"""What a training says when it ends early: what was kept, and under which name."""

import errno

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mmseg_tr import signals
from mmseg_tr.apis.train import TrainOptions, kept_work, train, use_safe_checkpoints
from mmseg_tr.cli.options import run_tool
from mmseg_tr.errors import ConfigError, Interrupted, StoppedError, WriteError
from tests.tiny import write_config, write_dataset


@pytest.fixture
def work(tmp_path):
    (tmp_path / 'iter_3.pth').write_bytes(b'')
    (tmp_path / 'last_checkpoint').write_text('/moved/away/iter_3.pth')
    return tmp_path


def full_disk(path):
    return WriteError(errno.ENOSPC, 'No space left on device', str(path))


@pytest.mark.parametrize('kind', [full_disk, lambda path: OSError(errno.EROFS, 'Read-only file system', str(path))])
def test_a_full_disk_is_told_with_what_was_kept(work, kind):
    with pytest.raises(StoppedError) as caught, kept_work(str(work)):
        raise kind(work / 'iter_4.pth')
    said = str(caught.value)
    assert 'iter_4.pth' in said and f'the last checkpoint is {work / "iter_3.pth"}' in said


def raise_chain(kind):
    """As libraries turn Ctrl-C into something else."""
    try:
        raise KeyboardInterrupt
    except BaseException:
        raise kind('Failed to format the config file, please check the syntax')  # noqa: B904


@pytest.mark.parametrize('kind', [SyntaxError, RuntimeError, KeyboardInterrupt])
def test_an_interrupt_is_told_with_what_was_kept_whatever_a_library_makes_of_it(work, kind):
    with pytest.raises(Interrupted, match='iter_3.pth') as caught, kept_work(str(work)):
        raise_chain(kind)
    assert caught.value.resumable
    with pytest.raises(Interrupted, match='no checkpoint was saved yet') as caught, kept_work(str(work / 'empty')):
        raise_chain(kind)
    assert not caught.value.resumable


def test_other_errors_stay(work):
    for error in (ConfigError('x'), ZeroDivisionError('y')):
        with pytest.raises(type(error), match=str(error)), kept_work(str(work)):
            raise error


def test_the_command_that_continues_is_said_once(capsys, monkeypatch):
    def main(argv):
        raise Interrupted('interrupted: the last checkpoint is w/iter_3.pth', resumable=True)

    monkeypatch.setattr(signals, 'ignore', lambda: None)
    assert run_tool(main, resume=lambda: 'mmseg-tr train x.py --resume') == 130
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert said.rstrip().endswith('w/iter_3.pth; continue with mmseg-tr train x.py --resume')


def test_a_disk_that_is_full_while_saving_ends_a_training_in_one_sentence(tmp_path, monkeypatch):
    config = write_config(
        tmp_path, write_dataset(tmp_path / 'data', count=2), "default_hooks['checkpoint'].update(interval=1)"
    )
    from mmseg_tr.engine import storage

    write, seen = storage.write_atomically, []

    def filling(content, path, **settings):
        seen.append(str(path))
        if str(path).endswith('iter_2.pth'):
            raise full_disk(path)
        write(content, path, **settings)

    monkeypatch.setattr(storage, 'write_atomically', filling)
    with pytest.raises(StoppedError, match=r'iter_2\.pth cannot be written.*last checkpoint is .*iter_1\.pth'):
        train(str(config), work_dir=str(tmp_path / 'work'))
    assert seen[-1].endswith('iter_2.pth')
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['iter_1.pth']


def test_paths_are_as_good_as_text(tmp_path):
    """The named file is resumed from, not the last one of the folder, and the kept config holds text."""
    config, first, second = (
        write_config(tmp_path, write_dataset(tmp_path / 'data', count=2)),
        *map(tmp_path.joinpath, ('first', 'second')),
    )
    train(config, work_dir=first, cfg_options={'train_cfg.max_iters': 2})
    runner = train(config, work_dir=second, resume=first / 'iter_2.pth', cfg_options={'train_cfg.max_iters': 3})
    assert runner.iter == 3
    assert Config.fromfile(second / 'tiny.py').load_from == str(first / 'iter_2.pth')


def test_mmengines_own_checkpoints_are_replaced_by_safe_ones():
    for hooks in ({}, dict(checkpoint=dict(type='CheckpointHook', interval=7))):
        config = Config(dict(default_hooks=hooks))
        use_safe_checkpoints(config)
        assert config.default_hooks.checkpoint.type == 'mmseg_tr.SafeCheckpointHook'
    assert config.default_hooks.checkpoint.interval == 7
    own = Config(dict(default_hooks=dict(checkpoint=dict(type='MyHook'))))
    use_safe_checkpoints(own)
    assert own.default_hooks.checkpoint.type == 'MyHook'


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match='work_folder'):
        train('x.py', TrainOptions(), work_folder='y')
