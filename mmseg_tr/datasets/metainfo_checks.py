"""Check the classes and colours in a dataset's config before the dataset is built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from mmseg_tr.errors import ConfigError


def check_metainfo(config: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the classes and the palette of a dataset's config are lists of names and of colours.

    Datasets inside a wrapper are checked too. mmengine reads a text that is the path of a file as a list of its lines.
    """
    for inner in (config.get('dataset'), *(config.get('datasets') or ())):
        if isinstance(inner, Mapping):
            check_metainfo(inner)
    metainfo = config.get('metainfo')
    if metainfo is None:
        return
    if not isinstance(metainfo, Mapping):
        raise ConfigError(f'metainfo must be a dict such as dict(classes=(...), palette=[...]), got {metainfo!r}.')
    classes = metainfo.get('classes')
    if 'classes' in metainfo:
        check_classes(classes)
    palette = metainfo.get('palette')
    if palette is not None:
        check_palette(palette, len(classes) if classes is not None and not isinstance(classes, str) else None)


def check_classes(classes: Any) -> None:
    """Raise ConfigError unless `classes` is a list of different names, or the path of a file of names."""
    if isinstance(classes, str):
        if os.path.isfile(classes):
            return
        raise ConfigError(
            f'metainfo.classes must be a list of names, got the text {classes!r}: write ({classes!r},) for one class.'
        )
    if not isinstance(classes, Sequence) or not classes or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"metainfo.classes must be a list of names such as ('road', 'car'), got {classes!r}.")
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise ConfigError(f'metainfo.classes must be different names, got {twice[0]!r} more than once.')


def check_palette(palette: Any, length: int | None = None) -> None:
    """Raise ConfigError unless `palette` is a list of colours (r, g, b) from 0 to 255, `length` of them."""
    is_list = isinstance(palette, Sequence) and not isinstance(palette, str)
    if not is_list or not all(_is_colour(colour) for colour in palette):
        wrong = next((colour for colour in palette if not _is_colour(colour)), palette) if is_list else palette
        raise ConfigError(f'metainfo.palette must be a list of colours [r, g, b] of numbers 0 to 255, got {wrong!r}.')
    if length is not None and len(palette) != length:
        raise ConfigError(f'metainfo.palette must have one colour a class: it has {len(palette)} for {length} classes.')


def _is_colour(colour: Any) -> bool:
    return (
        isinstance(colour, Sequence)
        and not isinstance(colour, str)
        and len(colour) == 3
        and all(isinstance(value, Integral) and 0 <= value <= 255 for value in colour)
    )
