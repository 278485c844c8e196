"""Bipartite matching and merges as pure functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.reduction.matching import best_partners, bipartite_index, descending_rank, protected_sources
from mmseg_tr.reduction.merge import Merge
from mmseg_tr.reduction.ops import running_starts, unit

few = settings(derandomize=True, deadline=None, max_examples=30)


def test_equals_rank_from_the_lower_index_on():
    assert descending_rank(torch.tensor([[1.0, 3.0, 1.0, 3.0, -torch.inf]])).tolist() == [[2, 0, 3, 1, 4]]


def test_zero_rows_stay_zero_and_others_have_length_one():
    """Rows too short for their length to be told count as zero, so that no cosine ever exceeds one."""
    rows = unit(torch.tensor([[0.0, 0.0], [3.0, 4.0], [1e-15, 0.0], [1e-30, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.0], [0.6, 0.8], [1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_compared_in_float32(dtype):
    assert unit(torch.ones(2, 3, dtype=dtype)).dtype == torch.float32
    assert best_partners(torch.ones(1, 6, 3, dtype=dtype), 1)[0].dtype == torch.float32


@few
@given(prefix=st.integers(0, 6), count=st.integers(2, 20), seed=st.integers(0, 99))
def test_protected_tokens_neither_leave_nor_receive(prefix, count, seed):
    total = prefix + count
    score, partner = best_partners(torch.randn(2, total, 4, generator=torch.Generator().manual_seed(seed)), prefix)
    sources = torch.arange(0, total, 2)[protected_sources(prefix) :]
    assert score.shape == partner.shape == (2, len(sources)) and sources.ge(prefix).all()
    destinations = torch.arange(1, total, 2)[prefix // 2 :]
    assert destinations.ge(prefix).all() and partner[score.isfinite()].lt(max(len(destinations), 1)).all()


@few
@given(prefix=st.integers(0, 6), count=st.integers(1, 20), seed=st.integers(0, 99), data=st.data())
def test_every_token_gets_a_place_and_prefix_tokens_keep_theirs(prefix, count, seed, data):
    total = prefix + count
    score, partner = best_partners(torch.randn(2, total, 4, generator=torch.Generator().manual_seed(seed)), prefix)
    gone = data.draw(st.integers(0, int(score[0].isfinite().sum())))
    indices = [bipartite_index(score, partner, gone, total, prefix, repeats) for repeats in (True, False)]
    assert torch.equal(*indices)
    assert indices[0][:, :prefix].tolist() == [list(range(prefix))] * 2
    for row in indices[0]:
        assert set(row.tolist()) == set(range(total - gone))
        assert torch.bincount(row)[:prefix].eq(1).all()


def test_without_a_destination_nothing_is_similar():
    score, partner = best_partners(torch.ones(2, 1, 4), 0)
    assert score.tolist() == [[-torch.inf]] * 2 and partner.tolist() == [[0]] * 2
    assert bipartite_index(score, partner, 0, 1, 0).tolist() == [[0]] * 2


def test_tokens_are_averaged_by_size():
    merge = Merge(torch.tensor([[0, 1, 1]]), (2,))
    x, size = merge.apply(torch.tensor([[[5.0], [1.0], [4.0]]]), torch.tensor([[1.0, 2.0, 1.0]]), (3,))
    assert x.tolist() == [[[5.0], [2.0]]] and size.tolist() == [[1.0, 3.0]]


@pytest.mark.parametrize(('mode', 'value'), [('mean', 2.5), ('sum', 5.0), ('prod', 4.0), ('amax', 4.0), ('amin', 1.0)])
def test_plain_reductions_ignore_sizes(mode, value):
    merge = Merge(torch.tensor([[0, 1, 1]]), (2,))
    assert merge.reduce(torch.tensor([[[-5.0], [1.0], [4.0]]]), (3,), mode).flatten().tolist() == [-5.0, value]


def test_images_that_keep_different_numbers_are_packed_behind_one_another():
    merge = Merge(torch.tensor([[0, 1, 1], [0, 1, 2]]), (2, 3))
    x, size = merge.apply(torch.arange(6.0).view(2, 3, 1), None, (3, 3))
    assert merge.packed and x.flatten().tolist() == [0, 1.5, 3, 4, 5] and size.tolist() == [[1, 2, 1, 1, 1]]
    again = Merge(torch.tensor([[0, 1, 0, 0, 1]]), (2, 2))  # places count from 0 in each image
    x, size = again.apply(x, size, (2, 3))
    assert not again.packed and x.shape == (2, 2, 1)
    assert x.flatten().tolist() == [0, 1.5, 3.5, 5] and size.tolist() == [[1, 2], [2, 1]]


def test_gradients_of_a_merge_are_shares_by_size():
    x = torch.zeros(1, 3, 1, requires_grad=True)
    merged, _ = Merge(torch.tensor([[0, 1, 1]]), (2,)).apply(x, torch.tensor([[1.0, 3.0, 1.0]]), (3,))
    merged[0, 1].backward()
    assert x.grad.flatten().tolist() == [0, 0.75, 0.25]


def test_starts_of_packed_images_are_running_sums():
    assert running_starts((3, 1, 2)) == [0, 3, 4]
