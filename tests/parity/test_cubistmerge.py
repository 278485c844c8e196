"""Golden family `cubistmerge`: lines, rectangles and amounts alone, in a patched ViT and in a rotary network."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor

import mmseg_tr
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.cubistmerge import CubistMerge, join_lines, lost, match_lines, merge_grid
from mmseg_tr.reduction.ops import take, unit
from tests.parity.harness import Case, golden_cases, run_case
from tests.parity.networks import compare_classifier
from tests.parity.rope import RotaryNetwork, rotary_host

FAMILY = 'cubistmerge'


def line_matching(case: Case) -> None:
    x, r = case.take('x'), case.settings['r']
    u = unit(x)
    case.compare('scores', (u[:, :-1] * u[:, 1:]).sum(-1))
    match = match_lines(x, r)
    gone = match.rank.argsort(dim=1)[:, :r]
    case.compare('src_idx', 2 * gone + 1)
    case.compare('dst_idx', 2 * (gone + match.right.long().gather(1, gone)))
    places = match.places(x.shape[1])
    case.compare('token_map', places)
    merged = join_lines(x, match, r)
    case.compare('merged', merged)
    case.compare('unmerged', take(merged, places))
    compare_published(case, join_lines(x, match, r, 'published'))


def rectangle(case: Case) -> None:
    s, x = case.settings, case.take('x')
    grid, r = tuple(s['grid']), (s['r_h'], s['r_w'])
    merged, merge = merge_grid(x, grid, r, s['num_prefix'])
    case.compare('merged', merged)
    case.compare('token_map', merge.index)
    case.compare('grid_out', np.array([side - gone for side, gone in zip(grid, r, strict=True)]))
    case.compare('unmerged', merge.unmerge(merged, (x.shape[1],) * len(x)))
    compare_published(case, merge_grid(x, grid, r, s['num_prefix'], 'published')[0])


def compare_published(case: Case, merged: Tensor) -> None:
    """What the authors' code loses depends on the device and on unstable sorts: it is shown, not held against."""
    if 'merged_published' in case:
        published = case.take('merged_published')
        print(f'{case.name}: published form differs by {(merged - published).abs().max():.3g}')


def budget(case: Case) -> None:
    sides, ratios = (case.take(name).tolist() for name in ('side', 'ratio_percent'))
    case.compare('removed', np.array([lost(side, ratio / 100) for side, ratio in zip(sides, ratios, strict=True)]))


def reduction(settings: dict) -> dict:
    """CubistMerge as a case asks for it."""
    if settings.get('r_is_ratio'):
        return dict(type='CubistMerge', layer=settings['layer'], ratio=settings['r'])
    return dict(type='CubistMerge', layer=settings['layer'], r=(settings['r_h'], settings['r_w']))


def compare_decisions(case: Case, entered: dict[int, Tokens], left: dict[int, Tokens]) -> None:
    merging = entered[case.settings['layer']]
    case.compare('merged', merging.x)
    case.compare('token_counts', np.array([tokens.counts[0] for tokens in left.values()]))
    if merging.index is not None:
        case.compare('assign', merging.index)
    case.compare('grid_out', np.array(merging.rectangle or merging.grid))


def network(case: Case) -> None:
    record, _ = compare_classifier(case, reduction(case.settings))
    compare_decisions(case, record.entered, record.left)


def rope_network(case: Case) -> None:
    """A DINOv3-like network, whose positions are those of the smaller grid after the merge."""
    s, image = case.settings, case.take('image')
    eva, weights = s['eva'], load_file(case.folder / s['weights'])
    assert s['rope']['kind'] == 'dinov3', s['rope']
    net = RotaryNetwork(weights, eva['depth'], eva['heads'], eva['patch'], s['layernorm_eps'], s['rope'])
    given = {key: value for key, value in reduction(s).items() if key != 'type'}
    method = CubistMerge(**given).bind(eva['depth'], tuple(s['grid']), s['num_prefix'])
    case.expect('r_h, r_w', method.removed(tuple(s['grid'])), (s['r_h'], s['r_w']))
    entered, left = net.run(image, method)
    compare_decisions(case, entered, left)
    for layer, tokens in left.items():
        case.compare(f'block{layer}', tokens.x)
        if layer in s['levels']:
            level = net.norm(tokens.restored().x)
            case.compare(f'prefix{layer}', level[:, : tokens.num_prefix])
            case.compare(f'level{layer}', level[:, tokens.num_prefix :].transpose(1, 2).unflatten(2, tokens.grid))
    if s['rope']['normalise'] == 'separate':  # as in timm's Eva, which hosts the method too
        model = mmseg_tr.apply(rotary_host(s, weights), method)
        levels = model.forward_intermediates(
            image, [layer - 1 for layer in s['levels']], norm=True, return_prefix_tokens=True, intermediates_only=True
        )
        for layer, (level, prefix) in zip(s['levels'], levels, strict=True):
            case.compare(f'prefix{layer}', prefix)
            case.compare(f'level{layer}', level)


KINDS = {
    'line_matching': line_matching,
    'rectangle': rectangle,
    'budget': budget,
    'network': network,
    'rope_network': rope_network,
}


@pytest.mark.filterwarnings('ignore:CubistMerge')
@pytest.mark.parametrize('case', golden_cases(FAMILY))
def test_cubistmerge(case):
    run_case(FAMILY, *case, KINDS)
