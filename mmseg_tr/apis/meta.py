"""Names and colours of classes, and keypoints, from the config's built dataset or else the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from mmseg_tr.datasets.metainfo_checks import check_classes, check_metainfo, check_palette
from mmseg_tr.engine.preprocess import dataset_configs
from mmseg_tr.errors import ConfigError
from mmseg_tr.weights.io import read_file


@dataclass(frozen=True)
class Classes:
    """Names of a model's classes, and their colours: (red, green, blue) of each, or None."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None


def classes_of(config: Config, model: nn.Module, checkpoint: str | None = None) -> Classes:
    """Return names and colours of a segmentor's classes; unnamed ones are 'class 0', 'class 1', ...

    Raises ConfigError for a dataset or a checkpoint whose classes or colours are not such lists.
    """
    count = model.decode_head.num_classes
    names, palette = None, None
    for info in metainfos(config, checkpoint):
        if names is None and info.get('classes') and len(info['classes']) >= count:
            names = tuple(map(str, info['classes']))
        if palette is None and info.get('palette') is not None and len(info['palette']) >= count:
            palette = tuple(tuple(map(int, colour)) for colour in info['palette'])
        if names and palette:
            break
    return Classes(names or tuple(f'class {number}' for number in range(count)), palette)


def palette_of(config: Config, model: nn.Module, checkpoint: str | None = None) -> list[tuple[int, int, int]]:
    """Return the colours of a segmentor's classes. Raises ConfigError if neither dataset nor checkpoint has enough."""
    count = model.decode_head.num_classes
    if count > 255:
        raise ConfigError(f'the model has {count} classes: a label PNG holds 255 at most.')
    palette = classes_of(config, model, checkpoint).palette
    if palette is None:
        raise ConfigError(
            f'the config {config.filename} has no dataset with colours for {count} classes: add a test_dataloader '
            'whose dataset has metainfo=dict(palette=[[r, g, b], ...]).'
        )
    return list(palette)


def metainfos(config: Config, checkpoint: str | None = None) -> Iterator[Mapping[str, Any]]:
    """Yield the metainfo of the dataset of each of the config's loaders, test first, then the checkpoint's."""
    init_default_scope(config.get('default_scope') or 'mmseg')
    for dataset in dataset_configs(config):
        found = built_metainfo(dataset)
        if found:
            yield found
    if checkpoint is not None and Path(checkpoint).is_file():
        content = read_file(checkpoint)
        meta = content.get('meta') if isinstance(content, Mapping) else None
        info = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
        if isinstance(info, Mapping):
            names = info.get('classes') or info.get('CLASSES')
            palette = info.get('palette') or info.get('PALETTE')
            if names is not None:
                check_classes(names)
            if palette is not None:
                check_palette(palette)
            yield dict(info, classes=names, palette=palette)


def built_metainfo(dataset: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a dataset's metainfo as mmseg or mmpose builds it, subset and colours mapped, without its files.

    None for a type that is not registered. Raises ConfigError for metainfo that the type refuses.
    """
    check_metainfo(dataset)
    with DATASETS.switch_scope_and_registry(None) as registry:
        if isinstance(dataset.get('type'), str) and registry.get(dataset['type']) is None:
            return None
    settings = dict(dataset, lazy_init=True, pipeline=[])
    try:
        return DATASETS.build(settings).metainfo
    except (ValueError, TypeError, AssertionError, KeyError, IndexError, OSError) as error:
        raise ConfigError(f'the dataset {dataset.get("type")} of the config cannot be built: {error}') from error
