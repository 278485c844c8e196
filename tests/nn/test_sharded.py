"""FSDP2 over two processes: each method's gradients are those of one process that sees the whole batch."""

from __future__ import annotations

import copy
import os
import signal
import traceback

import torch
import torch.distributed as dist
from torch.distributed import fsdp

from tests.nn.test_wrappers import blocks_of, needs_fsdp2, network
from tests.reduction.methods import pictures

# one of each kind: fewer tokens by merging, by dropping, inside attention, by clustering, by a network; and MiT's
KINDS = ['ALGM', 'EViT', 'ACT', 'Expedite', 'CTS', 'MiT-bsm']


def check(rank: int, name: str, mesh: dist.DeviceMesh) -> None:
    """Compare the gradients of a rank's half with those of both halves, each through a network of its own."""
    model, images = network(name).train(), pictures(4, (8, 8))
    sharded, halves = copy.deepcopy(model), images.chunk(2)
    for block in blocks_of(sharded):
        fsdp.fully_shard(block, mesh=mesh)
    fsdp.fully_shard(sharded, mesh=mesh)
    for half in halves:
        (model(half)[-1].square().mean() / 2).backward()
    sharded(halves[rank])[-1].square().mean().backward()
    for (key, ours), (_, theirs) in zip(model.named_parameters(), sharded.named_parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(theirs.grad.full_tensor(), ours.grad, rtol=1e-4, atol=1e-7, msg=f'{name}: {key}')


def forked(rank: int, store: str, log: str) -> int:
    """A process of the group; returns its id. What it raises is written to `log`."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(120)
        dist.init_process_group('gloo', rank=rank, world_size=2, store=dist.FileStore(store, 2))
        mesh = dist.device_mesh.init_device_mesh('cpu', (2,))
        for name in KINDS:
            check(rank, name, mesh)
        status = 0
    except BaseException:
        with open(log, 'a') as file:
            file.write(traceback.format_exc())
    finally:
        os._exit(status)


@needs_fsdp2
def test_two_processes_train_as_one_under_every_kind_of_method(tmp_path):
    log = tmp_path / 'log'
    children = [forked(rank, str(tmp_path / 'store'), str(log)) for rank in range(2)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert statuses == [0, 0], log.read_text() if log.exists() else 'no message'
