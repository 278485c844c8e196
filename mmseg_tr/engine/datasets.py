"""Build the datasets of a config; missing, empty or damaged files are reported in one sentence."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from mmengine.dataset import Compose
from mmengine.registry import DATASETS
from PIL import Image

from mmseg_tr.console import hushed
from mmseg_tr.datasets.empty import why_empty
from mmseg_tr.datasets.metainfo_checks import check_metainfo
from mmseg_tr.errors import ConfigError, DatasetError

UNSET = re.compile(r'unset:(\w+)')  # the value of {{$DATASET}} in our configs when the variable is not set


def build_dataset(config: Mapping[str, Any], fraction: float = 1.0) -> Any:
    """Build the dataset of a dataloader's config, fully read.

    fraction: the share of it to keep, evenly spread over its order.
    Raises DatasetError when a folder is missing or no image is found, and later, when a requested image cannot be
    read; ConfigError for a fraction of a dataset that cannot be split.
    """
    kind = str(config.get('type'))
    check_folders(config)
    check_metainfo(config)
    try:
        with hushed():
            dataset = DATASETS.build(config)
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
    except FileNotFoundError as error:
        reason = f'{error.filename} does not exist' if error.filename else error
        raise DatasetError(f'{kind}: {reason}') from error
    except json.JSONDecodeError as error:
        where = os.path.join(config.get('data_root') or '', config.get('ann_file') or '')
        raise DatasetError(f'{kind}: {where} is not a valid JSON annotation file ({error})') from error
    except ValueError as error:
        if 'is not a subset of classes' in str(error):  # mmseg's error for names that METAINFO lacks
            raise ConfigError(f'{kind}: metainfo.classes must be names of its own classes: {error}') from error
        if 'need at least one array' not in str(error):  # mmengine's error for an empty dataset
            raise
        raise DatasetError(why_empty(config)) from error
    if len(dataset) == 0:
        raise DatasetError(why_empty(config))
    _watch(dataset)
    if fraction != 1:
        _keep_fraction(dataset, fraction, kind)
    return dataset


def check_folders(config: Mapping[str, Any]) -> None:
    """Raise DatasetError when a folder of a dataset, or of one in it, does not exist. Remote ones are not checked."""
    for inner in [config.get('dataset'), *(config.get('datasets') or ())]:
        if isinstance(inner, Mapping):
            check_folders(inner)
    root = config.get('data_root') or ''
    prefixes = config.get('data_prefix') or {}
    paths = [root, *(os.path.join(root, path or '') for path in prefixes.values() if isinstance(path, str))]
    if config.get('ann_file'):
        paths.append(os.path.join(root, config['ann_file']))
    if config.get('bbox_file'):  # of pose datasets, relative to the working folder
        paths.append(config['bbox_file'])
    for path in paths:
        unset = UNSET.search(path)
        if unset:
            raise DatasetError(
                f'the environment variable {unset[1]} is not set: set it to the folder that holds the datasets, or '
                'give their data_root with --cfg-options'
            )
        if path and '://' not in path and not os.path.exists(path):
            raise DatasetError(f'{config.get("type")}: {path} does not exist, so the dataset is not prepared there')


def _keep_fraction(dataset: Any, fraction: float, kind: str) -> None:
    total = len(dataset)
    kept = max(1, round(fraction * total))
    try:
        # In place: mmengine's copy caches ids of freed objects, and may put a wrong object in place of a transform.
        dataset.get_subset_([index * total // kept for index in range(kept)])
    except (AttributeError, NotImplementedError) as error:
        raise ConfigError(f'a fraction of a {kind} cannot be taken: give its parts indices in the config') from error


def _watch(dataset: Any) -> None:
    """Make every pipeline, also those of datasets inside a wrapper, name the file that it cannot read."""
    for inner in [getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ())]:
        if inner is not None:
            _watch(inner)
    if type(getattr(dataset, 'pipeline', None)) is Compose:
        dataset.pipeline = WatchedPipeline(dataset.pipeline)


class WatchedPipeline(Compose):
    """A pipeline that raises a DatasetError with the path of an image or label file that cannot be read.

    Truncated files are refused too, although OpenCV would fill the rest of a JPEG with grey.
    """

    def __init__(self, pipeline: Compose):
        super().__init__(pipeline.transforms)

    def __call__(self, data: dict) -> dict | None:
        paths = [data[key] for key in ('img_path', 'seg_map_path') if isinstance(data.get(key), str)]
        for path in paths:
            if may_be_cut_off(path):
                _refuse_damaged(path)
        try:
            return super().__call__(data)
        except Exception as error:
            for path in paths:
                if '://' not in path:
                    _refuse_damaged(path, error)
            raise


def may_be_cut_off(path: str) -> bool:
    """Return whether a local PNG or JPEG lacks the end mark in its last bytes. Reads its first and last bytes."""
    try:
        with open(path, 'rb') as file:
            start = file.read(8)
            file.seek(max(0, os.path.getsize(path) - 4096))
            end = file.read()
    except OSError:  # missing or remote: the loader will report it
        return False
    if start.startswith(b'\x89PNG'):
        return b'IEND' not in end
    return start.startswith(b'\xff\xd8') and b'\xff\xd9' not in end


def _refuse_damaged(path: str, cause: Exception | None = None) -> None:
    """Raise DatasetError when the file `path` cannot be decoded."""
    if not os.path.isfile(path):
        raise DatasetError(f'the file {path} of the dataset does not exist') from cause
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow may raise almost anything on damaged data
        reason = 'it is empty' if os.path.getsize(path) == 0 else 'it is damaged or no image'
        raise DatasetError(f'the file {path} of the dataset cannot be read: {reason}') from error
