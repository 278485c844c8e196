"""Golden family `cts`: policy, sharing, unsharing and the whole network against the published code."""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.checkpoints import load_official
from mmseg_tr.checkpoints.official_cts import cts_reduction
from mmseg_tr.datasets.policy_labels import policy_labels
from mmseg_tr.nn import MaskTransformer, Segmenter
from mmseg_tr.nn.inference import predict_views, window_anchors
from mmseg_tr.nn.segmenter import enlarge_scores
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.cts.policy import PolicyNet, policy_state
from mmseg_tr.reduction.cts.sharing import (
    Sharing,
    kept_patches,
    oracle_mask,
    policy_scores,
    select_superpatches,
    share_pixels,
    sharing_of,
    token_counts,
)
from mmseg_tr.weights.variant import read_variant, section
from tests.parity.harness import Case, as_array, golden_cases, run_case

FAMILY = 'cts'


def policy_selection(case: Case) -> None:
    """Masks must be equal; scores agree to the case's score_atol."""
    tolerance = case.entry['tolerance'].get('score_atol', case.entry['tolerance']['atol'])
    for i, job in enumerate(case.settings['jobs']):
        grid = tuple(2 * side for side in job['super_grid'])
        scores = policy_scores(case.take(f'logits{i}'))
        assert scores.dtype == torch.float32
        np.testing.assert_allclose(scores, case.take(f'score{i}'), atol=tolerance, rtol=0)
        shared = select_superpatches(scores, job['num_shared'])
        case.compare(f'shared{i}', shared)
        case.compare(f'kept{i}', kept_patches(shared, grid))
        assert (token_counts(grid[0] * grid[1], job['num_shared'])[0]) == job['num_notshared']


