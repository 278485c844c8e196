"""Golden family `pitome`: the matching alone, its schedule, in a patched ViT and in Segmenter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmseg_tr.reduction import Merge, build_reduction
from mmseg_tr.reduction.pitome import PiToMe, energy, energy_matching, removed, similarities
from tests.parity.harness import Case, golden_cases, run_case
from tests.parity.networks import Recording, assigned, compare_classifier, compare_segmenter, token_map

FAMILY = 'pitome'


def lengths(x: Tensor) -> tuple[int, ...]:
    return (x.shape[1],) * len(x)


def ranks(energies: Tensor) -> Tensor:
    return energies.argsort(dim=1, descending=True, stable=True)


def compare_merged(case: Case, merge: Merge, x: Tensor, size: Tensor) -> None:
    for mode in ('mean', 'sum', 'amax', 'amin'):
        case.compare(f'merged_{mode}', merge.reduce(x, lengths(x), mode))
    for name, given in (('wavg', None), ('wavg_sized', size)):
        averaged, sizes = merge.apply(x, given, lengths(x))
        case.compare(name, averaged)
        case.compare(f'{name}_size', sizes[..., None])


def energy_matching_case(case: Case) -> None:
    s, x, given = case.settings, case.take('x'), case.take('metric')
    size, num_prefix, form = case.take('size_in')[..., 0], s['num_prefix'], s['form']
    r = removed(x.shape[1] - num_prefix, s['ratio'])
    case.compare('r', np.array([r]))
    case.expect('r', r, s['r'])
    for metric in (given, given.double()):  # decisions hold in float64 too
        found = energy(similarities(metric[:, num_prefix:]), s['margin'], s['alpha'])
        case.compare('energy', found, f64=metric.dtype == torch.float64)
        order = ranks(found) + num_prefix
        case.compare('order', order)
        merge = energy_matching(metric, r, s['margin'], s['alpha'], form, num_prefix)
        case.compare('token_map', merge.index)
        candidates = order[:, : 2 * r] if form == 'all' else order
        sources, receivers = candidates[:, ::2], candidates[:, 1::2]
        if form == 'bsm':
            case.compare('node_max', merge.similarity[0])
            sources = sources.gather(1, ranks(merge.similarity[0])[:, :r])
        case.compare('src_idx', sources)
        at_place = torch.zeros_like(merge.index).scatter(1, merge.index.gather(1, receivers), receivers)
        case.compare('dst_idx', at_place.gather(1, merge.index.gather(1, sources)))
        compare_merged(case, merge, x, size)


def schedule(case: Case) -> None:
    depths, tokens, ratios = (case.take(name).tolist() for name in ('depth', 'tokens', 'ratio_permille'))
    width = case.arrays['removed'].shape[1]
    gone, margins, first = (np.full((len(depths), width), -1, dtype) for dtype in (np.int32, np.float32, np.int32))
    for row, (depth, left, ratio) in enumerate(zip(depths, tokens, ratios, strict=True)):
        method = PiToMe(ratio / 1000).bind(depth, (1, left), 1)
        for layer in range(1, depth + 1):
            gone[row, layer - 1] = removed(left, method.ratio)
            left -= gone[row, layer - 1]
            margins[row, layer - 1] = method.margin_of(layer)
            first[row, layer - 1] = method.matching_of(layer) == 'bsm'
    case.compare('removed', gone)
    case.compare('margin', margins)
    case.compare('bsm_first', first)


def reduction(settings: dict) -> dict:
    """PiToMe as a case asks for it: the effective forms and margins, which the named form has too."""
    forms = ['bsm' if bsm else 'all' for bsm in settings['bsm_per_layer']]
    given = dict(type='PiToMe', ratio=settings['ratio'], alpha=settings['alpha'])
    if settings.get('order') in PiToMe.FORMS:
        named = build_reduction(given | dict(form=settings['order'], margin=settings['margin_per_layer'][0]))
        named = named.bind(len(forms), (99, 99), 1)
        assert [named.matching_of(layer) for layer in range(1, len(forms) + 1)] == forms
    return given | dict(form=forms, margin=settings['margin_per_layer'])


def compare_decisions(case: Case, record: Recording) -> None:
    s, last, method = case.settings, record.left[max(record.left)], record.method
    counts = [tokens.counts[0] for tokens in record.left.values()]
    case.compare('token_counts', np.array(counts))
    start = last.num_prefix + last.grid[0] * last.grid[1]
    case.expect('r_per_layer', (-np.diff(counts, prepend=start)).tolist(), s['r_per_layer'])
    for layer, keys in record.seen.items():
        if keys is not None:
            similarity = similarities(keys.mean(1)[:, last.num_prefix :])
            case.compare(f'energy{layer}', energy(similarity, method.margin_of(layer), method.alpha))
    for layer, places in assigned(record).items():
        case.compare(f'assign_layer{layer}', places)
    if last.index is not None:
        case.compare('assign', last.index)
        case.compare('token_map', token_map(last))


def network(case: Case) -> None:
    record, tokens = compare_classifier(case, reduction(case.settings))
    compare_decisions(case, record)
    case.compare('size', tokens.size[..., None])


def segmenter_network(case: Case) -> None:
    record, tokens = compare_segmenter(case, reduction(case.settings))
    compare_decisions(case, record)
    case.compare('size', tokens.size)


KINDS = {
    'energy_matching': energy_matching_case,
    'schedule': schedule,
    'network': network,
    'segmenter_network': segmenter_network,
}


@pytest.mark.filterwarnings('ignore:PiToMe')
@pytest.mark.parametrize('case', golden_cases(FAMILY))
def test_pitome(case):
    run_case(FAMILY, *case, KINDS)
