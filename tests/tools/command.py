"""Calling a tool of tools/ in this process: what a user types, without the seconds that an import takes."""

import atexit
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def call(name: str, *arguments: object) -> int:
    """Run tools/`name`.py with `arguments`; returns its exit status."""
    from mmseg_tr.cli.options import run_tool

    spec = importlib.util.spec_from_file_location(f'tool_{name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    try:
        resume = getattr(module, 'resume_command', None)
        return run_tool(module.main, [str(argument) for argument in arguments], resume)
    except SystemExit as stop:  # argparse
        return stop.code


def mistake(capsys, name: str, *arguments: object) -> str:
    """Run a tool that has to refuse its input; returns the one sentence that it says."""
    capsys.readouterr()
    status = call(name, *arguments)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.strip() and 'Warning' not in line and 'warn' not in line]
    assert status == 2, said
    assert len(lines) == 1, said
    assert 'Traceback' not in said
    return lines[0].partition(': ')[2]


def launch(folder: Path, script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a shell script of tools/ in `folder`, whose modules its processes find, on the CPU."""
    env = {**os.environ, 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    env['PYTHONPATH'] = str(folder)
    return subprocess.run(
        ['bash', str(TOOLS / script), *map(str, arguments)], cwd=folder, env=env, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def launch_forked(count: int, log: Path, name: str, *arguments: object) -> list[int]:
    """Run a tool in `count` forks of this process, joined on the CPU as torchrun joins them; returns their statuses.

    As launch(), without the seconds that each new process needs to import.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        shared = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE=str(count))
    places = [shared | dict(RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count)) for rank in range(count)]

    def run(place: dict[str, str]) -> int:
        atexit._clear()
        os.environ.update(place)
        use_cpu()
        return call(name, *arguments, '--launcher', 'pytorch')

    children = [fork(log, lambda place=place: run(place)) for place in places]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def fork(said: Path, work: Callable[[], int], seconds: int = 300) -> int:
    """Run `work` in a fork of this process, which ends with the status that it returns; returns the fork's id.

    said: the file to which it adds what it prints. seconds: ends a process that waits in vain.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(seconds)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(file, number)
        # by number: forks of this one may put files of their own in their place
        sys.stdout, sys.stderr = (open(number, 'w', buffering=1) for number in (1, 2))  # noqa: SIM115
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def use_cpu() -> None:
    """Hide every GPU from this process."""
    import mmengine.device.utils
    import torch

    mmengine.device.utils.DEVICE = 'cpu'
    torch.cuda.is_available, torch.cuda.device_count = lambda: False, lambda: 0
