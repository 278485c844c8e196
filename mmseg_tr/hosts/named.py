"""Networks of other libraries by name: timm:NAME, transformers:FOLDER_OR_NAME."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import CheckpointError, ConfigError, require_extra
from mmseg_tr.hosts.pictures import processor_transform, transform_from, transform_of
from mmseg_tr.nn.image_transform import ImageTransform
from mmseg_tr.options import check_type
from mmseg_tr.values import numbers_in

ensure_torchvision()  # timm imports torchvision

import timm  # noqa: E402

LIBRARIES = ('timm', 'transformers')
RANDOM = 'none'  # the value of `weights` for random ones
LARGEST = 2**24  # width, side or count in a config


@dataclass(frozen=True)
class NamedModel:
    """A network in eval mode, how pictures enter it, and (H, W) at which it was trained."""

    name: str
    model: nn.Module
    transform: ImageTransform
    size: tuple[int, int]


def open_model(name: str, weights: str | None = None) -> NamedModel:
    """Build a network by name, 'timm:NAME' or 'transformers:FOLDER_OR_NAME', with the weights of that name.

    weights: 'none' for random ones. Raises ConfigError for a name that does not exist or without a normalisation,
    CheckpointError for weights that cannot be loaded, MissingExtraError without the library.
    """
    check_type('model', name, str)
    library, colon, rest = name.partition(':')
    if library not in LIBRARIES or not colon or not rest:
        raise ConfigError(
            f'model must be timm:NAME or transformers:FOLDER_OR_NAME, got {name!r}.', parameters=['model']
        )
    if weights not in (None, RANDOM):
        raise ConfigError(
            f'checkpoint must be left out for the weights of {name}, or {RANDOM!r} for random ones, got {weights!r}.',
            parameters=['checkpoint'],
        )
    build = from_timm if library == 'timm' else from_transformers
    torch.manual_seed(0)
    return build(name, rest, weights == RANDOM)


def from_timm(name: str, rest: str, random: bool) -> NamedModel:
    """Return a network of timm."""
    if not timm.is_model(rest):
        near = timm.list_models(f'*{rest.partition(".")[0]}*')[:3]
        hint = f': did you mean timm:{" or timm:".join(near)}?' if near else '.'
        raise ConfigError(f'{name} is not a model of timm {timm.__version__}{hint}', parameters=['model'])
    try:
        model = timm.create_model(rest, pretrained=not random).eval()
    except Exception as error:  # whatever the library and its downloads raise
        raise unavailable(name, error) from error
    height, width = model.pretrained_cfg['input_size'][1:]
    return NamedModel(name, model, transform_of(model), (height, width))


def from_transformers(name: str, rest: str, random: bool) -> NamedModel:
    """Return a network of transformers, of the class that its config names."""
    require_extra('transformers', 'transformers', f'to build {name}')
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    folder = Path(rest)
    if folder.exists() and not (folder / 'config.json').is_file():
        raise ConfigError(
            f'{rest} has no config.json: give a folder that save_pretrained() wrote.', parameters=['model']
        )
    try:
        config = transformers.AutoConfig.from_pretrained(rest)
        for key, number in numbers_in(config.to_dict()):
            if isinstance(number, int) and abs(number) > LARGEST:  # it would be asked for as memory
                raise ConfigError(f'{key} in its config.json must be at most {LARGEST}')
        kind = getattr(transformers, (config.architectures or ['AutoModel'])[0], transformers.AutoModel)
        model: Any
        if random:
            model = kind(config) if kind is not transformers.AutoModel else kind.from_config(config)
        else:
            model = kind.from_pretrained(rest)
        settings: Any = None if folder.is_dir() else ImageProcessingMixin.get_image_processor_dict(rest)[0]
    except Exception as error:  # whatever the library and its downloads raise
        raise unavailable(name, error) from error
    transform = processor_transform(folder) if settings is None else transform_from(settings, name)
    return NamedModel(name, model.eval(), transform, trained_size(config, name))


def trained_size(config: Any, name: str) -> tuple[int, int]:
    """Return (H, W) of the images that a network of transformers takes. Raises ConfigError where its config has
    none."""
    for part in (config, getattr(config, 'backbone_config', None), getattr(config, 'vision_config', None)):
        size = getattr(part, 'image_size', None)
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            return int(height), int(width)
    raise ConfigError(f'model {name} is not supported: its config has no image_size.', parameters=['model'])


def unavailable(name: str, error: Exception) -> CheckpointError:
    """Return the error of a name whose files are not here and cannot be fetched, or cannot be read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0].rstrip('.') if lines else type(error).__name__
    return CheckpointError(f'{name} cannot be loaded ({said}): give a name that was downloaded before, or a folder.')
