"""Pictures with other numbers of channels than 1 and 3, which onedl-mmsegmentation refuses to normalise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import ImgDataPreprocessor
from mmengine.registry import MODELS

from mmseg_tr.errors import ConfigError

NAMES = ('SegDataPreProcessor', 'mmseg.SegDataPreProcessor')


def take_any_channels(model: Mapping[str, Any]) -> None:
    """Let the preprocessor of a model's settings normalise any number of channels, in place.

    Only where mmseg's own asserts 1 or 3 (onedl's, which derives from mmengine's), and where others are asked for.
    Raises ConfigError when mean and std have different lengths.
    """
    inner = model.get('module')
    if isinstance(inner, Mapping):  # inside test-time augmentation
        take_any_channels(inner)
    settings = model.get('data_preprocessor')
    if not isinstance(settings, Mapping) or settings.get('type') not in NAMES:
        return
    mean, std = settings.get('mean'), settings.get('std')
    if not (isinstance(mean, list | tuple) and isinstance(std, list | tuple)) or len(mean) in (1, 3):
        return
    if len(mean) != len(std):
        raise ConfigError(f'data_preprocessor.mean and std must have as many values, got {len(mean)} and {len(std)}.')
    kind = MODELS.get('mmseg.SegDataPreProcessor')
    if isinstance(kind, type) and issubclass(kind, ImgDataPreprocessor):
        settings['type'] = 'mmseg_tr.AnyChannelsPreProcessor'
