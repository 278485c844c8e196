"""One forward, or training step, under torch's profiler: how its time divides, and the most memory it held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mmseg_tr.analysis.speed import without_usdt_lines

WHOLE = 'mmseg_tr::whole'


@dataclass(frozen=True)
class Profile:
    """shares: of the time, by name of the scope. peak: bytes that torch held at most beyond those held before."""

    shares: dict[str, float]
    peak: int


def profile_once(run: Callable[[], Any], device: torch.device, scopes: Mapping[str, str]) -> Profile:
    """Profile one call of run(). scopes: profiler scopes and what to call them.

    On a CPU the time between entering and leaving a scope and the profiler's record of every allocation, on CUDA the
    time of the kernels launched inside it and the allocator's own peak.
    """
    cuda = device.type == 'cuda'
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with without_usdt_lines(), profile(activities=activities, profile_memory=not cuda) as profiler:
        with record_function(WHOLE):
            run()
        if cuda:
            torch.cuda.synchronize(device)
    attribute = 'device_time_total' if cuda else 'cpu_time_total'
    spent = {event.key: getattr(event, attribute) for event in profiler.key_averages() if event.count}
    whole = spent.get(WHOLE) or 1.0
    shares = {name: spent.get(scope, 0.0) / whole for scope, name in scopes.items()}
    peak = torch.cuda.max_memory_allocated(device) - before if cuda else _peak_of_allocations(profiler)
    return Profile(shares, peak)


def _peak_of_allocations(profiler: profile) -> int:
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == '[memory]')
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most
