"""Tools that are cut short: a full disk, SIGKILL and Ctrl-C at many steps of writing. What has its final name is whole.

python -m tests.cut_short [TOOL,... [SECONDS]] prints a line for every fault and the counts. Every trial is a fork
of one process that has everything imported; it writes into a new folder, or over the results of an earlier run.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmengine.config.config
import numpy as np
import torch
from PIL import Image

from mmseg_tr.checkpoints import folder as folders
from mmseg_tr.errors import WriteError
from mmseg_tr.visualization.video import VideoWriter
from mmseg_tr.weights.io import read_file
from tests.hostile import Room, quiet, room
from tests.tools.command import call
from tests.tools.interrupted import Steps

FRAMES = 4
FEW = ('--images', 2, '--batch-size', 1, '--repeats', 1, '--device', 'cpu')
ALGM = ('--reduction', 'type=ALGM,layers=(1,2),threshold=0.9')
TOOLS: dict[str, tuple[tuple, tuple]] = {  # arguments, and what is added to write over earlier results
    'train': (
        ('{config}', '--work-dir', '{out}', '--cfg-options', 'train_cfg.max_iters=4', 'train_cfg.val_interval=2'),
        ('train_cfg.max_iters=6', '--resume'),
    ),
    'test': (
        (*('{config}', '{file}', '--work-dir', '{out}', '--out', '{out}/o', '--show-dir', '{out}/s'),),
        ('--scores', '{out}/scores_ss.yml'),
    ),
    'infer': (
        ('{config}', '{file}', '{data}', '-o', '{out}', '--device', 'cpu', '--label-frames'),
        ('--force',),
    ),
    'infer to avi': (
        ('{config}', '{file}', '{video}', '-o', '{out}', '--device', 'cpu', '--video-format', 'avi'),
        ('--force',),
    ),
    'show_merging': (
        ('{config}', '{file}', '{data}', '{out}', *ALGM, '--animate', 'mp4', '--device', 'cpu'),
        ('--force',),
    ),
    'show_attention': (('{config}', '{file}', '{image}', '{out}'), ('--force',)),
    'report': (
        ('{config}', '--checkpoint', '{file}', '--out', '{out}/a.html', '--scenes', 1, *ALGM, '--device', 'cpu'),
        ('--force',),
    ),
    'compare': (
        ('{config}', '--methods', 'algm', '--checkpoint', '{file}', '--out', '{out}', *FEW),
        ('--force',),
    ),
    'tune': (
        (
            *(
                '{config}',
                '{file}',
                '--speed-up',
                1.01,
                '--by',
                'work',
                '--frac-dataset',
                1.0,
                '--out',
                '{out}/t{n}.py',
            ),
            *('--work-dir', '{out}', *ALGM, *FEW),
        ),
        (),
    ),
    'export to onnx': (('{config}', '{file}', '{out}/a.onnx'), ('--force',)),
    'export to pt2': (('{config}', '{file}', '{out}/a.pt2'), ('--force',)),
    'convert_checkpoint': (('{file}', '{out}/new.pth'), ('--force',)),
    'convert_checkpoint to mmseg': (('{file}', '{out}/new.pth', '--to', 'mmseg'), ('--force',)),
    'convert_checkpoint to safetensors': (('{file}', '{out}/new.safetensors'), ('--force',)),
    'plot_logs': (('{logs}', '-o', '{out}/p.png'), ('--force',)),
    'get_fps_flops': (
        ('{config}', *ALGM, '--batch-size', 1, '--repeats', 1, '--device', 'cpu', '--json', '{out}/a.json'),
        ('--force',),
    ),
    'new_config': (
        ('--images', '{data}/images', '--labels', '{data}/labels', '--classes', 'a', 'b', 'c', '--out', '{out}/c.py'),
        ('--force',),
    ),
    'check_dataset': (('{config}', '--out', '{out}/drawn{n}', '--json', '{out}/a{n}.json'), ()),
    'save_pretrained': (('{file}', '{out}/model'), ('force',)),
}


@dataclass(frozen=True)
class Fault:
    """kind: disk (in bytes), size (of a file), kill or interrupt (at a step), time (seconds until a kill)."""

    kind: str
    at: float

    def prepare(self) -> Steps:
        """Set the fault in this process; returns what counts the steps."""
        if self.kind == 'size':
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(self.at), resource.RLIM_INFINITY))
        number = {'kill': signal.SIGKILL, 'interrupt': signal.SIGINT}.get(self.kind)
        return Steps(None if number is None else int(self.at), number)

    @property
    def allowed(self) -> tuple[int, ...]:
        return {'disk': (0, 1, 2), 'size': (0, 1, 2), 'interrupt': (0, 1, 130)}.get(self.kind, (0, 1, -9))


@dataclass(frozen=True)
class Case:
    """A tool in a room. over: onto the results of an earlier run."""

    here: Room
    tool: str
    over: bool

    def arguments(self, out: Path) -> list[str]:
        data = self.here.folder / 'data'
        logs = next((self.here.folder / 'first').rglob('scalars.json'))
        places = dict(config=self.here.config, file=self.here.checkpoint, data=data, image=data / 'images' / '00.png')
        places |= dict(video=data / 'moving.mp4', out=out, logs=logs, n=int(self.over))
        usual, more = TOOLS[self.tool]
        return [str(argument).format(**places) for argument in (*usual, *(more if self.over else ()))]

    def run(self, out: Path) -> int:
        name, arguments = self.tool.partition(' ')[0], self.arguments(out)
        sys.argv[0] = f'{name}.py'
        if name != 'save_pretrained':
            return call(name, *arguments)
        try:
            folders.save_pretrained(*arguments[:2], force='force' in arguments)
        except (WriteError, KeyboardInterrupt) as error:
            print(f'{name}.py: {error}', file=sys.stderr)
            return 2 if isinstance(error, WriteError) else 130
        return 0

    def forked(self, out: Path, fault: Fault | None = None) -> tuple[int, str, int]:
        """Run in a fork under a fault; returns exit status, what was said, and steps of writing where it ended."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                atexit._clear()
                os.dup2(writing, 2)
                sys.stdout, sys.stderr = open(os.devnull, 'w'), open(2, 'w', buffering=1)  # noqa: SIM115
                steps = fault.prepare() if fault else Steps()
                steps.watch()
                os.link = steps.before(os.link)
                status = self.run(out)
                for thread in threading.enumerate():  # as an interpreter that ends
                    if not (thread.daemon or thread is threading.current_thread()):
                        thread.join()
                os.write(writing, f'\n{steps.done} steps'.encode())
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        os.close(writing)
        if fault and fault.kind == 'time':
            time.sleep(fault.at)
            os.kill(child, signal.SIGKILL)
        with open(reading, 'rb') as pipe:
            said, _, steps = re.fullmatch(r'(.*?)(\n(\d+) steps)?', pipe.read().decode(errors='replace'), re.S).groups()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said, int(steps or 0)


