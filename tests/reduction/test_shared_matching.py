"""SharedMatching: which patches merge inside attention, how long a matching is used, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmseg_tr
from mmseg_tr.analysis.tokens import attention_sizes
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.timm import VisionTransformer
from mmseg_tr.nn.attention import SelfAttention
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.observe import AttentionInput
from mmseg_tr.reduction.ops import seeded_uniform
from mmseg_tr.reduction.shared_matching import SharedMatching, gradient, region_matching
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=40)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def groups_by_hand(y: torch.Tensor, cost: list[float], grid, region, r: int) -> set[frozenset[int]]:
    """Which patches of one image share a token, patch by patch. y: (h*w, C) in float64."""
    h, w = grid
    regions: dict[tuple[int, int], list[int]] = {}
    for patch in range(h * w):
        regions.setdefault((patch // w // region[0], patch % w // region[1]), []).append(patch)
    destinations = [min(members, key=lambda patch: (cost[patch], patch)) for members in regions.values()]
    cosine = torch.cosine_similarity(y[:, None], y[None], dim=-1)
    best = {}
    for source in set(range(h * w)) - set(destinations):
        partner = max(destinations, key=lambda place: cosine[source, place].item())
        best[source] = cosine[source, partner].item(), partner
    gone = sorted(best, key=lambda source: -best[source][0])[:r]
    members = {patch: {patch} for patch in range(h * w) if patch not in gone}
    for source in gone:
        members[best[source][1]].add(source)
    return {frozenset(group) for group in members.values()}


def sobel_by_hand(features: torch.Tensor) -> torch.Tensor:
    """(h, w) from (C, h, w): mean over channels of the magnitude."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=features.dtype)
    padded = torch.nn.functional.pad(features[:, None], (1, 1, 1, 1), mode='replicate')
    parts = [torch.nn.functional.conv2d(padded, kernel[None, None]) for kernel in (across, across.T)]
    return (parts[0] ** 2 + parts[1] ** 2).sqrt().mean(0)[0]


