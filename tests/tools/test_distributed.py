"""Two processes on the CPU, joined by gloo: a real training through its launcher, and a real test."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from mmseg_tr.cli import launch
from mmseg_tr.engine.distributed import Place, check_devices, read_place
from mmseg_tr.errors import ConfigError, DeviceError
from tests.clean import ROOT
from tests.tiny import write_config, write_dataset
from tests.tools.command import call, fork, launch_forked, mistake
from tests.tools.command import launch as launch_script

# What each process has after each update, and how it ends, written by itself.
RECORDER = """
import atexit
import os
from pathlib import Path

import mmengine.config.config
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

mmengine.config.config.FormatCode = lambda text, **_: (text, True)  # the layout of a text takes seconds

@HOOKS.register_module()
class Recorder(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        weights = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
        images = sorted(sample.img_path[-6:-4] for sample in data_batch['data_samples'])
        with open(f'{runner.work_dir}/rank{get_rank()}.txt', 'a') as file:
            print(weights.double().sum().item(), weights.abs().max().item(), *images, file=file)

@atexit.register
def leave():
    Path(f'left{os.environ["RANK"]}.txt').touch()

class TakenApart:
    def __del__(self, make=os.open, path=f'apart{os.environ["RANK"]}.txt', flags=os.O_CREAT | os.O_WRONLY):
        make(path, flags)  # modules are empty by then

held = TakenApart()
"""
RECORDED = "custom_imports['imports'].append('recorder'); custom_hooks = [dict(type='mmengine.Recorder')]"


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with seven pictures, an odd number, and a model trained on them by two processes."""
    folder = tmp_path_factory.mktemp('distributed')
    write_dataset(folder / 'data', count=7)
    (folder / 'recorder.py').write_text(RECORDER)
    more = RECORDED + "\nmodel['decode_head'].update(norm_cfg=dict(type='SyncBN'))"
    config = write_config(folder, folder / 'data', more)
    done = launch_script(folder, 'dist_train.sh', config, 2, '--work-dir', folder / 'work')
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_both_processes_stay_in_step_on_different_pictures(place):
    ranks = [(place / 'work' / f'rank{rank}.txt').read_text().splitlines() for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 4
    for first, second in zip(*ranks):
        weights, pictures = first.split()[:2], first.split()[2:]
        assert weights == second.split()[:2]
        assert pictures != second.split()[2:]
    assert ranks[0][0] != ranks[0][1]


def test_the_checkpoint_is_that_of_the_bare_model(place):
    saved = torch.load(place / 'work' / 'iter_4.pth', weights_only=True)
    assert not any(key.startswith('module.') for key in saved['state_dict'])


def test_a_process_leaves_its_interpreter_in_one_piece(place):
    """Taking it apart, or the group, while a thread of the group lets go of a tensor would abort or block it."""
    assert sorted(path.name for path in place.glob('*.txt')) == ['left0.txt', 'left1.txt']


def test_scores_are_those_of_one_process(place, tmp_path, monkeypatch):
    config, checkpoint = write_config(tmp_path, place / 'data'), place / 'work' / 'iter_4.pth'
    arguments = ['--eval', 'mIoU', 'mDice', '--out', tmp_path / 'out', '--frac-dataset', '0.72']
    monkeypatch.chdir(tmp_path)
    log = tmp_path / 'log.txt'
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')  # as the two, which are forked with all of it imported
    assert call('test', config, checkpoint, *arguments, '--work-dir', tmp_path / 'one') == 0
    done = launch_forked(2, log, 'test', config, checkpoint, *arguments, '--work-dir', tmp_path / 'two')
    assert done == [0, 0], log.read_text()[-3000:]
    one, two = (yaml.safe_load((tmp_path / name / 'scores_ss.yml').read_text()) for name in ('one', 'two'))
    assert two == one
    assert one['inference']['images'] == 5  # an odd number: one process is given a picture twice
    for folder in ('.', 'two'):  # where results were exchanged nothing is left
        assert [path.name for path in (tmp_path / folder).iterdir() if path.name[0] == '.'] == []


def test_a_mistake_ends_without_a_traceback(tmp_path, capsys):
    """The tool says it, and the launcher passes its status on; test_launchers.py looks at the scripts."""
    assert 'config file' in mistake(capsys, 'train', tmp_path / 'nowhere.py', '--launcher', 'pytorch')
    (tmp_path / 'mistaken.py').write_text(MISTAKEN)
    launcher = fork_launcher(tmp_path, 'mistaken.py', processes=1)
    assert os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1]) == 2
    assert (tmp_path / 'said').read_text() == 'mistaken.py: no such file\n'


