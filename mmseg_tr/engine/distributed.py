"""One process per device: read the launchers' variables, and make process groups where mmengine does not."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from mmseg_tr.errors import ConfigError, DeviceError

# command of each launcher, and its variables for rank, number of processes, and both on this machine
LAUNCHERS = {
    'pytorch': (
        'tools/dist_train.sh or tools/dist_test.sh',
        ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'),
    ),
    'slurm': (
        'tools/slurm_train.sh or tools/slurm_test.sh',
        ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID', 'SLURM_TASKS_PER_NODE'),
    ),
    'mpi': (
        'mpirun',
        tuple(f'OMPI_COMM_WORLD_{name}' for name in ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE')),
    ),
}

PR_SET_PDEATHSIG = 1  # of Linux: a signal on the death of the parent

# Keeps every gloo group alive, so that none is ever destroyed: see `end_process`.
_gloo_groups: list[dist.ProcessGroup] = []


@dataclass(frozen=True)
class Place:
    """Rank and number of processes, globally and on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def read_place(launcher: str) -> Place:
    """Read the place from the environment of `launcher` ('pytorch', 'slurm' or 'mpi').

    Raises ConfigError when the processes were not started by it.
    """
    if launcher not in LAUNCHERS:
        raise ConfigError(
            f'launcher must be none, {" or ".join(LAUNCHERS)}, got {launcher!r}.', parameters=['launcher']
        )
    how, names = LAUNCHERS[launcher]
    for name in names[:3]:
        if name not in os.environ:
            raise ConfigError(
                f'launcher {launcher} needs processes started with {how}: {name} is not set.', parameters=['launcher']
            )
    rank, world_size, local_rank = (int(os.environ[name]) for name in names[:3])
    # Slurm writes 4(x2),1 for two nodes of four tasks and one of one; without a number, at least the known ones
    counts = [int(count) for count in re.findall(r'(?<!x)\d+', os.environ.get(names[3], ''))]
    return Place(rank, world_size, local_rank, max(counts, default=local_rank + 1))


def check_devices(place: Place) -> None:
    """Raise DeviceError when this machine runs more processes than it has GPUs. Without any GPU the CPU is used."""
    present = torch.cuda.device_count()
    if 0 < present < place.local_size:
        raise DeviceError(
            f'{place.local_size} processes were started here for {present} GPU{"s" if present > 1 else ""}: start at '
            f'most {present}, or set CUDA_VISIBLE_DEVICES="" to run on the CPU'
        )


@contextmanager
def process_group(launcher: str) -> Iterator[None]:
    """Join the processes that `launcher` started, and leave them when the work is done.

    mmengine makes the group itself where there are GPUs; on a CPU it would ask for CUDA, so a gloo group is made first.
    Raises ConfigError and DeviceError as `read_place` and `check_devices` do.
    """
    if launcher == 'none':
        yield
        return
    place = read_place(launcher)
    check_devices(place)
    if launcher == 'pytorch':
        _end_with(os.getppid())
    if not torch.cuda.is_available():
        _export(launcher, place)
        dist.init_process_group('gloo')
        _gloo_groups.append(dist.group.WORLD)
    yield
    # Not when the work failed: other processes may still wait in a collective, and the launcher ends them.
    if dist.is_initialized():
        dist.destroy_process_group()


def _end_with(launcher: int) -> None:
    """Kill this process when the launcher is gone: one killed by kill -9 leaves its processes running."""
    if sys.platform == 'linux':  # by the kernel, which ends a stopped process too
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)  # the main thread may wait in a collective forever

    threading.Thread(target=watch, daemon=True).start()


def end_process(status: int) -> None:
    """Run the exit handlers and end a process that has joined a gloo group; otherwise return.

    Flush and leave with os._exit: finalizing the interpreter while a gloo thread still holds a tensor can abort, and
    destroying the group meanwhile can block (torch 2.13).
    """
    if not _gloo_groups:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _export(launcher: str, place: Place) -> None:
    """Set torchrun's variables, which torch reads; Slurm and MPI use their own."""
    os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.world_size), LOCAL_RANK=str(place.local_rank))
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' in os.environ:
        return
    address = '127.0.0.1'
    nodes = os.environ.get('SLURM_NODELIST')
    if launcher == 'slurm' and nodes:
        found = subprocess.run(['scontrol', 'show', 'hostname', nodes], capture_output=True, text=True, check=False)
        address = (found.stdout.split() or [address])[0]
    os.environ['MASTER_ADDR'] = address
