"""MPM: which pairs are mutual, the fixed form, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction import MPM
from mmseg_tr.reduction.mpm import most_similar_pairs, mutual_pairs
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=30)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(x: torch.Tensor) -> list[int]:
    """Places of the tokens of one image, (T, C), pair by pair."""
    u = torch.nn.functional.normalize(x, dim=-1)
    similarity = (u @ u.T).fill_diagonal_(-torch.inf).tolist()
    best = [max(range(len(row)), key=lambda j: (row[j], -j)) for row in similarity]
    stands = [min(i, j) if best[j] == i != j else i for i, j in enumerate(best)]
    order = sorted(set(stands))
    return [order.index(token) for token in stands]


@few
@given(tokens=st.integers(1, 30), prefix=st.sampled_from([0, 1, 5]), seed=st.integers(0, 99))
def test_tokens_pair_with_their_mutual_nearest(tokens, prefix, seed):
    x = noise(2, prefix + tokens, 4, seed=seed)
    places, left, _ = mutual_pairs(x, prefix)
    for image, found, count in zip(x, places, left):
        assert found[:prefix].tolist() == list(range(prefix))
        assert (found[prefix:] - prefix).tolist() == by_hand(image[prefix:])
        assert count == found.max() + 1
    assert tokens == 1 or (left < prefix + tokens).all()  # the most similar two are always a pair


def test_of_three_equal_tokens_the_first_two_are_a_pair():
    x = torch.tensor([[[1.0, 0], [0, 1], [1, 0], [1, 0]]])
    assert mutual_pairs(x)[0].tolist() == [[0, 1, 0, 2]]


@few
@given(tokens=st.integers(2, 30), part=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_fixed_form_removes_exactly_as_many_as_asked(tokens, part, seed):
    x, r = noise(3, 1 + tokens, 4, seed=seed), int(part * (tokens // 2))
    places, score = most_similar_pairs(x, r, 1)
    assert all(len(found.unique()) == 1 + tokens - r and found.max() == tokens - r for found in places)
    assert (score.isfinite().sum(1) == r).all()


@few
@given(tokens=st.integers(2, 30), seed=st.integers(0, 99))
def test_the_fixed_form_with_the_number_of_pairs_is_the_adaptive_one(tokens, seed):
    x = noise(1, tokens, 4, seed=seed)
    places, left, _ = mutual_pairs(x)
    assert torch.equal(most_similar_pairs(x, tokens - int(left))[0], places)


def test_means_are_plain_ones_at_every_merge_and_sizes_stay_true():
    tokens = tiny_vit(dict(type='MPM', layers=(1, 2, 3), restore='scores')).forward_tokens(pictures(1, (8, 8)))
    counts = torch.bincount(tokens.index[0]).float()
    assert counts.max() > 2  # or this would show nothing
    assert torch.equal(tokens.size[0, 1:], counts)
    step = tokens.steps[1]
    x = noise(1, step.merge.index.shape[1], 3)
    joined = step.merge.apply(x, None, (x.shape[1],))[0]
    group = step.merge.index[0] == step.merge.index[0].mode().values
    torch.testing.assert_close(joined[0, step.merge.index[0].mode().values], x[0, group].mean(0))


def test_restoring_before_or_after_the_norm_is_the_same():
    images = pictures(2, (8, 8))
    whole, short = (tiny_vit(dict(type='MPM', layers=(2, 4), restore=where)) for where in ('backbone', 'scores'))
    assert whole.forward_tokens(images).x.shape == (2, 65, 16)
    assert max(short.forward_tokens(images).counts) < 65
    torch.testing.assert_close(whole(images)[0], short(images)[0])


def test_averaged_pairs_are_what_leaves_on_average():
    vit = tiny_vit(dict(type='MPM', layers=(2, 4)))
    tokens = vit.forward_tokens(pictures(3, (8, 8)))
    fixed = vit.reduction.fixed_by([tokens])
    before, after = sum(tokens.trace[0]) / 3, sum(tokens.trace[1]) / 3
    assert fixed.pairs[0] == round(before - after) and not fixed.adaptive and fixed.unexportable() is None
    with pytest.raises(ConfigError, match='MPM .*to average'):
        fixed.fixed_by([tokens])


def test_fixed_pairs_follow_the_grid():
    vit = tiny_vit(dict(type='MPM', layers=(2,), pairs=10, restore='scores'))
    assert vit.forward_tokens(pictures(2, (8, 16))).counts == (129 - 20,) * 2


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        (dict(layers=(0, 2)), 'layers.*got 0'),
        (dict(layers=(2, 9)), 'from 1 to 4.*got 9'),
        (dict(layers=()), 'layers must'),
        (dict(restore='decoder'), "restore must be one of 'backbone', 'scores', got 'decoder'"),
        (dict(layers=(1, 2), pairs=(3,)), r'pairs must .*got \(3,\)'),
        (dict(layers=(1,), pairs=-1), 'pairs must .*got -1'),
        (dict(layers=(1,), pairs=33), 'pairs must be at most 32 of the 64 tokens of layer 1, got 33'),
        (dict(layers=(1, 2), pairs=(30, 20)), 'pairs must be at most 17 of the 34 tokens of layer 2, got 20'),
        (dict(layers=(1,), threshold=0.5), "no setting 'threshold'"),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(setting, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(dict(type='MPM') | setting)


def test_settings_that_merge_nothing_are_reported():
    with pytest.warns(UserWarning, match='pairs=.0,.: nothing merges'):
        MPM(layers=(2,), pairs=0)
