"""The shell launchers pass on what they are given and refuse what cannot work, in one sentence."""

import logging
import os
import subprocess
from pathlib import Path

import pytest

from mmseg_tr.cli import launch
from tests.clean import ROOT

TOOLS = ROOT / 'tools'


@pytest.fixture
def call(tmp_path):
    """Calls a launcher where Python reports `gpus` GPUs, and where Python and srun print what they are called with."""

    def run(script: str, *arguments: str, gpus: int = 8, slurm: bool = True, **environment: str):
        executable(tmp_path / 'python', f'#!/bin/sh\nif [ "$1" = -c ]; then echo {gpus}; else echo "$@"; fi\n')
        if slurm:
            executable(tmp_path / 'srun', '#!/bin/sh\necho "$@"\n')
        kept = {key: value for key, value in os.environ.items() if key not in ('PORT', 'NNODES', 'GPUS')}
        kept |= {'PYTHON': str(tmp_path / 'python'), 'PATH': f'{tmp_path}:/usr/bin:/bin'} | environment
        return subprocess.run([TOOLS / script, *arguments], cwd=tmp_path, env=kept, capture_output=True, text=True)

    return run


def executable(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def test_training_starts_one_process_a_device(call):
    done = call('dist_train.sh', 'config.py', '4', '--amp', '--cfg-options', 'a=1 2')
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:2] == ['-m', 'mmseg_tr.cli.launch']  # torchrun, without its own traceback
    assert '--standalone' in words  # a free port on one node
    assert words[words.index('--nproc-per-node') + 1] == '4'
    assert done.stdout.strip().endswith(f'{TOOLS}/train.py config.py --amp --cfg-options a=1 2 --launcher pytorch')


def test_testing_takes_the_checkpoint_before_the_devices(call):
    done = call('dist_test.sh', 'config.py', 'weights.pth', '2', '--eval', 'mIoU')
    assert done.stdout.strip().endswith(f'{TOOLS}/test.py config.py weights.pth --eval mIoU --launcher pytorch')


def test_a_named_port_and_several_nodes_reach_torchrun(call):
    nodes = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='12345')
    done = call('dist_train.sh', 'config.py', '4', **nodes)
    assert '--nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --master-port 12345' in done.stdout
    assert '--master-port 12345' in call('dist_train.sh', 'config.py', '4', PORT='12345').stdout


@pytest.mark.parametrize('devices', ['0', '-1', 'two', '1.5', ''])
def test_a_number_of_devices_that_is_none_is_refused(call, devices):
    done = call('dist_train.sh', 'config.py', devices)
    assert done.returncode == 2
    assert done.stderr.strip() == f"the number of devices must be 1 or more, not '{devices}'"


def test_more_gpus_than_there_are_is_one_sentence(call):
    done = call('dist_train.sh', 'config.py', '8', gpus=4)
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.strip() == '8 GPUs asked for, 4 there: ask for at most 4, or see CUDA_VISIBLE_DEVICES'


def test_without_gpus_processes_run_on_the_cpu(call):
    assert '--nproc-per-node 2' in call('dist_train.sh', 'config.py', '2', gpus=0).stdout


def test_a_python_without_torch_is_named(call, tmp_path):
    executable(tmp_path / 'bare', '#!/bin/sh\nexit 1\n')
    done = call('dist_train.sh', 'config.py', '2', PYTHON=str(tmp_path / 'bare'))
    assert done.returncode == 2
    assert 'bare cannot import torch' in done.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_too_few_arguments_give_the_usage(call, script):
    done = call(script, 'config.py')
    assert done.returncode == 2
    assert done.stderr.startswith('usage: ')


def test_slurm_starts_the_asked_tasks(call):
    done = call('slurm_train.sh', 'gpu', 'run', 'config.py', 'out', '--resume', GPUS='4', SRUN_ARGS='--time 1:00 -x n1')
    assert done.returncode == 0, done.stderr
    assert '-p gpu --job-name=run --gres=gpu:4 --ntasks=4 --ntasks-per-node=4' in done.stdout
    assert '--time 1:00 -x n1' in done.stdout
    assert done.stdout.strip().endswith('train.py config.py --work-dir out --resume --launcher slurm')


def test_slurm_training_takes_its_options_without_a_work_dir(call):
    done = call('slurm_train.sh', 'gpu', 'run', 'config.py', '--resume')
    assert done.stdout.strip().endswith('train.py config.py --resume --launcher slurm')


def test_slurm_testing_passes_the_checkpoint(call):
    done = call('slurm_test.sh', 'gpu', 'run', 'config.py', 'weights.pth', '--eval', 'mIoU')
    assert done.stdout.strip().endswith('test.py config.py weights.pth --eval mIoU --launcher slurm')


def test_without_slurm_the_other_script_is_named(call):
    done = call('slurm_train.sh', 'gpu', 'run', 'config.py', slurm=False)
    assert done.returncode == 2
    assert 'dist_train.sh' in done.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_a_launcher_works_through_a_link_and_with_cdpath(call, tmp_path, script):
    """CDPATH makes `cd` print, and a link lies in a folder without the other scripts."""
    link = tmp_path / 'elsewhere' / script
    link.parent.mkdir()
    link.symlink_to(TOOLS / script)
    arguments = ['config.py', '2'] if script == 'dist_train.sh' else ['config.py', 'weights.pth', '2']
    tool = f'{TOOLS}/{script[5:-3]}.py config.py'
    for path in (link, TOOLS / script):
        done = call(path, *arguments, CDPATH=f'{TOOLS.parent}:.')
        assert done.returncode == 0, done.stderr
        assert tool in done.stdout
    relative = subprocess.run(
        ['bash', f'tools/{script}', *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, 'CDPATH': str(ROOT), 'PYTHON': str(tmp_path / 'python'), 'PATH': '/usr/bin:/bin'},
    )  # fmt: skip
    assert relative.returncode == 0 and tool in relative.stdout, relative.stderr


def test_a_launcher_of_slurm_works_through_a_link(call, tmp_path):
    link = tmp_path / 'elsewhere' / 'slurm_train.sh'
    link.parent.mkdir()
    link.symlink_to(TOOLS / 'slurm_train.sh')
    assert f'{TOOLS}/train.py config.py' in call(link, 'gpus', 'name', 'config.py').stdout


def test_torchs_warnings_about_signals_are_left_out(monkeypatch):
    logger = logging.getLogger('torch.distributed.elastic.agent.server.api')
    monkeypatch.setattr(launch, 'run', lambda arguments: levels.append(logger.getEffectiveLevel()))
    before, levels = logger.level, []
    assert launch.main(['train.py']) == 0
    logger.setLevel(before)
    assert levels == [logging.ERROR]
