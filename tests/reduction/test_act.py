"""ACT: hashing queries into clusters and attending with their centres."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction import ACT
from mmseg_tr.reduction.act import (
    Hashing,
    act_attention,
    bucket_codes,
    cluster_ids,
    cluster_means,
    cluster_values,
    draw_hashes,
)
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=30)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hashes(dim: int, number: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return draw_hashes(dim, number, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        (dict(q_hashes=0), 'q_hashes must be .*got 0'),
        (dict(q_hashes=33), 'q_hashes must be .*got 33'),
        (dict(q_hashes=8.0), 'q_hashes must be .*got 8.0'),
        (dict(q_hashes=True), 'q_hashes must be .*got True'),
        (dict(bucket_width=0), 'bucket_width must be .*got 0'),
        (dict(bucket_width=float('nan')), 'bucket_width must be .*got nan'),
        (dict(bucket_width='8'), "bucket_width must be .*got '8'"),
        (dict(seed=-1), 'seed must be .*got -1'),
        (dict(redraw=1), 'redraw must be .*got 1'),
        (dict(k_hashes=8), "no setting 'k_hashes'"),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(setting, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(dict(type='ACT') | setting)


@few
@given(
    number=st.sampled_from([1, 2, 8, 31, 32]),
    width=st.sampled_from([0.25, 1, 8]),
    stretch=st.sampled_from([1, 100]),
    seed=st.integers(0, 99),
)
def test_codes_are_sums_of_buckets_that_wrap_around_at_64_bits(number, width, stretch, seed):
    """Far buckets need more than their two bits, and the last hash's bits leave the code."""
    q, (projection, offset) = stretch * noise(2, 7, 4, seed=seed).double(), hashes(4, number, seed)
    codes = bucket_codes(q, projection, offset, width)
    for row, found in zip(q, codes.tolist()):
        buckets = ((row @ projection.double() + offset.double()) / width).floor().int()
        buckets = (buckets - buckets.amin(0)).tolist()
        for of_query, code in zip(buckets, found):
            exact = sum(bucket * 4**place for place, bucket in enumerate(of_query))
            assert code == (exact + 2**63) % 2**64 - 2**63


@few
@given(rows=st.integers(1, 3), count=st.integers(1, 12), data=st.data())
def test_clusters_are_numbered_by_ascending_signed_code(rows, count, data):
    number = st.sampled_from([-(2**63), -5, -1, 0, 3, 2**62, 2**63 - 1])
    codes = data.draw(st.lists(number, min_size=rows * count, max_size=rows * count))
    table = torch.tensor(codes).view(rows, count)
    ids, counts = cluster_ids(table)
    for row, of_row, total in zip(table, ids, counts):
        values, inverse = row.unique(return_inverse=True)
        assert of_row.tolist() == inverse.tolist() and total == len(values)


def test_centres_are_means_and_missing_clusters_are_zero_rows():
    ids = torch.tensor([[0, 1, 0], [0, 0, 0]])
    x = torch.tensor([[[1.0], [5.0], [3.0]], [[2.0], [2.0], [5.0]]], requires_grad=True)
    means, members = cluster_means(x, ids, 2)
    assert means.flatten().tolist() == [2, 5, 3, 0] and members.tolist() == [[2, 1], [3, 0]]
    assert cluster_values(means, ids).flatten().tolist() == [2, 5, 2, 3, 3, 3]
    means[0, 0].sum().backward()
    assert x.grad.flatten().tolist() == [0.5, 0, 0.5, 0, 0, 0]


def test_one_cluster_per_query_is_plain_attention():
    q, k, v = noise(3, 2, 2, 9, 8)
    projection, offset = hashes(8, 16)
    found = act_attention(q, k, v, Hashing(projection, offset, 1e-3))
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v))


