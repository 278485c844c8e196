"""Calling a tool of tools/ in this process: what a user types, without the seconds that an import takes."""

import importlib.util
import os
import subprocess
import sys
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
