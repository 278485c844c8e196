"""Golden family `algm`: merging alone, in the network, in windows and in training, against the published code."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.checkpoints import load_official
from mmseg_tr.nn import Segmenter
from mmseg_tr.nn.inference import predict_views
from mmseg_tr.nn.segmenter import enlarge_scores
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.algm import global_merge, local_merge
from mmseg_tr.visualization.merging import draw_groups
from tests.parity.decisions import global_decisions, local_decisions
from tests.parity.harness import Case, golden_cases, run_case

FAMILY = 'algm'
# our kinds of operators, by the names under which the published counter has them
COUNTED_AS = dict(attention='matmul', bilinear='upsample_bilinear2d')
PLAIN_MODES = dict(merged_plain_mean='mean', merged_amax='amax', merged_amin='amin', merged_sum='sum')


def prefix_tokens(settings: dict) -> int:
    return int(settings.get('class_token', True)) + int(settings.get('distill_token', False))


def reduction(settings: dict) -> dict | None:
    """The reduction that a case's settings ask for."""
    if settings.get('patch_type', 'algm') == 'pure' or not settings.get('selected_layers'):
        return None
    return dict(
        type='ALGM',
        layers=tuple(settings['selected_layers']),
        window=tuple(settings['merging_window_size']),
        threshold=settings['threshold'],
        batch=settings.get('batch_mode', 'joint'),
    )


def compare_all(case: Case, values: dict[str, np.ndarray], prefix: str = '') -> None:
    for name, value in values.items():
        case.compare(prefix + name, value)


def compare_merged(case: Case, merge, tokens: Tokens) -> None:
    """Tokens after a merge alone: averaged by size, or joined by a plain reduction."""
    x, size = merge.apply(tokens.x, tokens.size, tokens.counts)
    compare_all(case, dict(merged=x, size=size, token_map=merge.index))
    for name, mode in PLAIN_MODES.items():
        case.compare(name, merge.reduce(tokens.x, tokens.counts, mode))


def local_case(case: Case) -> None:
    s, num_prefix = case.settings, prefix_tokens(case.settings)
    grid, window = tuple(s['grid']), tuple(s['window'])
    size = case.take('size_in') if 'size_in' in case else None
    given = case.take('x')
    for x in (given, given.double()):  # decisions hold in float64 too
        merge = local_merge(x, grid, window, s['threshold'], num_prefix, s['batch_mode'])
        compare_all(case, local_decisions(merge, grid, window, s['threshold'], num_prefix))
        compare_merged(case, merge, Tokens(x, grid, num_prefix, size=size))


def global_case(case: Case) -> None:
    s, num_prefix = case.settings, prefix_tokens(case.settings)
    size = case.take('size_in') if 'size_in' in case else None
    given = case.take('x')
    for x in (given, given.double()):
        tokens = Tokens(x, (1, x.shape[1] - num_prefix), num_prefix, size=size)
        merge = global_merge(tokens, s['layer'], s['batch_mode'])
        compare_all(case, global_decisions(merge, s['layer'], num_prefix))
        compare_merged(case, merge, tokens)


def local_then_global(case: Case) -> None:
    s, num_prefix = case.settings, prefix_tokens(case.settings)
    grid, window = tuple(s['grid']), tuple(s['window'])
    tokens = Tokens(case.take('x'), grid, num_prefix)
    local = local_merge(tokens.x, grid, window, s['threshold'], num_prefix, s['batch_mode'])
    tokens = tokens.merge(local, layer=1)
    compare_all(case, dict(merged=tokens.x, size=tokens.size, assign=tokens.index), 'local_')
    tokens = tokens.replace(x=case.take('x2'))
    merge = global_merge(tokens, s['layer'], s['batch_mode'])
    tokens = tokens.merge(merge, s['layer'])
    compare_all(case, dict(merged=tokens.x, size=tokens.size, assign=tokens.index))
    first = local_decisions(local, grid, window, s['threshold'], num_prefix)['r']
    case.compare('r', np.concatenate([first, global_decisions(merge, s['layer'], num_prefix)['r']]))
    case.compare('source', membership(tokens))


def membership(tokens: Tokens) -> torch.Tensor:
    """The published record, (B, T, E + N) zeros and ones: which tokens of the image each token stands for."""
    batch, patches = tokens.index.shape
    source = torch.zeros(batch, tokens.x.shape[1], tokens.num_prefix + patches, dtype=torch.uint8)
    prefix = torch.arange(tokens.num_prefix)
    source[:, prefix, prefix] = 1
    column = (tokens.num_prefix + torch.arange(patches)).expand_as(tokens.index)
    source[torch.arange(batch)[:, None], tokens.num_prefix + tokens.index, column] = 1
    return source


def network(case: Case) -> None:
    image = case.take('image')
    model = load_official(case.release(), reduction(case.settings))
    for net in (model, copy.deepcopy(model).double()):  # decisions hold in float64 too
        compare_network(case, net, image.to(net.encoder.pos_embed.dtype))
    compare_count(case, model, image)


