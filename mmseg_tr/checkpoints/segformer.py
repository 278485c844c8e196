"""MiT and SegFormer weights of OpenMMLab, SegFormer++, NVIDIA and Hugging Face, turned into this package's files.

The weights do not determine merging, test windows and LayerNorm eps. These come from the config inside the file, which
is read and not run, or else from the defaults of the layout's authors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmseg_tr.checkpoints import mmengine_file
from mmseg_tr.checkpoints.config_text import read_config, section
from mmseg_tr.checkpoints.converted import Converted, refuse_variant
from mmseg_tr.checkpoints.segformer_config import segformer_config
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.nn.mit import ARCHS, DEFAULTS, MixVisionTransformer
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.weights import fit, formats, keymap, mit

NAME = formats.SEGFORMER.name


def convert(payload: Mapping[str, Any], path: Path, *, variant: str | os.PathLike | None = None) -> Converted:
    """Turn such a checkpoint into weights and config of this package; see `mmseg_tr.checkpoints.convert`."""
    refuse_variant(variant, path, f'a {NAME}')
    weights = mit.read_weights(payload, str(path))
    arch = dimensions(weights.backbone(), str(path))
    config = read_config(formats.config_inside(payload))
    inside = section(config, 'model', 'backbone')
    arch |= {key: tuple(inside[key]) for key in ('num_heads', 'strides') if key in inside}
    _check(weights, arch, str(path))
    name = arch_name(arch)
    what = f'{mit.NAMES[weights.layout]} {"SegFormer" if weights.head else "MiT backbone"}'
    what += f', {name or "of its own dimensions"}'
    source = {'format': what}
    if weights.head is None:
        note = 'these are weights of a backbone: name the new file with model.backbone.pretrained of a config.'
        return Converted(
            what, weights.state, meta={'source': source}, dropped=weights.dropped, notes=(note, *_eps(weights))
        )
    classes = weights.state['decode_head.conv_seg.weight'].shape[0]
    text = segformer_config(weights, name or arch, config, what, str(path))
    meta = text.meta | {'source': source}
    given = mmengine_file.class_names(payload.get('meta'))
    return Converted(
        what=f'{what}, {classes} classes',
        state_dict=weights.state,
        meta=meta | ({'dataset_meta': given} if given else {}),
        config=text.text,
        dropped=(*weights.dropped, *_beside(payload)),
        notes=(*text.notes, *_eps(weights)),
        testable=text.has_dataset,
    )


def _beside(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a file's content other than weights and meta; empty where it is the state dict itself."""
    inner = formats.state_of(payload)
    if set(inner) & set(payload):
        return ()
    return tuple(str(key) for key in payload if key not in ('state_dict', 'model', 'meta'))


def _check(weights: mit.Weights, arch: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError unless the weights are exactly those of a MiT of `arch`, and of the head it comes with."""
    try:
        with torch.device('meta'):
            inputs = weights.state['backbone.layers.0.0.projection.weight'].shape[1]
            backbone = MixVisionTransformer(dict(arch), in_channels=inputs)
            needed = backbone.state_dict()
            if weights.head:
                state = weights.state
                channels = state['decode_head.fusion_conv.conv.weight'].shape[0]
                classes = state['decode_head.conv_seg.weight'].shape[0]
                model = SegFormer(backbone, classes, head=weights.head, channels=channels)
                needed = model.state_dict()
    except (ConfigError, KeyError, RuntimeError) as error:
        raise CheckpointError(f'{where} holds no SegFormer that can be built: {error}') from error
    found = fit.difference(weights.state if weights.head else weights.backbone(), needed)
    if found:
        raise CheckpointError(f'{where} does not fit a network of the dimensions that it begins with: {found}.')


def _eps(weights: mit.Weights) -> tuple[str, ...]:
    """Return notes on LayerNorm eps."""
    settings = mit.EPS.get(weights.layout, {})
    return tuple(
        f'these weights were made with LayerNorm {key}={value}, a setting of the backbone.'
        for key, value in settings.items()
    )


def dimensions(backbone: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """`arch` of the MiT that has these weights, keys without prefix: what they imply, and MiT's strides and heads.

    Raises CheckpointError where they do not imply a MiT whose widths are multiples of the first, as b0 to b5 are.
    """
    shape = {key: tuple(value.shape) for key, value in backbone.items()}
    try:
        stages = range(keymap.count_layers(shape, 'layers'))
        widths = [shape[f'layers.{i}.0.projection.weight'][0] for i in stages]
        arch = dict(
            embed_dims=widths[0],
            num_layers=tuple(keymap.count_layers(shape, f'layers.{i}.1') for i in stages),
            num_heads=tuple(width // widths[0] for width in widths),
            patch_sizes=tuple(shape[f'layers.{i}.0.projection.weight'][2] for i in stages),
            strides=tuple(4 if i == 0 else 2 for i in stages),
            sr_ratios=tuple(shape.get(f'layers.{i}.1.0.attn.sr.weight', (0, 0, 1))[2] for i in stages),
            mlp_ratio=shape['layers.0.1.0.ffn.layers.0.weight'][0] // widths[0],
            qkv_bias='layers.0.1.0.attn.attn.in_proj_bias' in shape,
        )
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f'{where} holds no complete MiT: {error} is missing.') from error
    if [heads * widths[0] for heads in arch['num_heads']] != widths:
        raise CheckpointError(
            f'{where} has stages of widths {widths}, which are not multiples of the first: how many attention heads '
            'they have cannot be inferred from the weights.'
        )
    return arch


def arch_name(arch: Mapping[str, Any]) -> str | None:
    """'b0' to 'b5' for their dimensions, None for others."""
    return next((name for name, other in ARCHS.items() if DEFAULTS | other == dict(arch)), None)