@few
@given(
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    region=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    part=st.floats(0, 1),
    prefix=st.sampled_from([0, 1, 5]),
    destinations=st.sampled_from(['place', 'random', 'gradient']),
    seed=st.integers(0, 99),
)
def test_sources_go_to_the_most_similar_destination_as_written(grid, region, part, prefix, destinations, seed):
    count = grid[0] * grid[1]
    y = noise(2, prefix + count, 6, seed=seed).double()
    costs = dict(
        place=torch.zeros(1, count),
        random=seeded_uniform(count, seed),
        gradient=torch.stack([sobel_by_hand(image[prefix:].T.unflatten(1, grid)).flatten() for image in y]),
    )
    if destinations == 'gradient':
        torch.testing.assert_close(gradient(y[:, prefix:], grid), costs['gradient'])
    cost = costs[destinations]
    r = int(part * (count - -(-grid[0] // region[0]) * -(-grid[1] // region[1])))
    merge = region_matching(y, cost, grid, region, r, prefix)
    assert merge.lengths == (prefix + count - r,) * 2
    for image, index, own in zip(y, merge.index, cost.expand(2, -1)):
        assert index[:prefix].tolist() == list(range(prefix))
        places = (index[prefix:] - prefix).tolist()
        found = {frozenset(i for i, at in enumerate(places) if at == place) for place in set(places)}
        assert found == groups_by_hand(image[prefix:], own.tolist(), grid, region, r)
        assert set(places) == set(range(count - r))


@torch.no_grad()
def test_attention_runs_on_plain_means_of_queries_keys_and_values_and_every_token_gets_its_result():
    vit = tiny_vit(dict(type='SharedMatching', r=20), prefix=1)
    look = AttentionInput(vit.reduction, 3)
    vit.forward_tokens(pictures(2, (8, 8)), reduction=look)
    attend, y = SelfAttention(vit.blocks[2].attn), look.y
    merge, decided = vit.reduction.matched(y, look.tokens, 3)
    assert decided
    member = (merge.index[:, None] == torch.arange(65 - 20)[:, None]).float()  # (B, T', T)
    mean = (member / member.sum(-1, keepdim=True))[:, None]
    ((q, k, v),) = attend.heads(y, look.tokens)
    out = torch.nn.functional.scaled_dot_product_attention(mean @ q, mean @ k, mean @ v)
    want = vit.blocks[2].attn.proj((member.mT[:, None] @ out).transpose(1, 2).flatten(2))
    found, _ = vit.reduction.attention(attend, y, look.tokens, 3)
    torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-5)


class Matchings(AttentionInput):
    """The matching that comes with the tokens into every layer."""

    def attention(self, attend, y, tokens, layer):
        self.found = [*getattr(self, 'found', []), tokens.memo]
        return super().attention(attend, y, tokens, layer)


@torch.no_grad()
def test_a_matching_serves_match_every_of_the_chosen_layers_and_travels_with_the_tokens():
    vit = tiny_vit(dict(type='SharedMatching', layers=(1, 2, 3, 5, 6), match_every=3), depth=7)
    look = Matchings(vit.reduction, 1)
    tokens = vit.forward_tokens(pictures(2, (8, 8)), reduction=look)
    first, second = look.found[1], tokens.memo
    assert look.found[0] is None and all(memo is first for memo in look.found[1:5])  # layer 5 decides anew
    assert look.found[5] is second and look.found[6] is second and second is not first
    assert tokens.trace == ((65, 65),) * 7 and tokens.index is None
    sizes = attention_sizes(vit, pictures(2, (8, 8)))
    assert [size.queries for size in sizes] == [17, 17, 17, 65, 17, 17, 65]
    assert [size.keys for size in sizes] == [size.queries for size in sizes]


@torch.no_grad()
def test_pictures_name_the_similarity_only_where_a_matching_is_decided():
    found = tiny_vit(dict(type='SharedMatching', match_every=2)).watch(pictures(1, (8, 8)))
    inside = [entry for entry in found if entry.part == 'attention']
    assert [entry.tokens for entry in inside] == [16] * 4
    assert [entry.similarity is None for entry in inside] == [False, True, False, True]
    assert (inside[0].groups == inside[1].groups).all()


@torch.no_grad()
def test_a_host_hands_the_matching_on_whether_or_not_something_looks_between_blocks():
    torch.manual_seed(0)
    settings = dict(match_every=3, r=0.4)
    net = (
        VisionTransformer(img_size=32, patch_size=4, embed_dim=16, depth=3, num_heads=2, num_classes=3).double().eval()
    )
    image, results = pictures(2, (8, 8), dtype=torch.float64), []
    for every in (3, 1):
        mmseg_tr.apply(net, 'SharedMatching', **(settings | dict(match_every=every)))
        results.append(net(image))
        hook = net.blocks[1].register_forward_hook(lambda *_: None)  # tokens then travel as an attribute
        torch.testing.assert_close(net(image), results[-1])
        hook.remove()
        mmseg_tr.remove(net)
    assert not torch.allclose(*results)
    mmseg_tr.apply(net, 'SharedMatching', **settings)
    change = net.blocks[0].register_forward_hook(lambda module, args, out: out + 0.0)  # another tensor: decided anew
    assert net(image).isfinite().all()
    change.remove()


@torch.no_grad()
def test_draws_repeat_and_depend_on_the_seed_alone():
    images = pictures(2, (8, 8))
    results = [tiny_vit(dict(type='SharedMatching', destinations='random', seed=s))(images)[0] for s in (0, 0, 1)]
    assert torch.equal(results[0], results[1]) and not torch.allclose(results[0], results[2])


def test_amounts_are_numbers_fractions_or_all_sources_and_numbers_follow_the_grid():
    def amount(grid, **settings):
        return SharedMatching(**settings).bind(4, (8, 8), 1).amount(grid)

    assert amount((8, 8)) == 48 and amount((7, 5)) == 35 - 4 * 3
    assert amount((8, 8), r=0.9) == 48 and amount((8, 8), r=0.3) == 19
    assert amount((4, 4), r=20) == 5 and amount((16, 16), r=20) == 80


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        (dict(region=(9, 2)), r'region must be at most the patch grid \(8, 8\), got \(9, 2\)'),
        (dict(region=0), 'region must .*got'),
        (dict(region=(2, 2, 2)), 'region must be'),
        (dict(layers=(1, 5)), 'layers.*from 1 to 4.*got 5'),
        (dict(layers=()), 'layers must name at least one layer'),
        (dict(match_every=0), 'match_every must be a positive integer, got 0'),
        (dict(destinations='best'), "destinations must be one of 'place', 'random', 'gradient', got 'best'"),
        (dict(r=49), r'r must be at most the 48 sources of the grid \(8, 8\), got 49'),
        (dict(r=1.5), 'r must be .*got 1.5'),
        (dict(r=True), 'r must be .*got True'),
        (dict(seed=-1), 'seed must be a non-negative integer, got -1'),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(setting, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(dict(type='SharedMatching') | setting)


@pytest.mark.parametrize('setting', [dict(region=1), dict(r=0), dict(r=0.01)], ids=str)
def test_settings_that_merge_nothing_are_reported(setting):
    with pytest.warns(UserWarning, match='SharedMatching: .* merges none of 64 tokens'):
        tiny_vit(dict(type='SharedMatching') | setting)


@torch.no_grad()
def test_gated_attention_gates_every_token_by_itself():
    attn, y = tiny_vit().blocks[0].attn, noise(1, 65, 16)
    tokens, method = Tokens(y, (8, 8), 1), SharedMatching()
    plain, merge = method.attention(SelfAttention(attn), y, tokens, 1)
    attn.gate, proj = torch.nn.Linear(16, 16), attn.proj
    gated, _ = method.attention(SelfAttention(attn), y, tokens, 1)
    heads = (plain - proj.bias) @ torch.linalg.inv(proj.weight).T
    torch.testing.assert_close(gated, proj(heads * attn.gate(y).sigmoid()), atol=1e-4, rtol=1e-3)
    assert len(merge.index.unique()) == 17