def test_queries_of_one_code_receive_the_attention_of_their_mean():
    q, k, v = noise(3, 2, 20, 8)
    projection, offset = hashes(8, 3)
    found = act_attention(q, k, v, Hashing(projection, offset, 2))
    codes = bucket_codes(q * 8**-0.5, projection, offset, 2)
    for row in range(2):
        assert 1 < len(codes[row].unique()) < 20
        for code in codes[row].unique():
            mine = codes[row] == code
            want = F.scaled_dot_product_attention(q[row, mine].mean(0, keepdim=True), k[row], v[row])
            torch.testing.assert_close(found[row, mine], want.expand(int(mine.sum()), -1))


def test_queries_scaled_already_give_the_same():
    q, k, v = noise(3, 2, 20, 4)
    projection, offset = hashes(4, 3)
    scaled = act_attention(q / 2, k, v, Hashing(projection, offset, 2), scale=1)
    torch.testing.assert_close(scaled, act_attention(q, k, v, Hashing(projection, offset, 2)))


def test_a_row_with_fewer_clusters_is_not_disturbed_by_one_with_more():
    q, k, v = noise(3, 2, 30, 8)
    q = q * torch.tensor([0.1, 3.0])[:, None, None]
    projection, offset = hashes(8, 8)
    together = act_attention(q, k, v, Hashing(projection, offset, 2))
    assert len(set(cluster_ids(bucket_codes(q * 8**-0.5, projection, offset, 2))[1].tolist())) == 2
    for row in range(2):
        alone = act_attention(q[row, None], k[row, None], v[row, None], Hashing(projection, offset, 2))
        torch.testing.assert_close(together[row], alone[0])


def test_gradients_reach_queries_keys_and_values():
    qkv = noise(3, 2, 20, 8).requires_grad_()
    act_attention(*qkv, Hashing(*hashes(8, 3), 2)).square().sum().backward()
    assert (qkv.grad.abs().sum((1, 2, 3)) > 0).all()


def test_half_precision_queries_are_hashed_in_float32():
    q, (projection, offset) = noise(2, 50, 8).bfloat16(), hashes(8, 16)
    want = bucket_codes(q.float(), projection, offset, 1)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(bucket_codes(q, projection, offset, 1), want)
        assert act_attention(q, q, q, Hashing(projection, offset, 1)).dtype == torch.bfloat16


def test_hashes_repeat_by_seed_and_differ_between_seeds_and_layers():
    drawn = [ACT(seed=seed).hashes(layer, 8) for seed, layer in [(0, 1), (0, 1), (0, 2), (1, 1)]]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1]))
    assert not torch.equal(drawn[0][0], drawn[2][0]) and not torch.equal(drawn[0][0], drawn[3][0])
    projection, offset = drawn[0]
    assert projection.shape == (8, 32) and offset.shape == (32,) and offset.min() >= 0 and offset.max() < 1


def test_published_redraw_follows_the_random_state_of_torch():
    vit, image = tiny_vit(dict(type='ACT', q_hashes=4, bucket_width=1, redraw=True)), pictures(1, (8, 8))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        first, second = vit(image)[0], vit(image)[0]
        torch.manual_seed(0)
        again = vit(image)[0]
    assert torch.equal(first, again) and not torch.allclose(first, second, atol=1e-4)


def test_fewer_hashes_and_wider_buckets_make_fewer_clusters():
    q, totals = noise(1, 60, 8), []
    for number, width in [(16, 1), (4, 1), (4, 4)]:
        totals.append(int(cluster_ids(bucket_codes(q, *hashes(8, number), width))[1]))
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == 3


def test_room_for_more_clusters_changes_nothing_and_too_little_joins_the_last():
    image = pictures(2, (8, 8))
    settings = dict(type='ACT', q_hashes=8, bucket_width=2)
    free, roomy, tight = (tiny_vit(dict(settings, clusters=number))(image)[0] for number in (None, 65, 2))
    torch.testing.assert_close(roomy, free, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(tight, free, atol=1e-3)
    with pytest.raises(ConfigError, match='clusters must be .*got 0'):
        tiny_vit(dict(settings, clusters=0))
