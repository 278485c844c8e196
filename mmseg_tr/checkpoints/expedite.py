"""Segmenter weights in the layout of the Expedite repository (mmsegmentation 0.x), as its pre-processing tool leaves
official ones: keys of mmseg's VisionTransformer, the mask transformer's own keys, and otherwise only n_cls and epoch.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mmseg_tr.checkpoints.converted import Converted, refuse_variant
from mmseg_tr.checkpoints.official_segmenter import needed_tensors
from mmseg_tr.checkpoints.segmenter_config import EXPEDITE, segmenter_config
from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn.pos_embed import infer_square_grid
from mmseg_tr.weights import fit, formats, io, keymap
from mmseg_tr.weights.formats import MMSEG_PATCHES, UNUSED_IN_RELEASES
from mmseg_tr.weights.keymap import Prefixes
from mmseg_tr.weights.variant import Network

NAME = formats.EXPEDITE.name
# the pre-processing tool carries the ImageNet classifiers along under their old names
UNUSED = UNUSED_IN_RELEASES

BLOCK: Prefixes = (
    ('ln1.', 'norm1.'),
    ('ln2.', 'norm2.'),
    ('attn.attn.in_proj_weight', 'attn.qkv.weight'),
    ('attn.attn.in_proj_bias', 'attn.qkv.bias'),
    ('attn.attn.out_proj.', 'attn.proj.'),
    ('ffn.layers.0.0.', 'mlp.fc1.'),
    ('ffn.layers.1.', 'mlp.fc2.'),
)
# data set, short side of test images and stride that the repository uses for a number of classes
_SETTINGS = {150: ('ade20k', 640, 640), 19: ('cityscapes', 1024, 512), 60: ('pascal_context', 520, 320)}
_HEAD_WIDTH = 64
_LARGE = 1024  # width of ViT-L, whose configs there have another LayerNorm eps


def key_table(depth: int) -> Prefixes:
    """Return prefixes of the repository's keys with those of `mmseg_tr.nn.Segmenter`, for an encoder of this depth."""
    blocks = [
        (f'backbone.layers.{layer}.{theirs}', f'encoder.blocks.{layer}.{ours}')
        for layer in range(depth)
        for theirs, ours in BLOCK
    ]
    return (
        *blocks,
        ('backbone.patch_embed.projection.', 'encoder.patch_embed.proj.'),
        ('backbone.ln1.', 'encoder.norm.'),
        ('backbone.', 'encoder.'),
        ('decode_head.', 'decoder.'),
    )


def expedite_to_segmenter(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return `mmseg_tr.nn.Segmenter`'s weights from a state dict of the repository, and the keys that were dropped."""
    kept, dropped = keymap.split(state, UNUSED)
    return io.contiguous(keymap.rename(kept, key_table(keymap.count_layers(state, 'backbone.layers')))), dropped


def net_kwargs(state: Mapping[str, Tensor], where: str = 'The checkpoint') -> dict[str, Any]:
    """Return the network of these weights in the words of a variant.yml (`official_segmenter.build_segmenter`).

    The image is square, its side read off the position embedding; heads are as wide as in every published ViT; the
    weights do not determine it. where: what messages call the checkpoint. Raises CheckpointError for other networks.
    """
    fit.check_tensors(state, where)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    try:
        (_, _, embed_dim), (_, num_classes, _) = shapes['backbone.cls_token'], shapes['decode_head.cls_emb']
        patch_size = shapes[MMSEG_PATCHES][-1]
        side = infer_square_grid(state['backbone.pos_embed'], 1)[0] * patch_size
    except (KeyError, IndexError, ValueError) as error:
        what = f'{error.args[0]} is missing' if isinstance(error, KeyError) else str(error).rstrip('.')
        raise CheckpointError(f'{where} is not a {NAME}: {what}.') from error
    if embed_dim % _HEAD_WIDTH:
        raise CheckpointError(f'{where} has tokens of width {embed_dim}: only multiples of {_HEAD_WIDTH} are known.')
    decoder_depth = keymap.count_layers(state, 'decode_head.blocks')
    return {
        'backbone': f'ViT of width {embed_dim}',
        'd_model': embed_dim,
        'n_layers': keymap.count_layers(state, 'backbone.layers'),
        'n_heads': embed_dim // _HEAD_WIDTH,
        'patch_size': patch_size,
        'image_size': (side, side),
        'drop_path_rate': 0.1,
        'n_cls': num_classes,
        'decoder': {'name': 'mask_transformer', 'n_layers': decoder_depth, 'dropout': 0.1, 'drop_path_rate': 0.0},
    }


def convert(payload: Mapping[str, Any], path: Path, *, variant: str | os.PathLike | None = None) -> Converted:
    """Turn such weights into weights and config of this package; see `mmseg_tr.checkpoints.convert`."""
    refuse_variant(variant, path, f'a {NAME}')
    described = net_kwargs(payload['state_dict'], str(path))
    net = Network.from_net_kwargs(described)
    state, dropped = expedite_to_segmenter(payload['state_dict'])
    found = fit.difference(state, needed_tensors(described))
    if found:
        raise CheckpointError(f'{path} does not fit a Segmenter of its width and depth: {found}.')
    side = net.image_size[0]
    dataset, test_size, stride = _SETTINGS.get(net.num_classes, (f'of {net.num_classes} classes', side, side))
    config = segmenter_config(
        net,
        'vit',
        dict(im_size=test_size, window_size=side, window_stride=min(stride, side)),
        dict(dataset=dataset),
        dialect=EXPEDITE if net.embed_dim == _LARGE else replace(EXPEDITE, norm_eps=1e-5),
    )
    return Converted(
        what=f'{NAME}, {net.backbone}, {net.depth} layers, {net.num_classes} classes',
        state_dict=keymap.rename(state, keymap.SEGMENTER_TO_SEGMENTOR),
        meta={**config.meta, 'source': {'format': NAME, **_facts(payload.get('meta'))}},
        config=config.text,
        dropped=(*dropped, *(str(key) for key in payload if key not in ('state_dict', 'meta'))),
        notes=(
            f'the weights do not say how many attention heads there are: {net.num_heads} of width {_HEAD_WIDTH}.',
            'the config follows the Expedite repository: positions resized bicubically, scores enlarged straight to '
            'the image, windows that shrink, its LayerNorm eps; official weights were trained at eps 1e-5.',
            *config.notes,
        ),
        testable=config.has_dataset,
    )


def _facts(meta: Any) -> dict[str, int]:
    """Return the epoch, if the file has it."""
    epoch = meta.get('epoch') if isinstance(meta, Mapping) else None
    return {'epoch': epoch} if type(epoch) is int else {}
