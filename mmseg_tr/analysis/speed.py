"""Time several networks on the same images, in turn, so that other load on the machine affects all alike."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile, record_function

from mmseg_tr.analysis.network import network_of, reduction_of
from mmseg_tr.errors import DeviceError, first_line


@dataclass(frozen=True)
class Contestant:
    """A network to be timed.

    scores, labels: its two steps (analysis.network). math_attention: run attention as published, as products
    whose scores are kept in memory, instead of on a fused kernel. compiled: whether `scores` is compiled.
    """

    scores: Callable[[Tensor], Any]
    labels: Callable[[Any, Tensor], Any]
    math_attention: bool = False
    compiled: bool = False

    @classmethod
    def of(cls, model: nn.Module, *, compiled: bool = False, math_attention: bool = False) -> Contestant:
        """compiled: under torch.compile, as one graph where the method has fixed shapes; on CUDA in max-autotune mode,
        with CUDA graphs where the shapes are fixed.
        """
        network = network_of(model)
        scores = compile_scores(model, network.scores) if compiled else network.scores
        return cls(scores, network.labels, math_attention, compiled)

    def attention(self) -> Any:
        return sdpa_kernel(SDPBackend.MATH) if self.math_attention else nullcontext()


def compile_scores(model: nn.Module, scores: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """torch.compile(scores). A network without a method may be of any library, and break its graph."""

    def run(image: Tensor) -> Any:
        return scores(image)

    # Graphs are kept per code object: one of its own keeps every network's apart, and their number low.
    run.__code__ = run.__code__.replace(co_name=f'scores_of_{type(model).__name__}')
    reduction = reduction_of(model)
    adaptive = reduction is not None and reduction.adaptive
    options: dict[str, Any] = dict(fullgraph=reduction is not None and not adaptive)
    if next(model.parameters()).device.type == 'cuda':
        options['mode'] = 'max-autotune-no-cudagraphs' if adaptive else 'max-autotune'
    return torch.compile(run, **options, dynamic=None if adaptive else False)


def many_graphs() -> Any:
    """Keep more graphs per function than torch does: layers around a deciding step are shared by all networks."""
    return torch._dynamo.config.patch(cache_size_limit=64)  # beyond it, calls run eager without a word


def check_compiler(device: torch.device) -> None:
    """Compile and run one addition. Raises DeviceError, naming what is missing, where that is not possible."""
    try:
        torch.compile(lambda x: x + 1, fullgraph=True)(torch.zeros(2, device=device))
    except Exception as error:  # of a compiler that is missing or does not work; torch has many for it
        raise _not_compiled(error) from error


def _not_compiled(error: Exception) -> DeviceError:
    return DeviceError(f'the network cannot be compiled on this machine ({first_line(error)}): leave --compile out.')


@dataclass(frozen=True)
class Seconds:
    """Time of one image: scores from the normalised image to scores on the decoder's grid, labels on to the labels."""

    scores: float
    labels: float


def time_in_turn(
    contestants: Mapping[str, Contestant],
    batches: Sequence[Tensor],
    *,
    repeats: int = 10,
    seconds: float | None = None,
    least: int = 1,
    warm_up: int | None = None,
    amp: torch.dtype | None = None,
) -> dict[str, Seconds]:
    """Time every contestant on every batch, one directly after the other, in rounds.

    batches: (B, 3, H, W) each, on the device where the networks are. A round takes every batch through every
    contestant, in an order that is reversed every round. repeats: rounds; seconds: no round starts after
    this time, except the first `least` ones. warm_up: batches that run first, unmeasured; by default one on a CPU, all
    elsewhere.
    Returns the seconds per image: the median over rounds of each batch's time, averaged over batches.
    Raises DeviceError when a contestant cannot be compiled here or needs more memory than there is.
    """
    device = batches[0].device
    taken: dict[str, list[list[Seconds]]] = {name: [[] for _ in batches] for name in contestants}
    graphs = many_graphs() if any(one.compiled for one in contestants.values()) else nullcontext()
    with torch.inference_mode(), mixed_precision(device, amp), graphs:
        first = min(warm_up if warm_up is not None else 1 if device.type == 'cpu' else len(batches), len(batches))
        for batch in batches[:first]:
            for contestant in contestants.values():
                _run(contestant, batch)
        begun = time.perf_counter()
        for turn in range(max(repeats, 1)):
            if turn >= least and seconds is not None and time.perf_counter() - begun > seconds:
                break
            for number, batch in enumerate(batches):
                names = list(contestants)
                for name in names if (turn + number) % 2 == 0 else reversed(names):
                    taken[name][number].append(_run(contestants[name], batch))
    return {name: _per_image(rounds, len(batches[0])) for name, rounds in taken.items()}