def whole(path: Path, usual: dict[str, int]) -> bool:
    """Whether a file can be read to its end. usual: lines of the texts that an undisturbed run writes."""
    readers: dict[str, Callable[[], Any]] = {
        '.png': lambda: Image.open(path).load(),
        '.json': lambda: json.loads(path.read_text()),
        '.pth': lambda: read_file(path),
        '.safetensors': lambda: read_file(path),
        '.onnx': lambda: __import__('onnx').checker.check_model(str(path), full_check=True),
        '.pt2': lambda: torch.export.load(path),
        '.mp4': lambda: _frames(path),
        '.avi': lambda: _frames(path),
        '.html': lambda: path.read_text().rstrip().index('</html>'),
        '.py': lambda: compile(path.read_text(), str(path), 'exec'),
    }
    try:
        readers.get(path.suffix, path.read_text)()
    except Exception:  # whatever a library raises for half a file
        return False
    texts = path.suffix in ('.py', '.md', '.yml', '.svg', '.txt', '')
    return not texts or len(path.read_text().splitlines()) in (usual.get(path.name), usual.get(f'over {path.name}'))


def _frames(path: Path) -> None:
    video, count = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        count += 1
    if count < 2:  # show_merging draws a frame a layer
        raise ValueError(count)


def lines_of(out: Path, mark: str = '') -> dict[str, int]:
    texts = [path for path in out.rglob('*') if path.suffix in ('.py', '.md', '.yml', '.svg', '.txt', '')]
    return {mark + path.name: len(path.read_text().splitlines()) for path in texts if path.is_file()}


def kept(out: Path) -> list[Path]:
    """Files under their final names, without logs, which grow line by line."""
    files = [path for path in out.rglob('*') if path.is_file() and not path.name.startswith('.')]
    return [p for p in files if p.suffix != '.log' and not (p.parent.name == 'vis_data' and p.suffix == '.json')]


def faults_of(out: Path, before: list[Path], usual: dict[str, int], killed: bool) -> Iterator[str]:
    """What is wrong in a folder after a fault. before: files that were there."""
    for path in before:
        if not path.exists() and not path.name.startswith(('iter_', 'best_')):  # a training removes its older ones
            yield f'LOST {path.name}'
    yield from (f'BROKEN {path.relative_to(out)}' for path in kept(out) if not whole(path, usual))
    left = [path.name for path in out.rglob('.*') if 'unfinished' in path.name]
    if left and not killed:
        yield f'LEFT {left[0]}'
    if (out / 'mine.txt').read_text() != 'mine':
        yield 'CHANGED mine.txt'


