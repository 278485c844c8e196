"""A program that trains over and over, killed or interrupted at another moment each time, and resumes to the end.

It runs in a process of its own, trains once to have everything imported, and forks a process for each training. A
moment is the n-th step of writing, renaming or removing a file in the folder of checkpoints, a half-written file
included, or a time. Prints one line of JSON a training: what was there after the kill, and after the resumed training.

python -m tests.tools.interrupted FOLDER 20 kills 20 trainings and says how many ended bit-equal to the unkilled one.
"""

import json
import os
import random
import signal
import sys
import time
from contextlib import redirect_stdout
from hashlib import sha256
from pathlib import Path

import mmengine.config
import torch

from mmseg_tr import files as atomic
from tests.tiny import write_config, write_dataset
from tests.tools.command import call

MORE = """
model['backbone'].update(drop_rate=0.2, drop_path_rate=0.2)
default_hooks['checkpoint'].update(interval=1, max_keep_ckpts=1, save_best='mIoU')
train_cfg.update(max_iters=3, val_interval=1)
param_scheduler[0].update(end=3)
"""


class Steps:
    """Counts the steps of file operations and sends this process a signal, by default SIGKILL, at one of them."""

    def __init__(self, fatal=None, number=signal.SIGKILL):
        self.done, self.fatal, self.number = 0, fatal, number

    def take(self):
        self.done += 1
        if self.done == self.fatal:
            os.kill(os.getpid(), self.number)

    def before(self, function):
        def counted(*args, **kwargs):
            self.take()
            return function(*args, **kwargs)

        return counted

    def halved(self, write):
        """A write that pauses half-way."""

        def paused(file, data):
            half = len(data) // 2
            done = write(file, data[:half])
            self.take()
            return done + write(file, data[half:]) if done == half else done

        return paused

    def watch(self):
        atomic._Steady.write = self.halved(atomic._Steady.write)
        for name in ('fsync', 'replace', 'remove'):
            setattr(os, name, self.before(getattr(os, name)))


def forked(work, fatal=None, after=None):
    """Train in `work`, resuming where there is something to resume from; returns how the process ended."""
    child = os.fork()
    if child == 0:
        log = os.open(work.with_suffix('.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        steps = Steps(fatal)
        steps.watch()
        resume = ['--resume'] if list(work.glob('iter_*.pth')) else []
        status = call('train', work.parent / 'tiny.py', '--work-dir', work, *resume)
        work.with_suffix('.steps').write_text(str(steps.done))
        os._exit(status)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def signalled(work, number, times):
    """Train with a worker process, send a signal to the whole group `times` times; returns what came of it."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(work.with_suffix('.err'), os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ['tools/train.py', 'tiny.py', '--work-dir', str(work)]
        long = ['train_cfg.max_iters=100000', 'train_cfg.val_interval=100000', 'train_dataloader.num_workers=1']
        os._exit(call('train', work.parent / 'tiny.py', '--work-dir', work, '--cfg-options', *long))
    # Any later one will do: a busy machine may look again only after many were written and removed.
    while not any(int(path.stem[5:]) >= 2 for path in work.glob('iter_*.pth')):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise RuntimeError(f'the training ended by itself: {work.with_suffix(".err").read_text()[-2000:]}')
        time.sleep(0.05)
    for _ in range(times):
        os.killpg(child, number)
        time.sleep(0.05)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for _ in range(100):  # a worker process ends within a few seconds of its parent
        try:
            os.killpg(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(child, signal.SIGKILL)
        ended = 'processes were left'
    said = [line for line in work.with_suffix('.err').read_text().splitlines() if line and 'arn' not in line]
    return {
        'signal': number,
        'times': times,
        'ended': ended,
        'said': said,
        'left': sorted(map(str, work.glob('*.pth'))),
    }


def state(work):
    """What is in a work dir: names, the last checkpoint's iteration and a hash of its weights. All files must load."""
    content = {path.name: torch.load(path, weights_only=True) for path in sorted(work.glob('[!.]*.pth'))}
    record = work / 'last_checkpoint'
    found = {'names': list(content), 'iter': 0}
    if record.is_file():
        last = content[Path(record.read_text()).name]
        best = last['message_hub']['runtime_info'].get('best_ckpt')
        momenta = [value for group in last['optimizer']['state'].values() for value in group.values()]
        tensors = [*last['state_dict'].values(), *(value for value in momenta if isinstance(value, torch.Tensor))]
        weights = b''.join(tensor.numpy().tobytes() for tensor in tensors)
        found.update(
            iter=last['meta']['iter'],
            weights=sha256(weights).hexdigest(),
            best_is_there=best is None or Path(best).name in content,
        )
    return found


def main(folder, kills=None):
    """kills: how many trainings to kill; by default fewer, and trainings that are ended by signals."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without it
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)  # the layout of a text, half of the time
    folder = Path(folder)
    write_dataset(folder / 'data', count=2)
    write_config(folder, folder / 'data', MORE)
    with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere):
        call('train', folder / 'tiny.py', '--work-dir', folder / 'first')
    whole = folder / 'whole'
    start = time.perf_counter()
    ended = forked(whole)
    seconds = time.perf_counter() - start
    steps = int(whole.with_suffix('.steps').read_text())
    undisturbed = state(whole)
    print(json.dumps({'moment': 'never', 'ended': ended, 'steps': steps, 'end': undisturbed}))
    chance = random.Random(0)
    at_steps = 11 if kills is None else kills - 3
    moments = [{'fatal': 3 + (steps - 3) * place // max(at_steps - 1, 1)} for place in range(at_steps)]
    moments += [{'after': seconds * chance.uniform(0.3, 1.0)} for _ in range(3)]
    equal = 0
    for number, moment in enumerate(moments):
        work = folder / f'killed{number}'
        ended = forked(work, **moment)
        left, resumed = state(work) if work.exists() else None, forked(work)
        end = state(work)
        equal += resumed == 0 and end['weights'] == undisturbed['weights']
        print(json.dumps({'moment': moment, 'ended': ended, 'left': left, 'resumed': resumed, 'end': end}), flush=True)
    if kills is not None:
        print(f'{equal} of {len(moments)} killed trainings are bit-equal')
        return
    for number, times in ((signal.SIGINT, 1), (signal.SIGINT, 3), (signal.SIGTERM, 1)):
        print(json.dumps(signalled(folder / f'signalled{number}_{times}', number, times)))


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:]))