def codes(sharing: Sharing, grid: tuple[int, int]) -> Tensor:
    """The published record, (B, T, 3): scale, row and column of the top-left patch of every token."""
    kept = torch.stack([torch.ones_like(sharing.kept), sharing.kept // grid[1], sharing.kept % grid[1]], -1)
    width = grid[1] // 2
    shared = torch.stack(
        [torch.full_like(sharing.shared, 2), 2 * (sharing.shared // width), 2 * (sharing.shared % width)], -1
    )
    return torch.cat([kept, shared], 1).float()


def enlarged_strip(strip: Tensor, sharing: Sharing, grid: tuple[int, int]) -> Tensor:
    """A strip of patches (B, C, p, T * p) as an image again, shared patches enlarged to their superpatch."""
    p = strip.shape[2]
    patches = strip.unflatten(3, (-1, p)).permute(0, 3, 1, 2, 4)  # (B, T, C, p, p)
    big = F.interpolate(patches.flatten(0, 1), scale_factor=2, mode='bilinear', align_corners=False)
    big = big.unflatten(0, patches.shape[:2])
    image = strip.new_zeros(len(strip), strip.shape[1], grid[0] * p, grid[1] * p)
    for b, code in enumerate(codes(sharing, grid).long()):
        for token, (scale, row, column) in enumerate(code.tolist()):
            source = big if scale == 2 else patches
            side = scale * p
            image[b, :, row * p : row * p + side, column * p : column * p + side] = source[b, token]
    return image


def share_unshare(case: Case) -> None:
    for i, job in enumerate(case.settings['jobs']):
        image, patch = case.take(f'image{i}'), (job['patch'],) * 2
        grid = tuple(side // job['patch'] for side in job['image'][-2:])
        sharing = sharing_of(case.take(f'shared{i}'), grid, job['num_shared'])
        case.compare(f'kept{i}', kept_patches(sharing.superpatches, grid))
        strip = share_pixels(image, sharing, patch)
        case.compare(f'patches{i}', strip)
        case.compare(f'code{i}', codes(sharing, grid))
        values = case.take(f'tokens{i}')
        assert values.shape[1] == job['tokens'] == sharing.size.shape[1]
        tokens = Tokens(values, grid, index=sharing.index, size=sharing.size)
        case.compare(f'tokens_grid{i}', tokens.to_map())
        case.compare(f'strip_unshared{i}', enlarged_strip(strip, sharing, grid))


def no_sharing(case: Case) -> None:
    image, p = case.take('image'), case.settings['patch']
    grid = tuple(side // p for side in image.shape[-2:])
    nobody = torch.zeros(len(image), grid[0] // 2, grid[1] // 2, dtype=torch.bool)
    sharing = sharing_of(nobody, grid, 0)
    case.compare('patches', share_pixels(image, sharing, (p, p)))
    case.compare('code', codes(sharing, grid))


def labels_for_training(case: Case) -> None:
    s, side = case.settings, 2 * case.settings['patch']
    for name in case.arrays:
        match = re.fullmatch(r'gt(\d+)_(\w+?)_a(\d)_o(\d)(?:_b(\d))?', name)
        if match:
            number, dataset, group, one_class, border = match.groups()
            found = policy_labels(
                case.take(f'label{number}')[None],
                side,
                zero_is_ignore=s['zero_is_ignore'][dataset],
                share_ignored=group == '1',
                ignore_mixed=one_class == '1',
                ignore_mixed_border=border == '1',
            )
            case.compare(name, found[0].to(torch.uint8))


def labels_for_evaluation(case: Case) -> None:
    side = 2 * case.settings['patch']
    case.compare('groups', oracle_mask(case.take('seg'), (side, side))[0].to(torch.uint8))


def counts(case: Case) -> None:
    rows = case.arrays['table'].tolist()
    found = [[crop, patches, shared, *token_counts(int(patches), int(shared))] for crop, patches, shared, *_ in rows]
    case.compare('table', np.round(np.array(found), 2))


def described(case: Case) -> dict:
    """The reduction that the release of a case describes, as published: BatchNorms of the policy are not folded."""
    return dict(cts_reduction(section(read_variant(case.release() / 'variant.yml'), 'net_kwargs')), fold_bn=False)


def network(case: Case) -> None:
    s, reduction = case.settings, described(case)
    assert reduction['shared'] == s['S'] == s['net_kwargs']['policy_schedule'][1]
    model = load_official(case.release(), reduction)
    for image_name in [name for name in case.arrays if re.fullmatch(r'x\d*', name)]:
        for f64, net in ((False, model), (True, copy.deepcopy(model).double())):
            image = case.take(image_name).to(torch.float64 if f64 else torch.float32)
            values = intermediates(net, image)
            if not f64:
                logits = model.encoder.reduction.policy_logits(image)
                values |= dict(policy_logits=logits, policy_score=policy_scores(logits))
            for key, value in values.items():
                case.compare(f'{image_name}__{key}', value, f64=f64)
            if image_name == 'x' and 'given_policy_logits' in case:
                given = intermediates(net, image, case.take('given_policy_logits').to(image.dtype))
                for key, value in given.items():
                    case.compare(f'given__{key}', value, f64=f64)
    if any(name.startswith('nosharing__') for name in case.arrays):
        described_plain = case.release() / 'variant_nosharing.yml'
        for method in (None, dict(type='CTS', policy='none')):
            plain = load_official(case.release(), method, variant=described_plain)
            case.compare('nosharing__decoder_grid', plain.scores(case.take('x')))
            case.compare('nosharing__logits', plain(case.take('x')))


def intermediates(model: Segmenter, image: Tensor, guide: Tensor | None = None) -> dict[str, Tensor]:
    """What leaves every stage of the network, by the golden data's names."""
    encoder = model.encoder
    method = encoder.reduction if guide is None else encoder.reduction.guided(guide)
    tokens = encoder.embed(image, method)
    sharing = tokens.memo
    values = dict(
        tokens_embed=tokens.x,
        kept_mask=kept_patches(sharing.superpatches, tokens.grid),
        shared_mask=sharing.superpatches,
    )
    tokens = encoder.forward_tokens(image, method)
    scores = model.decoder(tokens)
    logits = enlarge_scores(scores, tuple(image.shape[-2:]), encoder.patch_size)
    if guide is None:
        torch.testing.assert_close(model(image), logits)
    return values | dict(
        encoder_out=tokens.x, token_logits=token_logits(model, tokens), decoder_grid=scores, logits=logits
    )


def token_logits(model: Segmenter, tokens: Tokens) -> Tensor:
    """Class scores of the reduced tokens, before they are restored."""
    tokens, decoder = tokens.patches(), model.decoder
    if not isinstance(decoder, MaskTransformer):
        return decoder.head(tokens.x)
    return decoder.masks(tokens, decoder.decode(tokens))


def sliding_window(case: Case) -> None:
    s, image = case.settings, case.take('im')
    model, size = load_official(case.release(), described(case)), (s['H'], s['W'])
    corners = window_anchors(size, (s['window'],) * 2, (s['stride'],) * 2)
    case.compare('anchors', np.array(corners))
    crops = [image[..., y : y + s['window'], x : x + s['window']] for y, x in corners]
    masks = [model.encoder.embed(crop).memo.superpatches for crop in crops]
    case.compare('window_shared_masks', torch.cat(masks))
    run = partial(predict_views, model, size=size, window=s['window'], stride=s['stride'])
    views = [(image, False), (image.flip(-1), True)]
    for window_batch in (1, 2):
        probabilities = run(views[:1], window_batch=window_batch)[0]
        case.compare('prob', probabilities)
        case.compare('pred', probabilities.argmax(0).to(torch.uint8))
        case.compare('prob_flip_mean', run(views, window_batch=window_batch)[0])


def policy_network(case: Case) -> None:
    files = [file for file in case.entry['files'] if Path(file).name == 'model.pth']
    net = PolicyNet(pretrained=str(case.folder / files[0]))
    net.init_weights()
    release = case.folder / case.settings['weights'].split()[0] / 'checkpoint.pth'
    for key, value in policy_state(release).items():
        assert torch.equal(value, net.state_dict()[key]), key
    net.eval()
    for name in [name for name in case.arrays if re.fullmatch(r'[a-z]', name)]:
        image = case.take(name)
        case.compare(f'{name}__logits', net(image))
        case.compare(f'{name}__feat_mean', net.features(image).mean((2, 3)))
    compare_training(case, net)


def compare_training(case: Case, net: PolicyNet) -> None:
    """Loss, accuracy and drift of the BatchNorms, as the training of a policy network has them."""
    pytest.importorskip('mmseg')
    from mmseg_tr.evaluation.policy_accuracy import count_right
    from mmseg_tr.models.seg.policy_trainer import policy_loss

    image, labels = case.take('a'), case.take('labels')
    right, total = count_right(net(image).argmax(1), labels)
    case.compare('eval_accuracy', np.array([right / total]))
    logits = net.train()(image)
    case.compare('train_logits', logits)
    case.compare('train_loss', as_array(policy_loss(logits, labels)).reshape(1))
    case.compare('running_mean_after', net.backbone.bn1.running_mean)


KINDS = {
    'policy_selection': policy_selection,
    'share_unshare': share_unshare,
    'no_sharing': no_sharing,
    'policy_labels': labels_for_training,
    'policy_labels_for_eval': labels_for_evaluation,
    'token_counts': counts,
    'network': network,
    'sliding_window': sliding_window,
    'policy_network': policy_network,
}


@pytest.mark.parametrize('case', golden_cases(FAMILY))
def test_cts(case):
    run_case(FAMILY, *case, KINDS)
