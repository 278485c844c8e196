"""Recognise the published layout of a file of weights by its keys. checkpoints/ converts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmseg_tr.options import check_type
from mmseg_tr.weights.io import few
from mmseg_tr.weights.segformer_keys import HUGGING_FACE, NVIDIA

POLICY = 'policy_net.'  # of CTS's policy network in a release; a file of its own has no prefix
LINEAR_HEAD = {'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'}  # the only weights of mmseg's linear head
MMSEG_PATCHES = 'backbone.patch_embed.projection.weight'
BACKBONE = 'backbone.'
MIT_PATCHES = 'layers.0.0.projection.weight'
# the ImageNet classifiers, which official Segmenters contain but do not use
UNUSED_IN_RELEASES = ('encoder.head.', 'encoder.head_dist.')


@dataclass(frozen=True)
class Format:
    """A layout. recognise: whether the content of a file has it."""

    name: str
    recognise: Callable[[Any], bool]


def state_of(payload: Any) -> Mapping[str, Any]:
    """Return the state dict in a file's content: under state_dict or model, or bare; empty without one."""
    if not isinstance(payload, Mapping):
        return {}
    return next((payload[key] for key in ('state_dict', 'model') if isinstance(payload.get(key), Mapping)), payload)


def config_inside(payload: Any) -> str:
    """Return the text of the config in a file's meta, '' without one."""
    meta = payload.get('meta') if isinstance(payload, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    text = meta.get('cfg') or meta.get('config')  # the latter in files of mmcv
    return text if isinstance(text, str) else ''


def checkpoint_path(release: str | os.PathLike) -> Path:
    """Return the checkpoint of an official release given as its folder or as the file itself."""
    check_type('checkpoint', release, str | os.PathLike)
    path = Path(release)
    return path / 'checkpoint.pth' if path.is_dir() else path


def is_release(payload: Any) -> bool:
    """Whether it is an official release of Segmenter or ALGM, or one of CTS."""
    model = payload.get('model') if isinstance(payload, Mapping) else None
    return isinstance(model, Mapping) and any(str(key).startswith(('encoder.', 'decoder.')) for key in model)


def is_cts_release(payload: Any) -> bool:
    """Whether it is an official release that holds a policy network."""
    return is_release(payload) and any(str(key).startswith(f'{POLICY}backbone.') for key in payload['model'])


def is_policy(payload: Any) -> bool:
    """Whether it is a policy network alone, as the published training of policy networks saves it."""
    return isinstance(payload, Mapping) and 'backbone.conv_stem.weight' in payload and 'head.weight' in payload


def is_expedite(payload: Any) -> bool:
    """Whether it has mmseg's keys in the backbone and Segmenter's own in the head."""
    state = payload.get('state_dict') if isinstance(payload, Mapping) else None
    needed = (MMSEG_PATCHES, 'decode_head.cls_emb', 'decode_head.proj_patch')
    return isinstance(state, Mapping) and all(key in state for key in needed)


def is_mmseg_segmenter(payload: Any) -> bool:
    """Whether it is mmseg's ViT under its mask transformer or a linear head, without a neck."""
    state = payload.get('state_dict') if isinstance(payload, Mapping) else None
    if not isinstance(state, Mapping) or MMSEG_PATCHES not in state:
        return False
    head = {key for key in state if str(key).startswith(('decode_head.', 'neck.'))}
    return 'backbone.layers.0.ln1.weight' in state and ('decode_head.dec_proj.weight' in head or head == LINEAR_HEAD)


def mit_layout(payload: Any) -> str | None:
    """'openmmlab', 'nvidia' or 'huggingface' for a MiT, alone or under a decode_head; None for anything else."""
    state = state_of(payload)
    if HUGGING_FACE.recognise(state):
        return 'huggingface'
    if NVIDIA.recognise(state):
        return 'nvidia'
    other = [key for key in state if str(key).startswith(('head.', 'neck.'))]
    return 'openmmlab' if (MIT_PATCHES in state or BACKBONE + MIT_PATCHES in state) and not other else None


def is_segformer(payload: Any) -> bool:
    """Whether it is a published MiT or SegFormer; files of this package, recognised by their config, are excluded."""
    return mit_layout(payload) is not None and 'mmseg_tr.' not in config_inside(payload)


def is_mmengine(payload: Any) -> bool:
    """Whether it is laid out as mmengine saves any model."""
    return isinstance(payload, Mapping) and isinstance(payload.get('state_dict'), Mapping)


OFFICIAL_CTS = Format('official CTS release or policy network', lambda file: is_cts_release(file) or is_policy(file))
OFFICIAL_SEGMENTER = Format('official Segmenter or ALGM release', is_release)
EXPEDITE = Format('Segmenter in the layout of the Expedite repository', is_expedite)
MMSEG_SEGMENTER = Format('mmsegmentation 1.x Segmenter checkpoint', is_mmseg_segmenter)
SEGFORMER = Format('MiT or SegFormer checkpoint of OpenMMLab, SegFormer++, NVIDIA or Hugging Face', is_segformer)
MMENGINE = Format('mmengine checkpoint', is_mmengine)
_TRANSFORMERS_KEYS = ('segformer.', 'stages.', 'decode_head.linear_', 'decode_head.classifier')
TRANSFORMERS = (
    ', with keys of transformers in memory, whose newer versions rename them: write the model with '
    'save_pretrained(FOLDER) and give FOLDER/model.safetensors'
)
FORMATS = (OFFICIAL_CTS, OFFICIAL_SEGMENTER, EXPEDITE, MMSEG_SEGMENTER, SEGFORMER, MMENGINE)


def format_of(payload: Any) -> Format | None:
    """Return the first of FORMATS that recognises a file's content."""
    return next((form for form in FORMATS if form.recognise(payload)), None)


def describe(payload: Any) -> str:
    """Describe a file's content in a few words."""
    form, state = format_of(payload), state_of(payload)
    hint = TRANSFORMERS if any(str(key).startswith(_TRANSFORMERS_KEYS) for key in state) else ''
    if form is not None:
        return f'{"a" if form.name[0].isupper() else "an"} {form.name}{hint if form is MMENGINE else ""}'
    if isinstance(payload, Mapping):
        return f'it holds {few(payload)}{hint}' if payload else 'it holds nothing'
    return f'it holds a {type(payload).__name__}'