SLURM = dict(SLURM_PROCID='5', SLURM_NTASKS='9', SLURM_LOCALID='1', SLURM_TASKS_PER_NODE='4(x2),1')


MISTAKEN = """
import sys
from mmseg_tr.cli.options import run_tool
from mmseg_tr.errors import ConfigError
def main(argv):
    raise ConfigError('no such file')
sys.exit(run_tool(main))
"""
WAITING = """
import os, sys, time
from pathlib import Path
from mmseg_tr.engine.distributed import process_group
with process_group('pytorch'):
    Path(f'rank{os.environ["RANK"]}').write_text(str(os.getpid()))
    time.sleep(100)
"""


def fork_launcher(folder, script, processes):
    """torchrun as dist_*.sh start it, in a fork of this process, which has torch already; returns the fork's id.

    It runs in `folder`, and what it and its processes say is in the file `said`.
    """

    def work() -> int:
        os.chdir(folder)
        os.environ.update(CUDA_VISIBLE_DEVICES='', PYTHONPATH=str(ROOT))
        launch.STOPPED_FOR = 0.3
        return launch.main(['--standalone', '--nproc-per-node', str(processes), script])

    return fork(folder / 'said', work)


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='states of processes are read from /proc')
def test_a_stopped_process_is_reported_and_a_killed_launcher_takes_every_process_with_it(tmp_path):
    (tmp_path / 'waiting.py').write_text(WAITING)
    launcher = fork_launcher(tmp_path, 'waiting.py', processes=2)
    try:
        files = [tmp_path / f'rank{rank}' for rank in range(2)]
        until(lambda: all(file.is_file() and file.read_text() for file in files))
        stopped, running = (int(file.read_text()) for file in files)
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: f'kill -CONT {stopped}' in (tmp_path / 'said').read_text())
    finally:
        os.kill(launcher, signal.SIGKILL)
        os.waitpid(launcher, 0)
    until(lambda: not any(Path(f'/proc/{process}').exists() for process in (stopped, running)))


def until(condition, seconds=240):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_reads_what_each_launcher_says(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert read_place('slurm') == Place(rank=5, world_size=9, local_rank=1, local_size=4)
    for name, value in zip(('RANK', 'SIZE', 'LOCAL_RANK'), '231'):
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    monkeypatch.delenv('OMPI_COMM_WORLD_LOCAL_SIZE', raising=False)
    assert read_place('mpi') == Place(rank=2, world_size=3, local_rank=1, local_size=2)


def test_refuses_a_launcher_that_is_not_there(monkeypatch):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    with pytest.raises(ConfigError, match='started with tools/slurm_train.sh or tools/slurm_test.sh: SLURM_PROCID'):
        read_place('slurm')


@pytest.mark.parametrize(('gpus', 'fits'), [(0, True), (1, False), (3, False), (4, True), (8, True)])
def test_as_many_gpus_as_processes_or_none(monkeypatch, gpus, fits):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    place = Place(rank=0, world_size=8, local_rank=0, local_size=4)
    if fits:
        check_devices(place)
        return
    with pytest.raises(DeviceError, match=f'4 processes were started here for {gpus} GPU'):
        check_devices(place)
