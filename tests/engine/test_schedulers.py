"""The learning-rate schedule: closed form, floor, warm-up, steps, position in a training."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmseg_tr.engine import SegmenterPolyLR, polynomial_lr
from mmseg_tr.errors import ConfigError

RATES = (0.1, 0.01)


def optimizer(rates=RATES):
    groups = [dict(params=[torch.nn.Parameter(torch.zeros(1))], lr=rate) for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def run(scheduler, updates):
    """The learning rates of both groups in force for update 0, 1, 2 ..."""
    rates = []
    for _ in range(updates):
        rates.append([group['lr'] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize('warmup', [0, 4])
@pytest.mark.parametrize('step_size', [1, 3])
def test_each_group_follows_the_formula_from_its_own_rate(warmup, step_size):
    scheduler = SegmenterPolyLR(optimizer(), end=10, warmup=warmup, step_size=step_size)
    expected = [[polynomial_lr(t, base, 10, warmup, step_size=step_size) for base in RATES] for t in range(14)]
    assert run(scheduler, 14) == expected
    scheduler = SegmenterPolyLR(optimizer(), end=10, warmup=warmup, step_size=step_size, published_start=True)
    assert run(scheduler, 14) == [list(RATES) if t < step_size else rates for t, rates in enumerate(expected)]


def test_reaches_the_floor_at_the_end_and_stays():
    rates = [rate for rate, _ in run(SegmenterPolyLR(optimizer(), eta_min=1e-5, end=5), 9)]
    assert rates[0] == 0.1
    assert rates[5:] == [1e-5] * 4


def test_warm_up_starts_at_the_floor_and_meets_the_decay():
    decay = [polynomial_lr(t, 0.1, 40) for t in range(40)]
    warm = [polynomial_lr(t, 0.1, 40, iter_warmup=10) for t in range(40)]
    assert warm[0] == 1e-5
    assert polynomial_lr(0, 0.1, 40, iter_warmup=10, published_start=True) == 0.1
    assert warm[1] == pytest.approx((0.1 - 1e-5) * 0.1 * (1 - 10 / 40) ** 0.9 + 1e-5, abs=1e-15)
    assert warm[10:] == decay[10:]


@given(st.integers(0, 60), st.integers(1, 40), st.integers(1, 7), st.data())
def test_with_steps_the_rate_moves_at_multiples_only(t, iter_max, step_size, data):
    warmup = data.draw(st.integers(0, iter_max))
    rate = polynomial_lr(t, 0.1, iter_max, warmup, step_size=step_size)
    assert 1e-5 - 1e-18 <= rate <= 0.1
    if t % step_size or t > iter_max:
        assert rate == polynomial_lr(t - 1, 0.1, iter_max, warmup, step_size=step_size)


def test_resuming_continues_exactly():
    straight = run(SegmenterPolyLR(optimizer(), end=10, warmup=3, step_size=2), 12)
    first = SegmenterPolyLR(optimizer(), end=10, warmup=3, step_size=2)
    head = run(first, 5)
    again = optimizer()
    second = SegmenterPolyLR(again, end=10, warmup=3, step_size=2)
    again.load_state_dict(first.optimizer.state_dict())  # as mmengine's Runner does: the optimiser first
    second.load_state_dict(first.state_dict())
    assert head + run(second, 7) == straight


def test_a_longer_schedule_in_the_config_counts_when_resuming():
    first = SegmenterPolyLR(optimizer(), end=4)
    run(first, 4)
    second = SegmenterPolyLR(optimizer(), end=8)
    second.load_state_dict(first.state_dict())
    assert [rate for rate, _ in run(second, 6)] == [polynomial_lr(t, 0.1, 8) for t in range(4, 10)]


def test_begins_where_it_is_told():
    rates = [rate for rate, _ in run(SegmenterPolyLR(optimizer(), begin=3, end=7), 9)]
    assert rates[:4] == [0.1] * 4
    assert rates[3:] == [polynomial_lr(t, 0.1, 4) for t in range(6)]


def test_is_found_by_its_registered_name_and_counts_epochs_as_updates_when_asked():
    wrapper = OptimWrapper(optimizer())
    config = dict(type='mmseg_tr.SegmenterPolyLR', end=2, by_epoch=True, convert_to_iter_based=True)
    scheduler = PARAM_SCHEDULERS.build(config, default_args=dict(optimizer=wrapper, epoch_length=5))
    assert (scheduler.length, scheduler.by_epoch) == (10, False)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(), 'needs end'),
        (dict(begin=4, end=4), 'end=4 must be above begin=4'),
        (dict(end=4, warmup=5), 'warmup must .*got 5'),
        (dict(end=4, warmup=-1), 'warmup must .*got -1'),
        (dict(end=4, step_size=0), 'step_size must .*got 0'),
        (dict(end=4, power=float('nan')), 'power must .*got nan'),
        (dict(end=4, eta_min=-1.0), 'eta_min must .*got -1.0'),
        (dict(end=4, power='0.9'), "power must .*got '0.9'"),
    ],
)
def test_refuses_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        SegmenterPolyLR(optimizer(), **settings)
