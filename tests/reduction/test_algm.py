"""ALGM's two merges against loops written from the paper, and the cases at their edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.algm import automatic_threshold, global_merge, local_merge, window_similarity
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=30)
windows = st.sampled_from([(2, 2), (2, 3), (1, 2), (3, 1), (4, 4)])
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))
prefixes = st.sampled_from([0, 1, 2, 5])


def random_tokens(batch: int, count: int, seed: int, channels: int = 6) -> torch.Tensor:
    """Tokens with directions in common, so that some are alike and some are not."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(batch, 1, channels, generator=generator, dtype=torch.float64)
    return common + torch.randn(batch, count, channels, generator=generator, dtype=torch.float64)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def patches_of_windows(grid: tuple[int, int], window: tuple[int, int]) -> list[list[int]]:
    """Raster indices of the patches in every window, windows in raster order."""
    (h, w), (wh, ww) = grid, window
    corners = [(y, x) for y in range(0, h - wh + 1, wh) for x in range(0, w - ww + 1, ww)]
    return [[(y + dy) * w + x + dx for dy in range(wh) for dx in range(ww)] for y, x in corners]


def mean_pairwise(tokens: torch.Tensor) -> float:
    n = len(tokens)
    return sum(cosine(tokens[i], tokens[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))


@few
@given(grid=grids, window=windows, prefix=prefixes, seed=st.integers(0, 99), threshold=st.floats(-1, 1))
def test_local_merge_is_the_papers(grid, window, prefix, seed, threshold):
    if window[0] > grid[0] or window[1] > grid[1]:
        return
    x = random_tokens(1, prefix + grid[0] * grid[1], seed)
    members = patches_of_windows(grid, window)
    similarity = [mean_pairwise(x[0, [prefix + m for m in patch]]) for patch in members]
    merge = local_merge(x, grid, window, threshold, prefix)
    torch.testing.assert_close(window_similarity(x, grid, window, prefix)[0].tolist(), similarity)
    joined = sorted((k for k, s in enumerate(similarity) if s >= threshold), key=lambda k: -similarity[k])
    order = [[p] for p in range(prefix)] + [[prefix + m for m in members[k]] for k in joined]
    taken = {place for group in order for place in group}
    order += [[p] for p in range(prefix, x.shape[1]) if p not in taken]
    assert merge.lengths == (len(order),)
    merged, size = merge.apply(x, None, (x.shape[1],))
    torch.testing.assert_close(merged[0], torch.stack([x[0, group].mean(0) for group in order]))
    assert size[0].tolist() == [len(group) for group in order]


@few
@given(count=st.integers(1, 30), prefix=prefixes, seed=st.integers(0, 99), layer=st.integers(2, 12))
def test_global_merge_is_the_papers(count, prefix, seed, layer):
    x = random_tokens(1, prefix + count, seed)
    size = torch.randint(1, 5, x.shape[:2], generator=torch.Generator().manual_seed(seed)).double()
    a, b = list(range(0, x.shape[1], 2)), list(range(1, x.shape[1], 2))
    free_a, free_b = [i for i in a if i >= prefix], [j for j in b if j >= prefix]
    best = {i: max((cosine(x[0, i], x[0, j]), -j) for j in free_b) for i in free_a} if free_b else {}
    counted = [best[i][0] for i in free_a if i != 0 and i in best]
    theta = math.nan
    if len(counted) > 1:
        mean, deviation = automatic_threshold(torch.tensor([counted], dtype=torch.float64), layer)
        theta = float(mean + deviation)
    sources = {i: -best[i][1] for i in best if best[i][0] >= theta}
    kept = [i for i in a if i not in sources]
    if not prefix:
        kept.sort(key=lambda i: -best[i][0] if best else 0)
    order = list(range(prefix)) + [i for i in kept if i >= prefix] + free_b
    groups = [[p] + [i for i, j in sources.items() if j == p] for p in order]
    tokens = Tokens(x, (1, count), prefix, size=size)
    found = tokens.merge(global_merge(tokens, layer), layer)
    weighted = [(x[0, g] * size[0, g, None]).sum(0) / size[0, g].sum() for g in groups]
    torch.testing.assert_close(found.x[0], torch.stack(weighted))
    torch.testing.assert_close(found.size[0], torch.stack([size[0, g].sum() for g in groups]))


def test_threshold_above_one_merges_no_window():
    x = torch.ones(2, 17, 4)  # all alike
    assert local_merge(x, (4, 4), (2, 2), 1.01).lengths == (17, 17)
    assert local_merge(x, (4, 4), (2, 2), 0.99).lengths == (5, 5)


def test_threshold_of_minus_one_merges_every_window():
    assert local_merge(random_tokens(2, 17, 0), (4, 4), (2, 2), -1).lengths == (5, 5)


def test_patches_outside_every_window_stay_alone_in_raster_order():
    merge = local_merge(random_tokens(1, 15, 0), (3, 5), (2, 2), -1, num_prefix=0)
    assert merge.index[0, [4, 9, 10, 11, 12, 13, 14]].tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_first_merge_averages_the_patches_it_joins():
    vit, seen = tiny_vit(dict(type='ALGM', layers=(1,), threshold=-1)), []
    after_attention = vit.reduction.after_attention

    class Watched(type(vit.reduction)):
        def after_attention(self, tokens, layer, given):
            seen.append((tokens, after_attention(tokens, layer, given)))
            return seen[-1][1]

    vit.reduction = Watched(layers=(1,), threshold=-1)
    vit(pictures(2, (8, 8)))
    before, after = seen[0]
    for patches, merged, index in zip(before.patches().x, after.patches().x, after.index):
        for place, token in enumerate(merged):
            torch.testing.assert_close(token, patches[index == place].mean(0))


@pytest.mark.parametrize('batch', ['per_image', 'joint'])
def test_zero_vectors_are_like_nothing(batch):
    x = torch.zeros(2, 17, 4)
    assert window_similarity(x, (4, 4), (2, 2)).eq(0).all()
    assert local_merge(x, (4, 4), (2, 2), 0.1, batch=batch).lengths == (17, 17)
    tokens = Tokens(x, (4, 4), 1)
    merged = tokens.merge(global_merge(tokens, 5, batch), 5)
    assert merged.x.isfinite().all()


def test_equal_similarities_are_taken_from_the_lower_index_on():
    x = torch.ones(1, 17, 4)
    merge = local_merge(x, (4, 4), (2, 2), 0.5)
    assert merge.index.tolist() == [[0, 1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]]


def test_joint_global_merge_takes_the_mean_threshold_and_the_least_count():
    x = torch.cat([random_tokens(1, 21, 0), random_tokens(1, 21, 1) * 3 + 2])
    tokens = Tokens(x, (4, 5), 1)
    merge = global_merge(tokens, 5, 'joint')
    score = torch.cat(merge.similarity)[:, 1:]
    mean, deviation = automatic_threshold(score, 5)
    counts = (score >= mean.mean() + deviation.mean()).sum(1)
    assert merge.lengths == (21 - int(counts.min()),) * 2
    assert len(set(counts.tolist())) == 2  # or this would show nothing


@pytest.mark.parametrize('prefix', [0, 1, 2, 5])
def test_an_image_down_to_its_last_token_does_not_stop_its_batch_mates(prefix):
    flat, busy = torch.ones(1, 4, 6, dtype=torch.float64), random_tokens(1, 40, 0)
    special = random_tokens(1, prefix, 1)
    last = Tokens(torch.cat([special, flat[:, :1]], 1), (2, 2), prefix, size=torch.full((1, prefix + 1), 4.0))
    mate = Tokens(torch.cat([special, busy], 1), (5, 8), prefix)
    packed = Tokens(torch.cat([last.x, mate.x], 1), (1, 1), prefix, lengths=(prefix + 1, prefix + 40))
    together, alone = global_merge(packed, 5), global_merge(mate, 5)
    assert together.lengths == (prefix + 1, *alone.lengths)
    assert alone.lengths[0] < prefix + 40


def test_tokens_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(ValueError, match='17 tokens do not fill a grid of 4 x 5'):
        window_similarity(torch.ones(1, 17, 4), (4, 5), (2, 2))


def test_later_layers_merge_globally_and_number_in_the_threshold():
    tokens = tiny_vit(dict(type='ALGM', layers=(1, 2, 4), threshold=0.7)).forward_tokens(pictures(1, (8, 8)))
    assert [step.layer for step in tokens.steps] == [1, 2, 4]
    assert [len(counts) for counts in tokens.trace] == [1, 1, 1, 1]
    assert tokens.trace[0] > tokens.trace[1] == tokens.trace[2] > tokens.trace[3]


def test_counts_that_an_image_chose_itself_give_the_same_result():
    settings = dict(type='ALGM', layers=(1, 3), window=(2, 2), threshold=0.7)
    image = pictures(1, (8, 8), seed=3)
    chosen = tiny_vit(settings).forward_tokens(image)
    before, *after = (65, *(step.merge.lengths[0] for step in chosen.steps))
    counts = ((before - after[0]) // 3, after[0] - after[1])
    assert min(counts) > 0
    fixed = tiny_vit(dict(settings, counts=counts)).forward_tokens(image)
    assert torch.equal(fixed.x, chosen.x) and torch.equal(fixed.index, chosen.index)


def test_counts_are_the_same_for_every_image_and_follow_the_grid():
    counted = dict(type='ALGM', layers=(1, 3), window=(2, 2), counts=(6, 5))
    vit = tiny_vit(counted)
    assert vit.forward_tokens(pictures(3, (8, 8))).trace == ((47,) * 3, (47,) * 3, (42,) * 3, (42,) * 3)
    assert vit.forward_tokens(pictures(2, (8, 16))).counts == (129 - 36 - 10,) * 2


@pytest.mark.parametrize(
    ('counts', 'said'),
    [((6,), 'counts must hold .*layers'), ((6, -1), r'counts must .*got \(6, -1\)'), (6, 'counts must .*got 6'),
     ((17, 2), 'counts must join at most the 16 windows')],
)  # fmt: skip
def test_counts_that_cannot_be_are_refused(counts, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(dict(type='ALGM', layers=(1, 3), counts=counts))
