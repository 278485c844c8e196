"""Segmenter weights of mmsegmentation 1.x: its VisionTransformer under SegmenterMaskTransformerHead, or under a linear
FCNHead. Read here; to_mmseg.py writes them.

The weights do not determine attention heads, LayerNorm eps and the resizing of positions. These come from the config
inside the file, which is read and not run, or else from the Segmenter configs that mmsegmentation ships.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmseg_tr.checkpoints import mmengine_file
from mmseg_tr.checkpoints.config_text import read_config
from mmseg_tr.checkpoints.converted import Converted, refuse_variant
from mmseg_tr.checkpoints.expedite import BLOCK
from mmseg_tr.checkpoints.mmseg_settings import config_of, read_settings
from mmseg_tr.checkpoints.official_segmenter import needed_tensors
from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights import fit, formats, io, keymap
from mmseg_tr.weights.keymap import Prefixes
from mmseg_tr.weights.variant import Network

NAME = formats.MMSEG_SEGMENTER.name
PATCH_BIAS = 'encoder.patch_embed.proj.bias'
TRANSPOSED = ('decoder.proj_patch', 'decoder.proj_classes')
_UNUSED = ('auxiliary_head.',)


def key_table(depth: int, decoder_depth: int) -> Prefixes:
    """Return prefixes of mmsegmentation's keys with those of `mmseg_tr.nn.Segmenter`, for networks of these depths."""
    parts = (('backbone', 'encoder', depth), ('decode_head', 'decoder', decoder_depth))
    blocks = [
        (f'{theirs}.layers.{layer}.{inner_theirs}', f'{ours}.blocks.{layer}.{inner_ours}')
        for theirs, ours, layers in parts
        for layer in range(layers)
        for inner_theirs, inner_ours in BLOCK
    ]
    return (
        *blocks,
        ('backbone.patch_embed.projection.', 'encoder.patch_embed.proj.'),
        ('backbone.ln1.', 'encoder.norm.'),
        ('backbone.', 'encoder.'),
        ('decode_head.dec_proj.', 'decoder.proj_dec.'),
        ('decode_head.patch_proj.weight', 'decoder.proj_patch'),
        ('decode_head.classes_proj.weight', 'decoder.proj_classes'),
        ('decode_head.conv_seg.', 'decoder.head.'),
        ('decode_head.', 'decoder.'),
    )


def mmseg_to_segmenter(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of `mmseg_tr.nn.Segmenter` from those of mmsegmentation.

    A missing bias of the patch embedding (patch_bias=False, its default) is a bias of zeros.
    """
    table = key_table(keymap.count_layers(state, 'backbone.layers'), keymap.count_layers(state, 'decode_head.layers'))
    found = {key: _turned(key, tensor) for key, tensor in keymap.rename(state, table).items()}
    weight = found.get('encoder.patch_embed.proj.weight')
    if weight is not None and PATCH_BIAS not in found:
        found[PATCH_BIAS] = weight.new_zeros(len(weight))
    return io.contiguous(found)


def segmenter_to_mmseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the other direction; without a bias of the patch embedding that is all zeros, as mmsegmentation has it."""
    table = key_table(keymap.count_layers(state, 'encoder.blocks'), keymap.count_layers(state, 'decoder.blocks'))
    kept = {key: tensor for key, tensor in state.items() if key != PATCH_BIAS or tensor.any()}
    turned = {key: _turned(key, tensor) for key, tensor in kept.items()}
    return io.contiguous(keymap.rename(turned, keymap.backwards(table)))


def _turned(key: str, tensor: Tensor) -> Tensor:
    """Convert the shape of a tensor, in either direction; key is one of `mmseg_tr.nn.Segmenter`."""
    if key in TRANSPOSED and tensor.dim() == 2:
        return tensor.T  # a linear layer there, a matrix applied from the right here
    if key == 'decoder.head.weight':  # a convolution of one pixel there
        return tensor[:, :, None, None] if tensor.dim() == 2 else tensor.flatten(1)
    return tensor


def convert(payload: Mapping[str, Any], path: Path, *, variant: str | os.PathLike | None = None) -> Converted:
    """Turn such a checkpoint into weights and config of this package; see `mmseg_tr.checkpoints.convert`."""
    refuse_variant(variant, path, f'a {NAME}')
    fit.check_tensors(payload['state_dict'], f'state_dict of {path}')
    theirs, dropped = keymap.split(payload['state_dict'], _UNUSED)
    if 'backbone.ln1.weight' not in theirs:
        raise CheckpointError(f'{path} has no LayerNorm after its last layer (final_norm=False), and ours needs one.')
    settings = read_settings(theirs, read_config(formats.config_inside(payload)), str(path))
    state, net = mmseg_to_segmenter(theirs), Network.from_net_kwargs(settings.net_kwargs)
    found = fit.difference(state, needed_tensors(settings.net_kwargs))
    if found:
        raise CheckpointError(f'{path} does not fit a Segmenter of its width and depth: {found}.')
    config = config_of(settings)
    bias = () if 'backbone.patch_embed.projection.bias' in theirs else ('its patch embedding has no bias: zeros here.',)
    classes = mmengine_file.class_names(payload.get('meta'))
    return Converted(
        what=f'{NAME}, {net.backbone} with {net.decoder} decoder, {net.depth} layers, {net.num_classes} classes',
        state_dict=keymap.rename(state, keymap.SEGMENTER_TO_SEGMENTOR),
        meta={**config.meta, **({'dataset_meta': classes} if classes else {}), 'source': {'format': NAME}},
        config=config.text,
        dropped=(*dropped, *(str(key) for key in payload if key not in ('state_dict', 'meta'))),
        notes=(*settings.notes, *bias, *config.notes),
        testable=config.has_dataset,
    )
