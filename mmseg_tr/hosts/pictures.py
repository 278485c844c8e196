"""Pictures as a network takes them: normalised as the network itself says, never by a guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.errors import ConfigError, MissingExtraError
from mmseg_tr.nn.image_transform import ImageTransform

PROCESSOR = 'preprocessor_config.json'
PROCESSORS = (PROCESSOR, 'processor_config.json')


def transform_of(model: nn.Module) -> ImageTransform:
    """Return the normalisation of a network: timm's pretrained_cfg, the image processor beside a saved model of
    transformers, or that of create_model(). Raises ConfigError where it is not known.
    """
    own = getattr(model, 'transform', None)
    if isinstance(own, ImageTransform):
        return own
    cfg = getattr(model, 'pretrained_cfg', None)
    if cfg and cfg.get('mean') and cfg.get('std'):
        return ImageTransform(mean=cfg['mean'], std=cfg['std'])
    folder = getattr(getattr(model, 'config', None), '_name_or_path', '')
    if folder and Path(folder).is_dir():
        return processor_transform(Path(folder))
    raise ConfigError(
        f'the normalisation of this {type(model).__name__} is not known: give an image, (B, C, H, W) as the network '
        'takes it.'
    )


def processor_transform(folder: Path) -> ImageTransform:
    """Return the normalisation in the image processor's file of a folder. Raises ConfigError without one."""
    for name in PROCESSORS:
        if (folder / name).is_file():
            return transform_from(_settings_in(folder / name), folder / name)
    raise ConfigError(f'{folder} has no {PROCESSOR}, which says how pictures are normalised: save the image processor.')


def _settings_in(file: Path) -> dict[str, Any]:
    """Return the settings in an image processor's file. Raises ConfigError for a file that is not one."""
    try:
        settings = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f'{file} cannot be read ({" ".join(str(error).split())}): save the image processor.'
        ) from error
    if not isinstance(settings, dict) or not isinstance(settings.get('image_processor', {}), dict):
        raise ConfigError(f'{file} does not hold the settings of an image processor: save it again.')
    return settings


def transform_from(settings: dict[str, Any], where: Any) -> ImageTransform:
    """Return the normalisation that an image processor's settings describe. Raises ConfigError for others."""
    settings = settings.get('image_processor', settings)
    if not settings.get('do_rescale', True) or settings.get('rescale_factor', 1 / 255) != 1 / 255:
        raise ConfigError(f'{where} does not scale pixels to 0..1, which is not supported.')
    if not settings.get('do_normalize', True):
        return ImageTransform(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    if not settings.get('image_mean') or not settings.get('image_std'):
        raise ConfigError(f'{where} must have image_mean and image_std, which say how pictures are normalised.')
    try:
        return ImageTransform(mean=settings['image_mean'], std=settings['image_std'])
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f'image_mean and image_std of {where} must be three numbers each ({error}).') from error


def photographs(model: nn.Module, count: int, size: tuple[int, int]) -> Tensor:
    """Return different bundled photographs as a network takes them, (count, 3, H, W) float32.

    Raises ConfigError where the normalisation is not known, MissingExtraError without the packages that hold them.
    """
    transform = transform_of(model)
    try:
        pictures = photograph_batch(count, size)
    except MissingExtraError as error:
        raise MissingExtraError(f'{error}, or give an image.', name=error.name) from error
    return torch.stack([transform(torch.from_numpy(picture)) for picture in pictures])
