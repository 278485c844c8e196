"""PiToMe: energies, both matchings, the schedule, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.pitome import PiToMe, energy, energy_matching, removed, similarities
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=30)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(metric: torch.Tensor, r: int, margin: float, matching: str) -> list[int]:
    """Places of the tokens of one image, (T, C) in float64."""
    u = torch.nn.functional.normalize(metric, dim=-1)
    s = u @ u.T
    e = torch.where(s > margin, s - margin, torch.exp(s - margin) - 1).mean(1)
    ranked = sorted(range(len(e)), key=lambda i: -e[i].item())
    candidates = ranked[: 2 * r] if matching == 'all' else ranked
    a, b = candidates[::2], candidates[1::2]
    best = {i: max(b, key=lambda j: s[i, j].item()) for i in a}
    gone = a if matching == 'all' else sorted(a, key=lambda i: -s[i, best[i]].item())[:r]
    stays = ranked[2 * r :] if matching == 'all' else sorted(a, key=lambda i: -s[i, best[i]].item())[r:]
    order = stays + b
    return [order.index(best[i] if i in gone else i) for i in range(len(e))]


@few
@given(
    tokens=st.integers(2, 24),
    part=st.floats(0.01, 1),
    margin=st.floats(-0.3, 0.9),
    matching=st.sampled_from(['all', 'bsm']),
    prefix=st.sampled_from([0, 1, 5]),
    seed=st.integers(0, 99),
)
def test_tokens_merge_by_energy_as_written(tokens, part, margin, matching, prefix, seed):
    metric, r = noise(2, prefix + tokens, 6, seed=seed).double(), max(int(part * (tokens // 2)), 1)
    merge = energy_matching(metric, r, margin, 1.0, matching, prefix)
    assert merge.lengths == (prefix + tokens - r,) * 2
    for image, index in zip(metric, merge.index):
        assert index[:prefix].tolist() == list(range(prefix))
        assert (index[prefix:] - prefix).tolist() == by_hand(image[prefix:], r, margin, matching)


def test_tokens_of_large_uniform_regions_have_the_greatest_energy():
    metric = torch.cat([torch.tensor([[1.0, 0.1]]).expand(6, 2), torch.tensor([[0.0, 1], [-1, 0]])])[None]
    found = energy(similarities(metric), 0.5)[0]
    assert found[:6].min() > found[6:].max()
    merge = energy_matching(metric, 2, 0.5)
    assert len(merge.index[0, 6:].unique()) == 2 and merge.index[0, 6:].max() < 4  # protected, and first in order


def test_nothing_to_remove_keeps_the_order():
    assert energy_matching(noise(1, 5, 3), 0, 0.5).index.tolist() == [list(range(5))]
    assert removed(196, 0.925) == 14 and removed(10, 1) == 0


@pytest.mark.parametrize(
    ('form', 'depth', 'bsm'),
    [
        ('bsm_first', 5, 'bbbaa'),
        ('all_first', 5, 'aaabb'),
        ('all', 2, 'aa'),
        ('bsm', 2, 'bb'),
        (['all', 'bsm'], 2, 'ab'),
    ],
)
def test_forms_of_the_layers(form, depth, bsm):
    method = PiToMe(form=form).bind(depth, (8, 8), 1)
    assert ''.join(method.matching_of(layer)[0] for layer in range(1, depth + 1)) == bsm


def test_a_share_of_the_present_tokens_leaves_every_layer():
    tokens = tiny_vit(dict(type='PiToMe', ratio=0.75)).forward_tokens(pictures(2, (8, 8)))
    assert tokens.trace == ((49, 49), (37, 37), (28, 28), (22, 22))


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        (dict(ratio=0.4), 'ratio must be a number at least 0.5 and at most 1, got 0.4'),
        (dict(ratio=1.1), 'ratio must .*got 1.1'),
        (dict(ratio='0.9'), "ratio must .*got '0.9'"),
        (dict(form='best'), "form must be one of .*'all'.*got 'best'"),
        (dict(form=['all', 'bsm']), r"form must list one entry for each of the 4 layers, got \('all', 'bsm'\)"),
        (dict(margin='0.5'), "margin must .*got '0.5'"),
        (dict(margin=[0.5]), 'margin must list one entry for each of the 4 layers'),
        (dict(alpha=-1), 'alpha must .*got -1'),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(setting, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(dict(type='PiToMe') | setting)


def test_a_form_over_the_depth_needs_the_depth():
    with pytest.raises(ConfigError, match='call bind'):
        PiToMe().matching_of(1)


def test_settings_that_merge_nothing_are_reported():
    with pytest.warns(UserWarning, match='PiToMe: ratio=1 merges none of 64 tokens'):
        tiny_vit(dict(type='PiToMe', ratio=1))
