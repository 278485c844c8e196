"""Golden family `expedit`: Expedite, EViT, dense ToMe and ACT, alone and in the network, against the published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tr.checkpoints.expedite import BLOCK, UNUSED, expedite_to_segmenter
from mmseg_tr.nn import MaskTransformer, Segmenter, ViT
from mmseg_tr.nn.attention import SelfAttention
from mmseg_tr.nn.blocks import PLAIN, run_block
from mmseg_tr.nn.inference import slide, view_probabilities
from mmseg_tr.nn.segmenter import enlarge_scores
from mmseg_tr.reduction import Reduction, Tokens, build_reduction
from mmseg_tr.reduction.act import ACT, Hashing, act_attention, bucket_codes, cluster_ids, cluster_means, cluster_values
from mmseg_tr.reduction.evit import EViT, by_attention, class_attention
from mmseg_tr.reduction.expedite import Expedite, Reconstruction, reconstruction_weights
from mmseg_tr.reduction.expedite.clustering import cluster_patches, scaled_distances, start_cells, start_clusters
from mmseg_tr.reduction.matching import bipartite_matching
from mmseg_tr.weights.keymap import rename, split
from tests.parity.harness import Case, golden_cases, run_case
from tests.releases import segmenter_to_expedite

FAMILY = 'expedit'


def compare_all(case: Case, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        case.compare(name, value)


def clustering_layer(case: Case) -> None:
    s = case.settings
    grid, clusters = tuple(s['grid']), tuple(s['clusters_hw'])
    x = case.take('x').flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H*W, C)
    centres = cluster_patches(x, grid, clusters, s['n_iters'], s['window_size'], s['temperature'])
    compare_all(
        case,
        dict(
            init_centroids=start_clusters(x, grid, clusters),
            init_label_map=start_cells(grid, clusters).expand(len(x), -1),
            centroids=centres,
            hard_labels=scaled_distances(x, centres, 1).argmin(-1),
        ),
    )
    sharp = cluster_patches(x.double(), grid, clusters, s['n_iters'], s['window_size'], s['temperature'])
    case.compare('centroids', sharp)


def reconstruction_layer(case: Case) -> None:
    s = case.settings
    before, after, values = case.take('feat_before'), case.take('feat_after'), case.take('x')
    weights = reconstruction_weights(before, after, s['k'], s['temperature'])
    case.compare('out', Reconstruction(weights)(values))


def layer_of(case: Case) -> nn.Module:
    """The encoder layer whose parameters a case carries."""
    s = case.settings
    arch = dict(embed_dim=s['channels'], depth=1, num_heads=s['heads'], patch_size=4)
    (block,) = ViT(arch, img_size=4, norm_eps=s['norm_eps']).blocks
    state = {name.removeprefix('w.'): case.take(name) for name in case.arrays if name.startswith('w.')}
    block.load_state_dict(rename(state, BLOCK), strict=True)
    return block.eval()


def tokens_of(case: Case) -> Tokens:
    x = case.take('x')
    return Tokens(x, grid=(1, x.shape[1] - 1), num_prefix=1)


def evit_block(case: Case) -> None:
    s, block, tokens = case.settings, layer_of(case), tokens_of(case)
    method = EViT(s['keep_rate'], layers=(1,), fuse_token=s['fuse_token'])
    y = block.norm1(tokens.x)
    branch, attention = method.attention(SelfAttention(block.attn), y, tokens, 1)
    assert method.kept(attention.shape[1], 1) == s['kept']
    order = by_attention(attention)[1]
    kept, dropped = order[:, : s['kept']], order[:, s['kept'] :].sort().values
    compare_all(case, dict(cls_attn=attention, idx=kept, complement=dropped, non_cls=(tokens.x + branch)[:, 1:]))
    ((q, k, _),) = SelfAttention(block.attn).heads(y, tokens)
    case.compare('cls_attn', class_attention(q.double(), k.double(), block.attn.scale))
    case.compare('out', run_block(block, tokens, 1, method).x)


def dense_tome(r) -> Reduction:
    return build_reduction(dict(type='ToMe', form='dense', r=r))


def tome_matching(case: Case) -> None:
    s, x = case.settings, case.take('x')
    asked = s['r_fraction'] if s['r_fraction'] is not None else s['r_requested']
    r = dense_tome(asked).amount(1, x.shape[1], int(s['class_token']))
    assert r == s['r_effective']
    merge = bipartite_matching(x, r, int(s['class_token']))
    lengths = (x.shape[1],) * len(x)
    merged, sizes = merge.apply(x, None, lengths)
    compare_all(case, dict(merged=merged, sizes=sizes[..., None], unmerged=merge.unmerge(merged, lengths)))


def tome_block(case: Case) -> None:
    s, block, tokens = case.settings, layer_of(case), tokens_of(case)
    method = dense_tome(s['r_fraction'])
    assert method.amount(1, s['tokens'], 1) == s['r_effective']
    case.compare('out', run_block(block, tokens, 1, method).x)
    case.compare('out_plain', run_block(block, tokens, 1, PLAIN).x)


class GivenHashes(ACT):
    """ACT whose hashes are the ones that a published forward drew: (layers, d, n) and (layers, n)."""

    def __init__(self, projection: Tensor, offset: Tensor) -> None:
        super().__init__(q_hashes=projection.shape[-1])
        self.projection, self.offset = projection, offset

    def hashes(self, layer: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.projection[layer - 1], self.offset[layer - 1]


def act_kernels(case: Case) -> None:
    x = case.take('x')
    ids, counts = cluster_ids(case.take('hashes').long())
    means, members = cluster_means(x, ids, int(counts.max()))
    broadcast = cluster_values(case.take('y') * case.take('weights_b')[..., None], ids)
    compare_all(case, dict(groups=ids, counts=members.long(), weights=1 / members, y=means, xb=broadcast))


def act_case(case: Case) -> None:
    s = case.settings
    q, k, v, projection, offset = (case.take(name) for name in ('q', 'k', 'v', 'proj', 'bias'))
    codes = bucket_codes(q, projection, offset, s['bucket_width'])
    ids, counts = cluster_ids(codes)
    assert counts.tolist() == s['clusters_per_row']
    centres, members = cluster_means(q, ids, int(counts.max()))
    compare_all(case, dict(codes_i64=codes, groups=ids, counts=members.long(), centers=centres))
    usual = q.shape[-1] ** 0.5  # attention scales by d^-1/2, and these queries are scaled already
    case.compare('out', act_attention(q, k, v, Hashing(projection, offset, s['bucket_width']), scale=1))
    case.compare('out_dense', F.scaled_dot_product_attention(q * usual, k, v))


def act_block(case: Case) -> None:
    block, tokens = layer_of(case), tokens_of(case)
    method = GivenHashes(case.take('proj')[None], case.take('bias')[None])
    case.compare('out', run_block(block, tokens, 1, method).x)


def arrays_of(case: Case, file: str) -> dict[str, Tensor]:
    """A file of arrays beside the case's own."""
    with np.load(case.folder / file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def segmenter(m: dict, state: dict[str, Tensor], reduction: dict | Reduction | None = None, **kwargs) -> Segmenter:
    """The tiny network of settings.model with weights of ours, by default as the repository runs it."""
    assert m['dm'] == m['C']
    arch = dict(embed_dim=m['C'], depth=m['L'], num_heads=m['H'], patch_size=m['ps'], mlp_ratio=m['mlp'])
    kwargs = dict(norm_eps=1e-6, pos_resize='bicubic', reduction=reduction, out='tokens') | kwargs
    encoder = ViT(arch, img_size=tuple(m['img']), **kwargs)
    model = Segmenter(encoder, MaskTransformer(m['ncls'], m['C'], depth=m['dl'], num_heads=m['dh']))
    model.load_state_dict(state, strict=True)
    return model.eval()


def reduction_of(case: Case) -> dict | Reduction | None:
    """The method that a case's backbone asks for; layers there count from 0."""
    s, depth = case.settings['backbone'], case.settings['model']['L']
    kind = s['type']
    if kind == 'VisionTransformer':
        return None
    if kind == 'HourglassVisionTransformer':
        stage, rebuilt = s['cluster_cfg']['stage'], s['reconstruction_cfg']
        behind = rebuilt.get('location', -1)
        return dict(
            type='Expedite',
            layer=s['cluster_cfg']['location'] + 1,
            clusters=tuple(stage['num_spixels']),
            iterations=stage['n_iters'],
            window=stage['window_size'],
            temperature=stage['temperture'],
            k=rebuilt['k'],
            reconstruct_temperature=rebuilt['temperture'],
            reconstruct='scores' if behind < 0 else 'backbone' if behind + 1 == depth else behind + 1,
        )
    if kind == 'EViT':
        dropping = [layer for layer, rate in enumerate(s['keep_rate'], 1) if rate < 1]
        return dict(
            type='EViT',
            keep_rate=[s['keep_rate'][layer - 1] for layer in dropping],
            layers=dropping,
            fuse_token=s['fuse_token'],
            k=s['reconstruction_cfg']['k'],
            reconstruct_temperature=s['reconstruction_cfg']['temperture'],
        )
    if kind == 'ToMeViT':
        return dict(type='ToMe', form='dense', r=s['tome_r'])
    if kind == 'VisionTransformerACT':
        method = GivenHashes(case.take('proj'), case.take('bias'))
        assert method.q_hashes == s['act_q_hashes']
        return method
    pytest.fail(f'{case.name}: backbone {kind!r} is unknown', pytrace=False)


def model_and_images(case: Case) -> tuple[Segmenter, Tensor]:
    s, state = case.settings, {}
    for file in s['weights']:  # later files replace entries of earlier ones
        state |= arrays_of(case, file)
    images = arrays_of(case, s['images']['file'])[s['images']['array']][: s['images']['first']]
    return segmenter(s['model'], expedite_to_segmenter(state)[0], reduction_of(case)), images


def as_map(values: Tensor, grid: tuple[int, int]) -> Tensor:
    return values.transpose(1, 2).unflatten(2, grid)


def logits_of(model: Segmenter, image: Tensor) -> Tensor:
    return enlarge_scores(model.scores(image), tuple(image.shape[-2:]), None)


def network(case: Case) -> None:
    model, image = model_and_images(case)
    encoder, decoder, method = model.encoder, model.decoder, model.encoder.reduction
    expedite = method if isinstance(method, Expedite) else None
    tokens = encoder.embed(image)
    for layer in range(1, len(encoder.blocks) + 1):
        tokens = encoder.run(tokens, layer)
        if expedite and layer == expedite.layer:
            case.compare('clustering_output', tokens.patches().x)
        if expedite and layer == expedite.reconstruct:
            case.compare('reconstruction_output', tokens.patches().x)
    tokens = encoder.finish(tokens).patches()
    on_clusters = expedite and expedite.reconstruct == 'scores'
    grid = expedite.clusters if on_clusters else tokens.grid
    case.compare('features', as_map(tokens.x, grid))
    joint = decoder.embed(tokens)
    for layer, block in enumerate(decoder.blocks, 1):
        joint = run_block(block, joint, layer)
    masks = decoder.masks(tokens, joint)
    case.compare('head_logits', as_map(masks, grid))
    if on_clusters:
        case.compare('reconstruction_output', tokens.restore(masks))
    elif expedite and expedite.reconstruct == 'backbone':
        case.compare('reconstruction_output', tokens.x)
    case.compare('logits', logits_of(model, image))


def sliding_window(case: Case) -> None:
    model, image = model_and_images(case)
    test = case.settings['test_cfg']
    assert test['mode'] == 'slide'
    for window_batch in (1, 4):
        logits = slide(
            lambda crops: logits_of(model, crops), image, tuple(test['crop_size']), tuple(test['stride']), window_batch
        )
        if case.settings['api'] == 'inference':  # resized to the original size, then softmax
            logits = view_probabilities(logits, case.arrays['logits'].shape[-2:])
        case.compare('logits', logits)


def weights(case: Case) -> None:
    """Through our keys and back; a whole network loads strictly, a file of one entry replaces that of another."""
    ours, dropped = expedite_to_segmenter({name: case.take(name) for name in case.arrays})
    assert not dropped
    if len(ours) > 1:
        ours = segmenter(case.settings['model'], ours).state_dict()
    compare_all(case, segmenter_to_expedite(ours))


def images(case: Case) -> None:
    """Inputs of the networks; cut into windows and put together again they are the same."""
    for name in case.arrays:
        image = case.take(name)
        case.compare(name, slide(lambda crops: crops, image, (32, 32), (20, 20), 2))


def checkpoint(case: Case) -> None:
    """Official weights under the repository's keys and under ours, run in both dialects."""
    s = case.settings
    official = {name.removeprefix('w.'): case.take(name) for name in case.arrays if name.startswith('w.')}
    state, dropped = split(official, UNUSED)
    names = {theirs: name for name, theirs in s['key_map'].items() if not name.startswith(UNUSED)}
    assert segmenter_to_expedite({name: name for name in state}) == names
    assert set(dropped) == set(s['unexpected_after_load']) and not s['missing_after_load']
    converted = segmenter_to_expedite(state) | {name: official[name] for name in dropped}
    state, left_out = expedite_to_segmenter(converted)
    assert left_out == dropped
    image = arrays_of(case, s['images']['file'])[s['images']['array']][: s['images']['first']]
    plain = segmenter(s['model'], state, norm_eps=None, pos_resize=None)
    case.compare('official_features', plain.encoder.forward_tokens(image).patches().x)
    case.compare('official_logits', plain(image))
    for name, eps in (('converted_logits_eps1e_6', 1e-6), ('converted_logits_eps1e_5', 1e-5)):
        case.compare(name, logits_of(segmenter(s['model'], state, norm_eps=eps), image))


KINDS = {
    'clustering_layer': clustering_layer,
    'reconstruction_layer': reconstruction_layer,
    'evit_block': evit_block,
    'tome_matching': tome_matching,
    'tome_block': tome_block,
    'act_kernels': act_kernels,
    'act_attention': act_case,
    'act_block': act_block,
    'weights': weights,
    'images': images,
    'network': network,
    'sliding_window': sliding_window,
    'checkpoint': checkpoint,
}


@pytest.mark.parametrize('case', golden_cases(FAMILY))
def test_expedit(case):
    run_case(FAMILY, *case, KINDS)
