"""Golden family `mpm`: mutual pairs alone, twice, in a patched ViT and in Segmenter, against the published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmseg_tr.checkpoints import load_official
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.mpm import MPM, mutual_merge, nearest
from tests.parity.harness import Case, golden_cases, run_case
from tests.parity.networks import Recording, assigned, compare_classifier, compare_segmenter

FAMILY = 'mpm'


def reduction(settings: dict, depth: int) -> dict | None:
    """MPM as a case asks for it; the published list may hold layers twice, unordered or beyond the depth."""
    layers = sorted({layer for layer in settings['layers'] if layer <= depth})
    return dict(type='MPM', layers=layers) if layers else None


def tokens_of(x: Tensor, lengths: list[int], num_prefix: int) -> Tokens:
    """Tokens as a case lays them out."""
    grid = (1, max(lengths) - num_prefix)
    return Tokens(x, grid, num_prefix, lengths=None if len(set(lengths)) == 1 else tuple(lengths))


def nearest_of(tokens: Tokens) -> Tensor:
    """Number of the nearest token, prefix included; -1 for prefix tokens."""
    found = []
    for group in tokens.groups():
        partner = nearest(group, tokens.num_prefix)[1] + tokens.num_prefix
        found.append(torch.cat([partner.new_full((len(partner), tokens.num_prefix), -1), partner], 1))
    return tokens.join(found)


def mutual_pairs(case: Case) -> None:
    s, x = case.settings, case.take('x')
    for f64 in (False, True):
        tokens = tokens_of(x.double() if f64 else x, s['lengths'], s['num_prefix'])
        merge = mutual_merge(tokens)
        merged, members = merge.apply(tokens.x, None, tokens.counts)
        case.compare('nearest', nearest_of(tokens))
        case.compare('token_map', merge.index)
        case.compare('token_counts', np.array(merge.lengths))
        case.compare('members', members.long())
        case.compare('merged', merged, f64=f64)
        if not f64:
            case.compare('restored', merge.unmerge(merged, tokens.counts))


def mutual_pairs_twice(case: Case) -> None:
    s = case.settings
    tokens = tokens_of(case.take('x'), s['lengths'], s['num_prefix'])
    method = MPM(layers=(1, 2))
    once = method.before_block(tokens, 1)
    case.compare('token_map', once.steps[-1].merge.index)
    case.compare('token_counts', np.array(once.counts))
    case.compare('merged', once.x)
    case.expect('second_lengths', list(once.counts), s['second_lengths'])
    twice = method.before_block(once.replace(x=case.take('second')), 2)
    case.compare('second_token_map', twice.steps[-1].merge.index)
    case.compare('second_token_counts', np.array(twice.counts))
    case.compare('second_merged', twice.x)
    case.compare('assign', twice.index)
    case.compare('restored', twice.restore(twice.patches().x))


def compare_decisions(case: Case, record: Recording) -> None:
    last = record.left[max(record.left)]
    case.compare('token_counts', np.array([tokens.counts for tokens in record.left.values()]))
    found = assigned(record)
    for layer, places in found.items():
        case.compare(f'assign_layer{layer}', places)
        case.compare(f'merged_layer{layer}', record.entered[layer].patches().x)
    if last.index is not None:
        case.compare('assign', last.index)
        case.compare('size', last.size)


def network(case: Case) -> None:
    s = case.settings
    compare_decisions(case, compare_classifier(case, reduction(s, s['vit']['depth']))[0])


def segmenter_network(case: Case) -> None:
    depth = load_official(case.release()).encoder.depth
    compare_decisions(case, compare_segmenter(case, reduction(case.settings, depth))[0])


KINDS = {
    'mutual_pairs': mutual_pairs,
    'mutual_pairs_twice': mutual_pairs_twice,
    'network': network,
    'segmenter_network': segmenter_network,
}


@pytest.mark.filterwarnings('ignore:MPM. no two of')
@pytest.mark.parametrize('case', golden_cases(FAMILY))
def test_mpm(case):
    run_case(FAMILY, *case, KINDS)
