"""Ctrl-C, SIGTERM and SIGHUP to real processes at drawn moments, once or twice: one line, no process left.

python -m tests.interrupts [TRIALS [TOOL]] prints a line for every fault and the counts.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from mmseg_tr.weights.io import read_file
from tests.hostile import quiet, room
from tests.tools.command import TOOLS

LONG = ('--cfg-options', 'train_cfg.max_iters=100000', 'train_cfg.val_interval=5', 'train_dataloader.num_workers=2')
COMMANDS = {  # a command and the seconds until it may work
    'train': ([sys.executable, 'train.py', '{config}', '--work-dir', '{out}', *LONG], 20),
    'dist_train': (['bash', 'dist_train.sh', '{config}', '2', '--work-dir', '{out}', *LONG], 40),
    'test': ([sys.executable, 'test.py', '{config}', '{file}', '--work-dir', '{out}', '--out', '{out}/o'], 15),
    'export': ([sys.executable, 'export.py', '{config}', '{file}', '{out}/a.onnx'], 25),
    'infer': ([sys.executable, 'infer.py', '{config}', '{file}', '{data}', '-o', '{out}', '--device', 'cpu'], 12),
    'compare': ([sys.executable, 'compare.py', '{config}', '--methods', 'algm', '--checkpoint', '{file}', '--out',
                 '{out}', '--images', '2', '--batch-size', '1', '--device', 'cpu'], 20),
}  # fmt: skip


def group_lives(group: int) -> bool:
    """Whether a process of a group is left that has not ended; zombies have."""
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            state, _, of = stat.read_text().rpartition(') ')[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != 'Z':
            return True
    return False


def trial(
    command: list[str], out: Path, after: float, number: signal.Signals, times: int, trained: bool
) -> tuple[str, list[str]]:
    """Run a command, send a signal to all its processes; returns how it ended, and what is wrong.

    after: seconds, from the start or, where `trained`, from the first checkpoint on.
    """
    env = {**os.environ, 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    out.mkdir()
    with (out / 'said').open('w') as said:
        process = subprocess.Popen(
            command, cwd=TOOLS, env=env, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        while trained and process.poll() is None and not any(out.glob('*.pth')):
            time.sleep(0.1)
        time.sleep(after)
        for _ in range(times):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return 'hangs', ['it does not end']
    wrong, end = [], time.monotonic() + 10
    while group_lives(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    if group_lives(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
        wrong.append('processes were left')
    text = (out / 'said').read_text()
    lines = [line for line in text.splitlines() if line.strip() and 'arn' not in line]
    if 'Traceback' in text:
        wrong.append(f'TRACEBACK {lines[-1][:200]}')
    elif status == 128 + number and len(lines) != 1:
        wrong.append(f'{len(lines)} lines: {" / ".join(lines)[:300]}')
    for path in out.rglob('[!.]*.pth'):
        read_file(path)
    ended = {0: 'finished', 128 + number: 'interrupted', -number: 'before Python took over'}.get(status, str(status))
    return ended, wrong if ended != str(status) else [*wrong, f'status {status}: {" / ".join(lines)[-300:]}']


def main(trials: str = '30', tool: str = '') -> int:
    """Returns the number of faults."""
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, quiet(), room(Path(folder)) as here:
        places = dict(config=here.config, file=here.checkpoint, data=here.folder / 'data' / 'images')
        names = [name for name in COMMANDS if tool in name]
        for turn in range(int(trials)):
            chance = random.Random(turn)
            name = names[turn % len(names)]
            command, seconds = COMMANDS[name]
            out = here.folder / f'out{turn}'
            number = chance.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            after, times = chance.uniform(0.3, 1) * seconds, chance.choice([1, 1, 2, 3])
            trained = name.endswith('train') and chance.random() < 0.6
            if trained:
                after = chance.uniform(0, 3)
            filled = [part.format(out=out, **places) for part in command]
            ended, wrong = trial(filled, out, after, number, times, trained)
            counts[f'{name}: {"fault" if wrong else ended}'] += 1
            if wrong:
                moment = f'{after:.1f} s after the {"first checkpoint" if trained else "start"}'
                print(f'{turn} {name}, {number.name} {times}x {moment} -> {"; ".join(wrong)}', file=sys.__stdout__,
                      flush=True)  # fmt: skip
    print(f'{counts.total()} trials: {dict(sorted(counts.items()))}')
    return sum(count for name, count in counts.items() if name.endswith('fault'))


if __name__ == '__main__':
    sys.exit(min(main(*sys.argv[1:]), 1))
