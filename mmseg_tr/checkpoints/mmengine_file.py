"""Checkpoints that mmengine wrote, made readable without trusting them: weights, plain facts and the config.

mmengine keeps its training curves in them as objects that torch does not load by default; those, the optimiser and
everything else for training are left out.
"""

import os
import reprlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmseg_tr.checkpoints.converted import Converted, refuse_variant
from mmseg_tr.weights import fit, formats, io

NAME = formats.MMENGINE.name

_FACTS = ('epoch', 'iter', 'seed', 'experiment_name', 'time', 'mmengine_version')


def convert(payload: Mapping[str, Any], path: Path, *, variant: str | os.PathLike | None = None) -> Converted:
    """Keep the weights, the plain part of `meta` and the config inside; see `mmseg_tr.checkpoints.convert`."""
    refuse_variant(variant, path, f'an {NAME}')
    fit.check_tensors(payload['state_dict'], f'state_dict of {path}')
    given = payload.get('meta')
    given = given if isinstance(given, Mapping) else {}
    # exact types: numpy's numbers count as floats and would make the new file unreadable again
    meta = {key: given[key] for key in _FACTS if type(given.get(key)) in (int, float, str)}
    classes = class_names(given)
    if classes:
        meta['dataset_meta'] = classes
    config = str(given['cfg']) if isinstance(given.get('cfg'), str) else None
    if config is not None:
        note = 'the config was kept inside the file; a config can run code, so read it before you use it.'
    else:
        note = 'no config is kept inside this file: use the one it was trained with.'
    dropped = tuple(str(key) for key in payload if key not in ('state_dict', 'meta'))
    return Converted(
        what=NAME,
        state_dict=io.contiguous(payload['state_dict']),
        meta=meta,
        config=config,
        dropped=dropped,
        notes=(note,),
        testable=config is not None and 'test_dataloader' in config,
    )


def class_names(meta: Any) -> dict[str, Any]:
    """Return classes and palette of a file's meta as plain lists; warns of what is not valid, and leaves it out."""
    meta = meta if isinstance(meta, Mapping) else {}
    named = meta.get('dataset_meta') or {key.lower(): meta.get(key) for key in ('CLASSES', 'PALETTE')}  # mmcv: capitals
    if not isinstance(named, Mapping):
        _warn('dataset_meta', 'a dict', named)
        return {}
    plain = {}
    classes, palette = named.get('classes'), named.get('palette')
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        plain['classes'] = list(classes)
    elif classes is not None:
        _warn('classes', 'a list of names', classes)
    if isinstance(palette, list | tuple) and all(map(_is_colour, palette)):
        plain['palette'] = [[int(channel) for channel in colour] for colour in palette]
    elif palette is not None:
        _warn('palette', 'a list of colours [r, g, b] of numbers 0 to 255', palette)
    return plain


def _warn(name: str, allowed: str, value: Any) -> None:
    warnings.warn(
        f'{name} in the meta of the checkpoint must be {allowed}, got {reprlib.repr(value)}: it is left out.',
        stacklevel=3,
    )


def _is_colour(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_level(channel) for channel in value)


def _is_level(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 255