def _per_image(rounds: list[list[Seconds]], images: int) -> Seconds:
    steps = ('scores', 'labels')
    medians = {step: [statistics.median(getattr(t, step) for t in batch) for batch in rounds] for step in steps}
    return Seconds(**{step: statistics.fmean(values) / images for step, values in medians.items()})


def _run(contestant: Contestant, batch: Tensor) -> Seconds:
    """Return the seconds of one batch, the device's own clock where it has one."""
    try:
        with contestant.attention():
            if batch.device.type == 'cuda':
                return _run_cuda(contestant, batch)
            start = time.perf_counter()
            scores = contestant.scores(batch)
            _synchronise(batch.device)
            middle = time.perf_counter()
            contestant.labels(scores, batch)
            _synchronise(batch.device)
            return Seconds(middle - start, time.perf_counter() - start)
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceError(
            f'{batch.device} has too little memory for a batch of {tuple(batch.shape)}: take a smaller one.'
        ) from error
    except torch._dynamo.exc.TorchDynamoException as error:
        raise _not_compiled(error) from error


def _run_cuda(contestant: Contestant, batch: Tensor) -> Seconds:
    """Events on the stream: the host runs ahead as it does in use, and nothing waits between the two steps."""
    start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
    with torch.cuda.device(batch.device):
        torch.cuda.synchronize()
        if contestant.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        start.record()
        scores = contestant.scores(batch)
        middle.record()
        contestant.labels(scores, batch)
        end.record()
        torch.cuda.synchronize()
    return Seconds(start.elapsed_time(middle) / 1e3, start.elapsed_time(end) / 1e3)


def _synchronise(device: torch.device) -> None:
    if device.type not in ('cpu', 'cuda'):
        getattr(torch, device.type).synchronize()


def mixed_precision(device: torch.device, dtype: torch.dtype | None) -> Any:
    """Autocast to dtype; None changes nothing."""
    return torch.autocast(device.type, dtype) if dtype is not None else nullcontext()


def peak_memory(contestant: Contestant, batch: Tensor, amp: torch.dtype | None = None) -> int | None:
    """Return the peak bytes of torch on the GPU during one forward to labels, weights included; None on a CPU."""
    if batch.device.type != 'cuda':
        return None
    torch.cuda.synchronize(batch.device)
    torch.cuda.reset_peak_memory_stats(batch.device)
    with torch.inference_mode(), mixed_precision(batch.device, amp):
        _run(contestant, batch)
    return torch.cuda.max_memory_allocated(batch.device)


@dataclass(frozen=True)
class Profile:
    """shares: of the time, by name of the scope. peak: bytes that torch held at most beyond those held before."""

    shares: dict[str, float]
    peak: int


WHOLE = 'mmseg_tr::whole'


def profile_once(
    run: Callable[[], Any], device: torch.device, scopes: Mapping[str, str], *, memory: bool = True
) -> Profile:
    """Profile one call of run(), a forward or a training step. scopes: profiler scopes and what to call them.

    On a CPU the time between entering and leaving a scope and the profiler's record of every allocation, on CUDA the
    time of the kernels launched inside it and the allocator's own peak. The profiler slows small operators down a
    little, so the shares of small networks are slightly too large.
    """
    cuda = device.type == 'cuda'
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    before = 0
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with without_usdt_lines(), profile(activities=activities, profile_memory=memory and not cuda) as profiler:
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


def scope_shares(
    contestant: Contestant, batches: Sequence[Tensor], scopes: Mapping[str, str], amp: torch.dtype | None = None
) -> dict[str, float]:
    """Share of the time of `scores` that is spent inside profiler scopes, by the name that `scopes` gives each."""

    def run(used: Sequence[Tensor]) -> None:
        for batch in used:
            with contestant.attention():
                contestant.scores(batch)

    device = batches[0].device
    with torch.inference_mode(), mixed_precision(device, amp):
        profile_once(
            lambda: run(batches[:1]), device, scopes, memory=False
        )  # the profiler's first run is slower and not used
        return profile_once(lambda: run(batches), device, scopes, memory=False).shares


@contextmanager
def without_usdt_lines() -> Iterator[None]:
    """Keep the lines that some builds of torch print at every start and stop of the profiler off stderr."""
    with tempfile.TemporaryFile() as said, ExitStack() as back:
        try:
            own = os.dup(2)
            os.dup2(said.fileno(), 2)
        except OSError:  # there is no stderr
            yield
            return
        back.callback(os.close, own)
        back.callback(os.dup2, own, 2)
        try:
            yield
        finally:
            back.close()
            said.seek(0)
            for line in said.read().splitlines(keepends=True):
                if not line.startswith(b'USDT:'):
                    os.write(2, line)
