"""ToMe: its schedules, its two forms and its three matchings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.attention import SelfAttention
from mmseg_tr.reduction import Tokens, ToMe, build_reduction
from mmseg_tr.reduction.matching import bipartite_matching, kth_matching, random_matching
from mmseg_tr.reduction.tome import parse_r
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=30)


def tome(**kwargs) -> dict:
    return dict(type='ToMe') | kwargs


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ('reduction', 'said'),
    [
        (tome(r=-1), 'r must be .*got -1'),
        (tome(r=1.0), 'r must be .*got 1.0'),
        (tome(r=0.0), 'r must be .*got 0.0'),
        (tome(r=True), 'r must be .*got True'),
        (tome(r='8'), "r must be .*got '8'"),
        (tome(r=[8, -1]), r'r must be .*got \[8, -1\]'),
        (tome(r=[]), r'r must be .*got \[\]'),
        (tome(r=[1, 2, 3, 4, 5]), 'r must list at most 4 layers'),
        (tome(r=(8, -1.0)), r'r must be a list per layer, \[8, -1.0\], or dict'),
        (tome(r=dict(mean=8)), 'r must be a schedule .*got .*mean'),
        (tome(r=dict(mean=8, slope=-1.5)), 'slope from -1 to 1'),
        (tome(r=dict(mean=0.5, slope=0)), 'r must be a schedule .*integer as mean'),
        (tome(r=dict(mean=8, slope=0, depth=12)), 'r must be a schedule'),
        (tome(r=8, form='sparse'), "form must be .*got 'sparse'"),
        (tome(r=8, matching='best'), "matching must be .*got 'best'"),
        (tome(r=0.2, form='dense', prop_attn=True), 'prop_attn must be .*got True'),
        (tome(r=8, prop_attn=1), 'prop_attn must be .*got 1'),
        (tome(r=8, k=2), 'k must be .*got 2'),
        (tome(r=8, matching='kth'), "r must be left out with matching='kth'.*got 8"),
        (tome(matching='kth', k=0), 'k must be .*got 0'),
        (tome(matching='kth', k=[2, 2.0]), r'k must be .*got \[2, 2.0\]'),
        (tome(matching='kth', k=[2] * 5), 'k must list at most 4 layers'),
        (tome(r=8, matching='random', seed=-1), 'seed must be .*got -1'),
        (tome(r=8, matching='random', seed=0.5), 'seed must be .*got 0.5'),
        (tome(r=8, batch='joint'), "no setting 'batch'"),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(reduction, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(reduction)


@pytest.mark.parametrize(
    'idle',
    [tome(r=0), tome(r=[0, 0]), tome(r=0.01), tome(r=dict(mean=0, slope=0)), tome(matching='kth', k=1)],
    ids=str,
)
@pytest.mark.parametrize('form', ToMe.FORMS)
def test_settings_that_merge_nothing_are_reported_when_the_model_is_built(idle, form):
    with pytest.warns(UserWarning, match='merges none of 65 tokens'):
        tiny_vit(idle | dict(form=form))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('r', [[0, 0, 3], [0.01, 0.5], dict(mean=1, slope=1.0)], ids=str)
def test_layers_that_merge_nothing_are_silent_where_another_merges(r):
    tiny_vit(tome(r=r))(pictures(1, (8, 8)))


def test_one_layer_gets_the_mean_of_a_schedule():
    assert parse_r(1, (8, -1.0)) == [8] and parse_r(1, 5) == [5]


@pytest.mark.parametrize(
    ('reduction', 'left'),
    [
        (tome(r=8), (57, 49, 41, 33)),
        (tome(r=[10, 0, 5]), (55, 55, 50, 50)),
        (tome(r=dict(mean=8, slope=-1.0)), (49, 39, 34, 34)),
        (tome(r=0.2), (52, 42, 34, 28)),
        (tome(r=[0.5, 4]), (33, 29, 29, 29)),
        (tome(r=1000), (33, 17, 9, 5)),
        (tome(r=8, matching='random'), (57, 49, 41, 33)),
        (tome(r=1000, matching='random'), (2, 2, 2, 2)),
        (tome(matching='kth'), (33, 17, 9, 5)),
        (tome(matching='kth', k=[3, 1, 5]), (23, 23, 7, 7)),
        (tome(matching='kth', k=[65]), (65, 65, 65, 65)),
        (tome(r=0.5, form='dense'), (65, 65, 65, 65)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings('ignore:.* merges none of')
def test_tokens_left_by_every_layer(reduction, left):
    tokens = tiny_vit(reduction).forward_tokens(pictures(2, (8, 8)))
    assert tokens.trace == tuple((count, count) for count in left)


def test_a_schedule_is_spread_over_each_backbone_it_is_bound_to():
    method = build_reduction(tome(r=dict(mean=8, slope=-1.0)))
    with pytest.raises(ConfigError, match='call bind'):
        method.amount(1, 65, 1)
    assert method.bind(4, (8, 8), 1).schedule == tuple(parse_r(4, (8, -1.0)))
    assert method.bind(12, (8, 8), 1).schedule == tuple(parse_r(12, (8, -1.0)))
    assert method.schedule is None


@pytest.mark.parametrize('form', ToMe.FORMS)
@pytest.mark.parametrize('matching', ToMe.MATCHINGS)
@settings(few, max_examples=8)  # after the contract's own test of the same, over every method
@given(grid=st.tuples(st.integers(2, 7), st.integers(2, 7)), prefix=st.sampled_from([0, 1, 2, 5]))
def test_every_matching_in_every_form_ignores_batch_mates(form, matching, grid, prefix):
    setting = dict(k=3) if matching == 'kth' else dict(r=0.4)
    vit = tiny_vit(tome(form=form, matching=matching, **setting), prefix, grid)
    images = pictures(3, grid)
    with torch.no_grad():
        (together,) = vit(images)
        for number, image in enumerate(images.split(1)):
            torch.testing.assert_close(vit(image)[0], together[number, None], atol=1e-5, rtol=1e-5)


@few
@given(batch=st.integers(1, 3), count=st.integers(0, 20), k=st.integers(1, 6), prefix=st.integers(0, 5))
def test_kth_keeps_prefix_destinations_and_remainder(batch, count, k, prefix):
    metric = noise(batch, prefix + count, 4)
    merge = kth_matching(metric, k, prefix)
    runs = count // k
    kept = [*range(prefix), *range(prefix + k - 1, prefix + runs * k, k), *range(prefix + runs * k, prefix + count)]
    assert merge.lengths == (len(kept),) * batch
    assert merge.index[:, kept].tolist() == [list(range(len(kept)))] * batch
    destinations = set(range(prefix, prefix + runs))
    for row in merge.index.tolist():
        assert {place for token, place in enumerate(row) if token not in kept} <= destinations


@few
@given(batch=st.integers(1, 3), count=st.integers(0, 20), r=st.integers(0, 25), prefix=st.integers(0, 5))
def test_random_sources_join_destinations_and_prefix_tokens_stay(batch, count, r, prefix):
    metric, numbers = noise(batch, prefix + count, 4), torch.rand(1, count)
    merge = random_matching(metric, r, numbers, prefix)
    left = prefix + max(count - r, min(count, 1))
    assert merge.lengths == (left,) * batch
    assert merge.index[:, :prefix].tolist() == [list(range(prefix))] * batch
    for row in merge.index.tolist():
        assert set(row) == set(range(left))
        assert all(row.count(place) == 1 for place in range(prefix))
    if 0 < r < count:
        assert set(merge.index[0, prefix:][numbers[0].argsort()[r:]].tolist()) == set(range(prefix, left))


@few
@given(count=st.integers(0, 20), r=st.integers(-1, 25), prefix=st.integers(0, 5), seed=st.integers(0, 99))
def test_sources_join_their_most_similar_destination(count, r, prefix, seed):
    metric = noise(1, prefix + count, 4, seed=seed)
    merge = bipartite_matching(metric, r, prefix)
    assert merge.lengths == (prefix + count - max(min(r, count // 2), 0),)
    cosine = torch.nn.functional.cosine_similarity(metric[0, :, None], metric[0, None], dim=-1)
    destinations = [token for token in range(1, prefix + count, 2) if token >= prefix]
    index = merge.index[0]
    for token in range(prefix + count):
        mates = [other for other in destinations if other != token and index[other] == index[token]]
        if token % 2 == 0 and mates:
            assert mates == [max(destinations, key=lambda other: cosine[token, other])]


def test_random_draws_repeat_by_seed_and_differ_between_layers():
    images = pictures(2, (8, 8))
    first, again, other = (
        tiny_vit(tome(r=12, matching='random', seed=seed)).forward_tokens(images) for seed in (1, 1, 2)
    )
    assert torch.equal(first.index, again.index) and not torch.equal(first.index, other.index)
    (one, two) = (step.merge.index[0, :40] for step in first.steps[:2])
    assert not torch.equal(one, two)


def test_proportional_attention_counts_a_token_as_often_as_it_has_patches():
    vit = tiny_vit()
    y, size = noise(1, 5, 16), torch.tensor([[1.0, 3.0, 1.0, 2.0, 4.0]])
    tokens = Tokens(y, (1, 10), 1, size=size)
    attend = SelfAttention(vit.blocks[0].attn)
    found, _ = ToMe(r=0, prop_attn=True).attention(attend, y, tokens, 2)
    spread = y.repeat_interleave(size[0].long(), 1)
    first = size[0].long().cumsum(0) - 1
    torch.testing.assert_close(found, attend(spread, Tokens(spread, (1, 10), 1))[:, first], atol=1e-6, rtol=1e-5)
    plain, _ = ToMe(r=0, prop_attn=False).attention(attend, y, tokens, 2)
    torch.testing.assert_close(plain, attend(y, tokens))


def test_dense_form_gives_merged_tokens_the_same_branch():
    vit = tiny_vit(tome(r=0.5, form='dense'))
    y = noise(2, 65, 16)
    tokens = Tokens(y, (8, 8), 1)
    out = vit.reduction.mlp(vit.blocks[0].mlp, y, tokens, 1)
    merge = bipartite_matching(y, 32, 1)
    for row, index in zip(out, merge.index):
        for place in range(33):
            same = row[index == place]
            assert torch.equal(same, same[:1].expand_as(same))
    mean = y[0][merge.index[0] == 20].mean(0)
    torch.testing.assert_close(out[0][merge.index[0] == 20][0], vit.blocks[0].mlp(mean), atol=1e-6, rtol=1e-5)