def told(status: int, said: str, allowed: tuple[int, ...]) -> Iterator[str]:
    """What is wrong with how a tool ended."""
    # without warnings, and the line of code that each shows
    lines = [line for line in said.splitlines() if line.strip() and line[0] != ' ' and 'arn' not in line]
    if 'Traceback' in said or status not in allowed:
        yield f'ENDED {status}: {" / ".join(lines[-3:])[-300:]}'
    elif status > 0 and len(lines) != 1:
        yield f'SAID {len(lines)} lines: {" / ".join(lines)[-300:]}'


def faults(steps: int, seconds: float, files: list[Path], count: int) -> list[Fault]:
    """Faults spread over a run of so many steps and seconds that writes these files; `count` of each kind."""
    sizes = [path.stat().st_size for path in files]
    shares = [number / max(count - 1, 1) for number in range(count)]
    found = [Fault('size', share * 0.98 * max(sizes)) for share in shares]
    found += [Fault('disk', 4096 + share * 0.95 * sum(sizes)) for share in shares if disks_can_be_made()]
    for kind in ('kill', 'interrupt'):
        found += [Fault(kind, at) for at in dict.fromkeys(1 + int(share * (steps - 1)) for share in shares)]
    return found + [Fault('time', seconds * random.Random(number).uniform(0.2, 1)) for number in range(count // 2)]


def disks_can_be_made() -> bool:
    return os.name == 'posix' and os.geteuid() == 0 and shutil.which('mount') is not None


def trial(case: Case, fault: Fault, earlier: Path, usual: dict[str, int]) -> list[str]:
    """Run a tool under a fault; returns what is wrong afterwards."""
    out = Path(tempfile.mkdtemp(dir=case.here.folder))
    if fault.kind == 'disk':
        there = sum(path.stat().st_size // 4096 + 1 for path in earlier.rglob('*')) * 4096 if case.over else 0
        size = there + 4096 + int(fault.at)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(out)], check=True)
    try:
        if case.over:
            shutil.copytree(earlier, out, dirs_exist_ok=True)
        (out / 'mine.txt').write_text('mine')
        before = kept(out)
        status, said, _ = case.forked(out, fault)
        killed = fault.kind in ('kill', 'time')
        return [*told(status, said, fault.allowed), *faults_of(out, before, usual, killed)]
    finally:
        if fault.kind == 'disk':
            subprocess.run(['umount', str(out)], check=True)
        shutil.rmtree(out, ignore_errors=True)


def sweep(here: Room, tools: list[str], count: int, every: int = 1) -> Iterator[tuple[str, Fault, list[str]]]:
    """One in `every` trials of the tools: tool, fault, and what was wrong."""
    for tool in tools:
        earlier = here.folder / f'earlier_{tool}'.replace(' ', '_')
        usual: dict[str, int] = {'mine.txt': 1}
        for over in (False, True):
            case, out = Case(here, tool, over), here.folder / f'out_{over}_{tool}'.replace(' ', '_')
            shutil.copytree(earlier, out) if over else out.mkdir()
            start = time.perf_counter()
            status, said, steps = case.forked(out)
            seconds = time.perf_counter() - start
            assert status in (0, 1) and 'Traceback' not in said and kept(out), (tool, over, status, said[-2000:])
            usual |= lines_of(out, 'over ' if over else '')
            if not over:
                shutil.copytree(out, earlier)
            for fault in faults(steps, seconds, kept(out), count)[over % every :: every]:
                yield f'{tool}{" over earlier results" * over}', fault, trial(case, fault, earlier, usual)


def add_video(here: Room) -> None:
    """Put a video beside the pictures."""
    with VideoWriter(here.folder / 'data' / 'moving.mp4', fps=5) as writer:
        for number in range(FRAMES):
            writer.add(np.full((32, 48, 3), 60 * number, np.uint8))


def main(part: str = '', seconds: str = 'inf', count: str = '4') -> int:
    """Sweep the tools of a name for at most so many seconds; returns the number of faults."""
    torch.set_num_threads(1)
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, room(Path(folder)) as here:
        add_video(here)
        with quiet():
            Case(here, 'infer', False).run(here.folder / 'warm')
        last = ''
        for name, fault, wrong in sweep(
            here, [tool for tool in TOOLS if any(p in tool for p in part.split(','))], int(count)
        ):
            if name != last:
                last = name
                print(f'{time.perf_counter() - start:.0f} s, {counts.total()} trials: {name}', flush=True)
            counts[f'{fault.kind}, {"faults" if wrong else "whole"}'] += 1
            if wrong:
                print(f'{name}, {fault.kind} {fault.at:.6g} -> {"; ".join(wrong)}', flush=True)
            if time.perf_counter() - start > float(seconds):
                break
    print(f'{counts.total()} trials: {dict(sorted(counts.items()))}, {time.perf_counter() - start:.0f} s')
    return sum(number for key, number in counts.items() if key.endswith('faults'))


if __name__ == '__main__':
    sys.exit(min(main(*sys.argv[1:]), 1))
