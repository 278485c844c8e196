"""CubistMerge: lines, rectangles, what both of two sources leave, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.cubistmerge import CubistMerge, in_cut, join_lines, match_lines, merge_grid, merge_windows
from tests.parity.harness import golden_root
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=40)
lines = st.tuples(st.integers(1, 16), st.floats(0, 1), st.integers(0, 99))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(x: torch.Tensor, r: int) -> tuple[torch.Tensor, list[int]]:
    """A line of one image, (n, C), token by token."""
    n = len(x)
    cosine = [torch.cosine_similarity(x[i], x[i + 1], 0).item() for i in range(n - 1)] + [-2.0]
    best = {i: max((cosine[i - 1], 0), (cosine[i], -1)) for i in range(1, n, 2)}
    gone = sorted(best, key=lambda i: (-best[i][0], i))[:r]
    receiver = {i: i - 1 if best[i][1] == 0 else i + 1 for i in gone}
    merged = x.clone()
    for i in sorted(gone):
        target = merged[receiver[i]]
        merged[receiver[i]] = torch.where(x[i].abs() > target.abs(), x[i], target)
    kept = [i for i in range(n) if i not in gone]
    return merged[kept], [kept.index(receiver.get(i, i)) for i in range(n)]


@few
@given(lines)
def test_lines_merge_as_written(line):
    n, part, seed = line
    x, r = noise(3, n, 5, seed=seed), int(part * (n // 2))
    match = match_lines(x, r)
    merged, places = join_lines(x, match, r), match.places(n)
    for image, found, place in zip(x, merged, places):
        want, at = by_hand(image, r)
        assert torch.equal(found, want) and place.tolist() == at


@few
@given(h=st.integers(1, 9), w=st.integers(1, 9), part=st.floats(0, 1), prefix=st.sampled_from([0, 1]))
def test_a_rectangle_remains_in_which_rows_and_columns_keep_their_order(h, w, part, prefix):
    r = int(part * (h // 2)), int(part * (w // 2))
    merged, merge = merge_grid(noise(2, prefix + h * w, 4), (h, w), r, prefix)
    rows, columns = h - r[0], w - r[1]
    assert merged.shape == (2, prefix + rows * columns, 4)
    places = (merge.index[:, prefix:] - prefix).view(2, h, w)
    assert all(len(image.unique()) == rows * columns for image in places)  # no token is empty
    assert (places % columns).diff(dim=2).ge(0).all()  # in a row, a later patch is never further left
    assert merged.shape[1] == merge.lengths[0] == merge.index.max() + 1


@few
@given(h=st.integers(1, 11), w=st.integers(1, 11), window=st.tuples(st.integers(2, 5), st.integers(2, 5)))
def test_windows_merge_inside_themselves(h, w, window):
    x, r = noise(2, h * w, 4), tuple(side // 2 for side in window)
    merged, merge, (rows, columns) = merge_windows(x, (h, w), window, r)
    assert merged.shape == (2, rows * columns, 4) and sorted(set(merge.index[0].tolist())) == list(
        range(rows * columns)
    )
    x, index = x.unflatten(1, (h, w)), merge.index.unflatten(1, (h, w))
    for top in range(0, h, window[0]):
        for left in range(0, w, window[1]):
            area, found = (part[:, top : top + window[0], left : left + window[1]] for part in (x, index))
            size = tuple(area.shape[1:3])
            less = tuple(gone if side == whole else in_cut(side, gone, whole)
                         for side, gone, whole in zip(size, r, window))  # fmt: skip
            want, alone = merge_grid(area.flatten(1, 2), size, less)
            patches = merged.gather(1, found.flatten(1)[..., None].expand(-1, -1, 4))
            assert torch.equal(patches, want.gather(1, alone.index[..., None].expand(-1, -1, 4)))
            assert len(found[0].unique()) == want.shape[1]


@few
@given(h=st.integers(1, 7), w=st.integers(1, 7), part=st.floats(0, 1), prefix=st.sampled_from([0, 1, 5]))
def test_rows_merge_first_and_then_columns_of_what_is_left(h, w, part, prefix):
    r_h, r_w = int(part * (h // 2)), int((1 - part) * (w // 2))
    x = noise(2, prefix + h * w, 5, seed=h * w)
    merged, merge = merge_grid(x, (h, w), (r_h, r_w), prefix)
    for image, found, index in zip(x, merged, merge.index):
        rows = [by_hand(row, r_w) for row in image[prefix:].unflatten(0, (h, w))]
        columns = [by_hand(torch.stack([row[j] for row, _ in rows]), r_h) for j in range(w - r_w)]
        want = torch.stack([column for column, _ in columns], 1).flatten(0, 1)
        places = [columns[rows[i][1][j]][1][i] * (w - r_w) + rows[i][1][j] for i in range(h) for j in range(w)]
        assert torch.equal(found, torch.cat([image[:prefix], want]))
        assert index.tolist() == [*range(prefix), *(prefix + place for place in places)]


def test_constant_lines_change_nothing_but_their_length():
    x = torch.ones(1, 1, 3).expand(2, 9, 3)
    assert torch.equal(join_lines(x, match_lines(x, 4), 4), x[:, :5])


def test_a_receiver_of_two_sources_sees_both_and_in_the_published_form_one():
    x = torch.tensor([[[1.0, 0, 0], [1, 0, -3], [1.01, 0, -1], [1, 2, -0.5], [0, 2, 9]]])
    x[0, 1], x[0, 3] = torch.tensor([1.0, 0, -1.5]), torch.tensor([1.0, 0.5, -1])
    match = match_lines(x, 2)
    assert match.goes.all() and match.right.tolist() == [[True, False]]
    both = join_lines(x, match, 2)[0, 1].tolist()
    assert both == pytest.approx([1.01, 0.5, -1.5])
    assert join_lines(x, match, 2, 'published')[0, 1].tolist() != both


@pytest.mark.skipif(not (golden_root() / 'cubistmerge').is_dir(), reason='no golden data of family cubistmerge')
def test_the_published_form_loses_what_the_published_code_loses_on_a_cpu():
    folder = golden_root() / 'cubistmerge'
    found = 0
    for entry in json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))['cases']:
        if 'merged_published' in entry['arrays']:
            with np.load(folder / entry['file']) as file:
                x, want = torch.from_numpy(file['x']), torch.from_numpy(file['merged_published'])
            s = entry['settings']
            if entry['kind'] == 'rectangle':
                got = merge_grid(x, tuple(s['grid']), (s['r_h'], s['r_w']), s['num_prefix'], 'published')[0]
            else:
                got = join_lines(x, match_lines(x, s['r']), s['r'], 'published')
            torch.testing.assert_close(got, want)
            found += 1
    assert found


def test_tokens_know_their_rectangle_until_something_else_merges():
    vit = tiny_vit(dict(type='CubistMerge', layer=2, r=(1, 2)))
    tokens = vit.forward_tokens(pictures(2, (8, 8)))
    assert tokens.rectangle == (7, 6) and tokens.trace == ((65, 65), *[(43, 43)] * 3)
    assert tokens.keep(torch.zeros(2, 1, dtype=torch.long)).rectangle is None
    assert tokens.restored().rectangle is None


def test_amounts_follow_other_grids():
    vit = tiny_vit(dict(type='CubistMerge', layer=1, r=3))
    assert vit.forward_tokens(pictures(1, (4, 8))).rectangle == (2, 5)
    assert CubistMerge(ratio=0.25).removed((14, 10)) == (4, 2)  # half to even


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        (dict(layer=0), 'layer must .*got 0'),
        (dict(layer=5), 'layer must .*from 1 to 4.*got 5'),
        (dict(r=5), r'r must be at most half of the sides of grid \(8, 8\), got \(5, 5\)'),
        (dict(r=(1, 2, 3)), 'r must be'),
        (dict(r=-1), 'r must be'),
        (dict(r=1.5), 'r must be'),
        (dict(r=1, ratio=0.2), 'one of r and ratio'),
        (dict(ratio=0.6), 'ratio must .*got 0.6'),
        (dict(collisions='lose'), "collisions must be one of 'keep', 'published'"),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(setting, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(dict(type='CubistMerge') | setting)
