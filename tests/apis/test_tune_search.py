"""Ladders, bisection and the choice within a budget, on made-up methods whose best setting is known."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('mmseg')

from mmseg_tr.apis.tune.search import Budget, Point, find, search
from mmseg_tr.apis.tune.spaces import identity, space
from mmseg_tr.apis.tune.written import nested_options
from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction import build_reduction, method_names
from mmseg_tr.reduction.ladder import Ladder
from mmseg_tr.values import as_code

OWN = dict(
    ALGM=dict(type='ALGM', layers=[1, 4]),
    ToMe=dict(type='ToMe', r=8),
    EViT=dict(type='EViT', layers=[2, 4]),
    Expedite=dict(type='Expedite', layer=2, k=4),
    CTS=dict(type='CTS', share=0.3, policy='random'),
    ACT=dict(type='ACT'),
    MPM=dict(type='MPM', layers=[2, 4]),
    CubistMerge=dict(type='CubistMerge', layer=2),
    PiToMe=dict(type='PiToMe', form='all'),
    SharedMatching=dict(type='SharedMatching', match_every=2),
)
MORE = (
    dict(type='ToMe', form='dense'),
    dict(type='ToMe', r=dict(mean=8, slope=-1.0)),
    dict(type='ToMe', matching='kth', k=2),
    dict(type='CTS', shared=5, policy='random'),
    dict(type='ALGM'),
    dict(type='EViT'),
    dict(type='Expedite', k=1),
    dict(type='MPM', layers=(1, 3), pairs=2),
    dict(type='CubistMerge', ratio=0.1),
    dict(type='PiToMe'),
)


def steps(rises):
    """Losses or speed-ups along a ladder, rising from step to step."""
    return st.lists(rises, min_size=1, max_size=40).map(sorted)


def made_up(*ladders):
    """Ladders, and what measures their points: every rung is its (loss, speed-up)."""
    rungs = {}
    for number, ladder in enumerate(ladders):
        for rung, (loss, speed_up) in enumerate(ladder):
            rungs[identity(dict(ladder=number, rung=rung))] = loss, speed_up
    found = [
        Ladder(str(number), tuple(dict(ladder=number, rung=rung) for rung in range(len(ladder))))
        for number, ladder in enumerate(ladders)
    ]
    asked = []

    def measure(name, settings):
        asked.append(settings)
        loss, speed_up = rungs[identity(settings)]
        return Point(name, settings, 50 - loss, loss, 1 / speed_up, speed_up)

    return found, measure, asked


@given(st.lists(steps(st.floats(0, 10)), min_size=1, max_size=4), st.floats(0, 10))
def test_bisection_finds_the_fastest_setting_within_a_loss(losses, budget):
    ladders, measure, asked = made_up(*[list(zip(loss, range(1, 99))) for loss in losses])
    best = Budget(loss=budget, by='work').best(search(ladders, Budget(loss=budget, by='work'), measure))
    speeds = [speed for loss in losses for speed, lost in enumerate(loss, 1) if lost <= budget]
    assert (best.work if best else None) == max(speeds, default=None)
    assert len(asked) <= sum(len(loss).bit_length() for loss in losses)


@given(st.lists(steps(st.floats(1, 5)), min_size=1, max_size=4), st.floats(1.01, 5))
def test_bisection_finds_the_least_loss_at_a_speed_up(speeds, wanted):
    ladders, measure, _ = made_up(*[[(lost, speed) for lost, speed in enumerate(ladder)] for ladder in speeds])
    budget = Budget(speed_up=wanted, by='work')
    best = budget.best(search(ladders, budget, measure))
    losses = [lost for ladder in speeds for lost, speed in enumerate(ladder) if speed >= wanted]
    assert (best.loss if best else None) == min(losses, default=None)


def test_a_setting_that_fails_on_the_full_set_is_replaced_by_a_milder_one():
    curve = [(0.1 * step, 1 + 0.1 * step) for step in range(20)]
    ladders, subset, _ = made_up(curve)
    _, full, confirmed = made_up([(loss + 0.25, speed) for loss, speed in curve])
    points, tried, chosen = find(ladders, Budget(loss=1.0, by='work'), subset, full)
    assert [settings['rung'] for settings in confirmed] == [10, 7]
    assert chosen is tried[-1] and chosen.loss == pytest.approx(0.95)
    assert len(points) == len({identity(point.settings) for point in points})


def test_nothing_is_chosen_that_misses_the_budget_on_the_full_set():
    curve = [(0.1 * step, 1 + 0.1 * step) for step in range(20)]
    ladders, subset, _ = made_up(curve)
    _, full, _ = made_up([(loss + 3, speed) for loss, speed in curve])
    points, tried, chosen = find(ladders, Budget(loss=1.0, by='work'), subset, full)
    assert chosen is None and points and len(tried) == 2


def test_nothing_is_confirmed_when_the_subset_has_nothing():
    ladders, subset, _ = made_up([(5.0, 1.2), (6.0, 1.5)])
    _, tried, chosen = find(ladders, Budget(loss=1.0, by='work'), subset, subset)
    assert chosen is None and tried == ()


@pytest.mark.parametrize('own', [*OWN.values(), *MORE], ids=lambda own: json.dumps(own))
@pytest.mark.parametrize(('depth', 'grid'), [(12, (32, 32)), (6, (16, 16)), (4, (8, 12))])
def test_every_rung_is_a_setting_that_the_network_takes(own, depth, grid):
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # a setting that reduces nothing warns
        for ladder in space(own, depth, grid):
            for settings in (ladder.rungs[0], ladder.rungs[-1]):
                assert settings['type'] == own['type']
                build_reduction(settings).bind(depth, grid, 1)
    assert set(OWN) == set(method_names('ViT'))


def test_the_first_ladder_keeps_the_layers_of_the_config():
    assert all(rung['layers'] == (1, 4) for rung in space(OWN['ALGM'], 6, (16, 16))[0].rungs)
    assert all(rung['layer'] == 2 for rung in space(OWN['Expedite'], 6, (16, 16))[0].rungs)
    assert space(MORE[1], 6, (16, 16))[0].rungs[2]['r'] == dict(mean=3, slope=-1.0)


def test_every_merging_of_a_mit_is_one_that_it_takes():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for ladder in space(dict(type='SegFormerPP'), 4, (1, 1)):
            for settings in (ladder.rungs[0], ladder.rungs[-1]):
                assert build_reduction(settings).bind_stages((1, 1, 1, 1)).active


@pytest.mark.parametrize(
    ('own', 'said'),
    [
        (dict(type='Other'), "got 'Other'"),
        (dict(type='ToMe', r=[8, 4]), 'such as r=8, got [8, 4]'),
        (dict(type='CTS', policy='none'), "got 'none'"),
        (dict(type='Expedite', k=999), 'Expedite has no setting to try'),
    ],
)
def test_what_cannot_be_tuned_is_told(own, said):
    with pytest.raises(ConfigError) as error:
        space(own, 6, (16, 16))
    assert said in str(error.value)


def test_options_become_parts_of_a_config():
    assert nested_options({'a.b': 1, 'a.c.d': 'x', 'e': (1, 2)}) == {'a': {'b': 1, 'c': {'d': 'x'}}, 'e': (1, 2)}
    with pytest.raises(ConfigError, match='changes an entry of a list'):
        nested_options({'a.0.b': 1})
    value = {'a': [1, {'b-c': (1, 2)}], 'd': None, 'e': {'f': 'x'}}
    assert eval(as_code(value)) == value