def compare_network(case: Case, model: Segmenter, image: torch.Tensor) -> Tokens:
    """Every stage of a forward; returns the tokens that leave the encoder."""
    tokens = model.encoder.embed(image)
    for layer in range(1, len(model.encoder.blocks) + 1):
        tokens = model.encoder.run(tokens, layer)
        case.compare(f'block{layer}', tokens.x)
    tokens = model.encoder.finish(tokens)
    case.compare('encoder_out', tokens.x)
    case.compare('token_counts', np.array([same[0] for same in tokens.trace]))
    case.compare('masks', model.scores(image))
    case.compare('logits', model(image))
    compare_steps(case, model, tokens)
    return tokens


def compare_steps(case: Case, model: Segmenter, tokens: Tokens) -> None:
    """What every merge of a forward decided: m1_order, m2_src_idx, m2_assign ..."""
    for number, step in enumerate(tokens.steps, 1):
        method = model.encoder.reduction
        if step.layer == method.layers[0]:
            decided = local_decisions(step.merge, tokens.grid, method.window, method.threshold, tokens.num_prefix)
        else:
            decided = global_decisions(step.merge, step.layer, tokens.num_prefix)
        compare_all(case, decided | dict(assign=step.assignment, size=step.size), f'm{number}_')


def compare_count(case: Case, model: Segmenter, image: torch.Tensor) -> None:
    """Multiply-adds under the published rule, to the last one, where the case names them."""
    published = case.settings.get('fvcore_flops')
    if published is None:
        return
    count = count_macs(model, image)
    kinds = Counter()
    for kind, number in count.by_operator('segmenter').items():
        kinds[COUNTED_AS.get(kind, kind)] += number
    case.expect('the count', count.total('segmenter'), published['total'])
    case.expect('the count by operator', dict(kinds), published['by_operator'])


def sliding_window(case: Case) -> None:
    s = case.settings
    model = load_official(case.release(), reduction(s))
    joined = []  # tokens or windows joined by every merge, in the order of calls

    def predict(crops: torch.Tensor) -> torch.Tensor:
        tokens = model.encoder.forward_tokens(crops)
        before = [tokens.steps[0].merge.index.shape[1]] if tokens.steps else []
        before += [step.merge.lengths[0] for step in tokens.steps]
        for step, had, left in zip(tokens.steps, before, before[1:]):
            per_window = np.prod(s['merging_window_size']) - 1 if step.layer == s['selected_layers'][0] else 1
            joined.append((had - left) // per_window)
        return enlarge_scores(model.decoder(tokens), tuple(crops.shape[-2:]), model.encoder.patch_size)

    views = [(case.take(f'im_{i}'), flip) for i, (_, flip) in enumerate(s['views'])]
    size = case.arrays['pred'].shape if 'pred' in case else tuple(views[0][0].shape[-2:])
    probabilities = predict_views(predict, views, size, s['window_size'], s['window_stride'], s['window_batch_size'])[0]
    case.compare('seg_map', probabilities)
    # where the two best classes all but tie the last bit decides
    confident = case.take('confident').bool().numpy() if 'confident' in case else None
    case.compare('pred', probabilities.argmax(0), where=confident)
    case.compare('r_sequence', np.array(joined, dtype=np.int64))


def training_step(case: Case) -> None:
    s = case.settings
    # eval mode: dropout and stochastic depth are off, as in the case
    model = load_official(case.release(), reduction(s))
    image, label = case.take('image'), case.take('label').long()
    with torch.enable_grad():
        logits = model(image)
        loss = F.cross_entropy(logits, label, ignore_index=255)
        loss.backward()
    case.compare('loss', loss.reshape(1))
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not set(s.get('no_grad', ())) & set(gradients)
    missing = [name for name in s['grad_names'] if name not in gradients]
    assert not missing, f'no gradient reached {missing}'
    case.compare('grad_norms', np.array([gradients[name].double().norm() for name in s['grad_names']]))
    for name, gradient in gradients.items():
        case.compare(f'grad:{name}', gradient)
    compare_network(case, model, image)


def visualisation(case: Case) -> None:
    source = case.take('source')[0][:, int(case.settings.get('class_token', True)) :]  # (tokens, patches)
    groups = source.int().argmax(0).view(*case.settings['grid']).numpy()
    case.compare('vis', draw_groups(case.take('image').numpy(), groups))


KINDS = {
    'local_merge': local_case,
    'global_merge': global_case,
    'local_then_global': local_then_global,
    'network': network,
    'sliding_window': sliding_window,
    'training_step': training_step,
    'visualisation': visualisation,
}


@pytest.mark.filterwarnings('ignore:ALGM threshold')
@pytest.mark.parametrize('case', golden_cases(FAMILY))
def test_algm(case):
    run_case(FAMILY, *case, KINDS)
