"""MiT and SegFormer weights of OpenMMLab, SegFormer++, NVIDIA and Hugging Face, turned into this package's files.

Some of the network is not in its weights: merging, windows of the test, LayerNorm eps. It comes from the config inside
the file, which is read and not run, or else from what the authors of the layout have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmseg_tr.checkpoints import mmengine_file
from mmseg_tr.checkpoints.config_text import read_config, section
from mmseg_tr.checkpoints.formats import Converted
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.weights import fit, mit

NAME = 'MiT or SegFormer checkpoint of OpenMMLab, SegFormer++, NVIDIA or Hugging Face'


def recognise(payload: Any) -> bool:
    """Whether a file's content is laid out so; files of this package, which have its config inside, are not meant."""
    return mit.layout_of(payload) is not None and 'mmseg_tr.' not in config_inside(payload)


def config_inside(payload: Mapping[str, Any]) -> str:
    """Text of the config in a file, '' where there is none."""
    meta = payload.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    text = meta.get('cfg') or meta.get('config')  # the latter in files of mmcv
    return text if isinstance(text, str) else ''


def convert(payload: Mapping[str, Any], path: Path, *, variant: str | os.PathLike | None = None) -> Converted:
    """Turn such a checkpoint into weights and config of this package; see `mmseg_tr.checkpoints.convert`."""
    from mmseg_tr.checkpoints.segformer_config import segformer_config

    if variant is not None:
        raise CheckpointError(f'{path} is a {NAME}, which needs no description: leave --variant out.')
    weights = mit.read_weights(payload, str(path))
    arch = mit.dimensions(weights.backbone(), str(path))
    config = read_config(config_inside(payload))
    heads = section(config, 'model', 'backbone').get('num_heads')
    if heads is not None:
        arch['num_heads'] = tuple(heads)
    _check(weights, arch, str(path))
    name = mit.arch_name(arch)
    what = f'{mit.NAMES[weights.layout]} {"SegFormer" if weights.head else "MiT backbone"}'
    what += f', {name or "of its own dimensions"}'
    source = {'format': what}
    if weights.head is None:
        note = 'these are weights of a backbone: name the new file with model.backbone.pretrained of a config.'
        return Converted(
            what, weights.state, meta={'source': source}, dropped=weights.dropped, notes=(note, *_eps(weights))
        )
    classes = weights.state['decode_head.conv_seg.weight'].shape[0]
    text = segformer_config(weights, name or arch, config, what)
    inside = payload.get('meta') if isinstance(payload.get('meta'), Mapping) else {}
    names = inside.get('dataset_meta') or {key.lower(): inside.get(key) for key in ('CLASSES', 'PALETTE')}
    meta = text.meta | {'source': source}
    given = mmengine_file.class_names(names)
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
    """What a file holds beside weights and meta; nothing where it is the state dict itself."""
    inner = mit.state_of(payload)
    if set(inner) & set(payload):
        return ()
    return tuple(str(key) for key in payload if key not in ('state_dict', 'model', 'meta'))


def _check(weights: mit.Weights, arch: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError unless the weights are exactly those of a MiT of `arch`, and of the head it comes with."""
    from mmseg_tr.nn.mit import MixVisionTransformer
    from mmseg_tr.nn.segformer import SegFormer

    try:
        with torch.device('meta'):
            needed = fit.shapes(MixVisionTransformer(dict(arch)))
            if weights.head:
                state = weights.state
                channels = state['decode_head.fusion_conv.conv.weight'].shape[0]
                classes = state['decode_head.conv_seg.weight'].shape[0]
                model = SegFormer(MixVisionTransformer(dict(arch)), classes, head=weights.head, channels=channels)
                needed = fit.shapes(model)
    except (ConfigError, KeyError, RuntimeError) as error:
        raise CheckpointError(f'{where} holds no SegFormer that can be built: {error}') from error
    found = fit.difference(weights.state if weights.head else weights.backbone(), needed)
    if found:
        raise CheckpointError(f'{where} does not fit a network of the dimensions that it begins with: {found}.')


def _eps(weights: mit.Weights) -> tuple[str, ...]:
    """What to know about LayerNorm eps."""
    settings = mit.EPS.get(weights.layout, {})
    return tuple(
        f'these weights were made with LayerNorm {key}={value}, a setting of the backbone.'
        for key, value in settings.items()
    )
