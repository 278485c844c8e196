"""Timing in turn: who runs when, what the medians are taken over, what is told where it cannot work."""

import os
import sys

import pytest
import torch

from mmseg_tr.analysis import speed as timing
from mmseg_tr.analysis.speed import Contestant, Seconds, check_compiler, peak_memory, scope_shares, time_in_turn
from mmseg_tr.errors import DeviceError
from tests.networks import algm, pictures, small


class Clock:
    """A clock that stands still but for what the contestants take."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, 'time', clock)
    return clock


def contestant(clock, name: str, log: list, seconds) -> Contestant:
    """Takes seconds(batch) to scores and half of it more to labels."""

    def scores(batch):
        log.append((name, int(batch[0, 0, 0, 0])))
        clock.now += seconds(batch)
        return seconds(batch)

    def labels(taken, batch):
        clock.now += taken / 2

    return Contestant(scores, labels)


def numbered(count: int, size: int = 1) -> list[torch.Tensor]:
    return [torch.full((size, 3, 2, 2), float(number)) for number in range(count)]


def test_contestants_take_turns_on_every_batch_and_the_order_turns_around(clock):
    log = []
    contestants = {name: contestant(clock, name, log, lambda _: 1.0) for name in 'ab'}
    time_in_turn(contestants, numbered(2), repeats=2, warm_up=0)
    assert log == [('a', 0), ('b', 0), ('b', 1), ('a', 1), ('b', 0), ('a', 0), ('a', 1), ('b', 1)]


def test_the_first_batches_run_unmeasured(clock):
    log = []
    taken = iter([100.0, 1.0, 1.0, 1.0])
    times = time_in_turn(dict(a=contestant(clock, 'a', log, lambda _: next(taken))), numbered(1), repeats=0, warm_up=0)
    assert times['a'].scores == 100.0
    taken, log = iter([100.0, 100.0, 1.0, 1.0]), []
    times = time_in_turn(dict(a=contestant(clock, 'a', log, lambda _: next(taken))), numbered(1), repeats=1)
    assert times['a'].scores == 1.0


def test_times_are_medians_over_rounds_and_means_over_batches_per_image(clock):
    rounds = {0: [1.0, 1.0, 50.0], 1: [3.0, 70.0, 3.0]}
    taken = {number: iter(values) for number, values in rounds.items()}

    def scores(batch):
        clock.now += next(taken[int(batch[0, 0, 0, 0])])

    runner = Contestant(scores, lambda *_: setattr(clock, 'now', clock.now + 2.0))
    times = time_in_turn(dict(a=runner), numbered(2, size=4), repeats=3, warm_up=0)
    assert times['a'] == Seconds(scores=(1.0 + 3.0) / 2 / 4, labels=(3.0 + 5.0) / 2 / 4)


def test_no_round_begins_after_the_time_is_up_but_one_always_runs(clock):
    log = []
    time_in_turn(dict(a=contestant(clock, 'a', log, lambda _: 4.0)), numbered(1), repeats=100, seconds=10.0, warm_up=0)
    assert len(log) == 2  # 6 seconds each with the labels
    log.clear()
    time_in_turn(dict(a=contestant(clock, 'a', log, lambda _: 4.0)), numbered(3), repeats=9, seconds=0.0, warm_up=0)
    assert len(log) == 3


def test_real_networks_are_timed_with_either_kind_of_attention():
    model = small().eval()
    kinds = dict(fused=Contestant.of(model), published=Contestant.of(model, math_attention=True))
    times = time_in_turn(kinds, [pictures(1)], repeats=1)
    assert all(0 < taken.scores < taken.labels for taken in times.values())


def test_attention_as_published_does_not_run_the_fused_kernel():
    seen = []

    def scores(batch):
        with torch.profiler.profile() as profiler:
            small().eval().scores(batch)
        seen.append(any('flash' in event.key for event in profiler.key_averages()))

    for math_attention in (True, False):
        time_in_turn(dict(a=Contestant(scores, lambda *_: None, math_attention)), [pictures(1)], repeats=1, warm_up=0)
    assert seen == [False, True]


def test_shares_lie_inside_the_scopes_of_merging_and_restoring():
    scopes = {'mmseg_tr::merge': 'merging', 'mmseg_tr::restore': 'restoring'}
    shares = scope_shares(Contestant.of(small(algm()).eval()), [pictures(1)], scopes)
    assert 0 < shares['restoring'] < shares['merging'] < 0.9
    assert scope_shares(Contestant.of(small().eval()), [pictures(1)], scopes) == dict(merging=0.0, restoring=0.0)


def test_lines_of_the_profiler_stay_off_stderr_and_others_do_not(capfd):
    with timing.without_usdt_lines():
        os.write(2, b'USDT: profiler_start\nsomething that matters\n')
    print('after', file=sys.stderr)
    assert capfd.readouterr().err == 'something that matters\nafter\n'


def test_peak_memory_is_of_gpus():
    assert peak_memory(Contestant.of(small()), pictures(1)) is None


def test_too_little_memory_is_told_in_one_sentence():
    def scores(batch):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate')

    with pytest.raises(DeviceError, match=r'cpu has too little memory for a batch of \(1, 3, 64, 64\)'):
        time_in_turn(dict(a=Contestant(scores, lambda *_: None)), [pictures(1)])


def test_a_compiler_that_is_missing_is_told_in_one_sentence():
    def scores(batch):
        raise torch._dynamo.exc.TorchDynamoException('InvalidCxxCompiler: No working C++ compiler found\nmore')

    with pytest.raises(DeviceError, match=r'cannot be compiled on this machine \(.*InvalidCxxCompiler.*\): leave'):
        time_in_turn(dict(a=Contestant(scores, lambda *_: None)), [pictures(1)])


def test_a_compiler_is_looked_for_before_anything_is_measured():
    from torch._inductor import config

    missing = config.patch({'cpp.cxx': ('no-such-compiler',), 'force_disable_caches': True})
    with missing, pytest.raises(DeviceError, match='cannot be compiled on this machine .*: leave --compile out'):
        check_compiler(torch.device('cpu'))
    torch._dynamo.reset()


def test_compiled_networks_share_no_graphs_and_fixed_shapes_are_one_graph(monkeypatch):
    asked, compile = [], torch.compile
    monkeypatch.setattr(torch, 'compile', lambda run, **how: asked.append(how) or compile(run, backend='eager', **how))
    fixed = dict(type='ALGM', layers=(1, 2), counts=(4, 4))
    models = [small(method).eval() for method in (fixed, fixed, algm(), None)]
    contestants = [Contestant.of(model, compiled=True) for model in models]
    assert [how['fullgraph'] for how in asked] == [True, True, False, False]
    assert [how['dynamic'] for how in asked] == [False, False, None, False]
    assert not any('mode' in how for how in asked)  # of CUDA
    torch._dynamo.reset()
    with torch.inference_mode(), torch._dynamo.config.patch(cache_size_limit=1):
        for model, contestant in list(zip(models, contestants))[:2]:  # raises beyond one graph for one function
            torch.testing.assert_close(contestant.scores(pictures(1)), model.scores(pictures(1)))
    torch._dynamo.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_a_gpu_is_timed_by_its_own_clock():
    model = small(algm()).cuda().eval()
    images = pictures(2).cuda()
    times = time_in_turn(dict(a=Contestant.of(model)), [images], repeats=2, amp=torch.bfloat16)
    assert 0 < times['a'].scores < times['a'].labels
    assert peak_memory(Contestant.of(model), images) > 0
    assert 0 < scope_shares(Contestant.of(model), [images], {'mmseg_tr::merge': 'merging'})['merging'] < 1
