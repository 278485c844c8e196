"""What merging.watch() tells is what the network does, and watching changes nothing."""

import numpy as np
import pytest
import torch

from mmseg_tr.nn.mit import MixVisionTransformer
from tests.reduction.methods import METHODS, pictures, tiny_vit


def mit(reduction, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MixVisionTransformer('b0', reduction=reduction).eval()


@pytest.fixture(scope='module')
def image():
    return pictures(2, (8, 6))[1:]


@pytest.mark.parametrize('method', METHODS, ids=str)
def test_every_layer_is_told_and_tokens_are_counted(method, image):
    found = tiny_vit(method.settings, grid=(8, 6)).watch(image)
    assert sorted({entry.layer for entry in found}) == [1, 2, 3, 4]
    assert min(entry.tokens for entry in found) < 48
    for entry in found:
        assert entry.groups.shape == (8, 6) and entry.patches == 48
        assert len(np.unique(entry.groups)) <= entry.tokens
        assert 1 <= entry.largest <= 48


@pytest.mark.parametrize('method', METHODS, ids=str)
@torch.no_grad()
def test_counts_are_those_of_the_trace(method, image):
    vit = tiny_vit(method.settings, grid=(8, 6))
    trace = vit.forward_tokens(image).trace
    for entry in vit.watch(image):
        if not entry.part:
            assert entry.tokens == trace[entry.layer - 1][0] - vit.num_prefix


@pytest.mark.parametrize('method', METHODS, ids=str)
@torch.no_grad()
def test_watching_leaves_the_result_and_the_random_state_alone(method, image):
    vit = tiny_vit(method.settings, grid=(8, 6))
    (before,) = vit(image)
    state = torch.random.get_rng_state()
    vit.watch(image)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(vit(image)[0], before)


def test_act_tells_the_clusters_of_hashes_that_are_drawn_anew(image):
    vit = tiny_vit(dict(type='ACT', q_hashes=8, bucket_width=2, redraw=True), grid=(8, 6))
    torch.manual_seed(1)
    first = vit.watch(image)
    assert [entry.part for entry in first[:2]] == ['head 1', 'head 2']
    assert any(not np.array_equal(a.groups, b.groups) for a, b in zip(first, vit.watch(image)))


@torch.no_grad()
def test_patches_of_a_group_get_one_feature(image):
    vit = tiny_vit(dict(type='ToMe', r=9), grid=(8, 6))
    (features,) = vit(image)
    groups = vit.watch(image)[-1].groups
    columns = features[0].flatten(1)
    for group in np.unique(groups):
        members = columns[:, torch.from_numpy((groups == group).ravel())]
        assert torch.equal(members, members[:, :1].expand_as(members))


def test_patches_that_evit_drops_share_the_fused_token_or_have_none(image):
    settings = dict(type='EViT', keep_rate=(0.7, 0.5), layers=(1, 3))
    fused = tiny_vit(settings, grid=(8, 6)).watch(image)
    assert [entry.tokens for entry in fused] == [35, 35, 19, 19]  # ceil(0.7 * 48) and one; ceil(0.5 * 35) and one
    assert fused[0].largest == 48 - 34 and (fused[0].groups == 34).sum() == 14
    alone = tiny_vit(settings | dict(fuse_token=False), grid=(8, 6)).watch(image)
    assert [int((entry.groups < 0).sum()) for entry in alone] == [14, 14, 31, 31]


def test_similarity_is_that_of_what_joined(image):
    low, high = (
        tiny_vit(dict(type='ALGM', layers=(1, 3), threshold=threshold), grid=(8, 6)).watch(image)[0].similarity
        for threshold in (-1, 0.6)
    )
    assert low[1] < 0.6 <= high[1] <= high[0]
    assert tiny_vit(None, grid=(8, 6)).watch(image)[0].similarity is None


def test_queries_and_keys_of_mit_are_told_where_they_merge():
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found = mit('bsm_hq').watch(image)
    assert [(entry.layer, entry.part) for entry in found] == [
        *((layer, 'keys') for layer in (1, 2, 3, 4)),
        *((layer, 'queries') for layer in (5, 6, 7, 8)),
    ]
    assert found[3].name == 'stage 2, block 2'
    keys, queries = found[0], found[4]
    assert keys.groups.shape == (2, 3) and keys.tokens == 6 - int(6 * 0.6)  # 16 x 24 patches, reduced 8-fold
    assert queries.groups.shape == (4, 6) and queries.tokens == 24 - int(24 * 0.8)
    assert all(len(np.unique(entry.groups)) == entry.tokens for entry in found)
    assert keys.similarity[1] <= keys.similarity[0]
    assert mit(None).watch(image) == []


def test_neighbours_of_mit_are_blocks():
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first = mit('n2d_2x2').watch(image)[0]
    blocks = np.arange(64).reshape(8, 8).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(first.groups, blocks) and first.similarity is None


@torch.no_grad()
def test_watching_mit_changes_nothing():
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = mit('bsm_fast')
    before, asked = network(image), network.reduction
    network.watch(image)
    assert network.reduction is asked
    assert all(torch.equal(a, b) for a, b in zip(before, network(image)))


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match='got a batch of 2'):
        tiny_vit().watch(pictures(2, (8, 8)))


def test_blocks_that_share_a_matching_show_the_same_groups():
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    stages = [None, None, dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4, share='stage'), None]
    first, second = mit(stages).watch(image)
    assert (first.layer, second.layer) == (5, 6)
    assert np.array_equal(first.groups, second.groups)
    assert first.similarity and second.similarity is None  # only the first compared anything
