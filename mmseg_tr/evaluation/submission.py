"""Convert predictions to the numbers that test servers expect."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmseg_tr.errors import ConfigError, DatasetError

# the Cityscapes server's labelId, in the order of the 19 trainIds (labels.py of cityscapesScripts)
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_CLASSES = (
    'road',
    'sidewalk',
    'building',
    'wall',
    'fence',
    'pole',
    'traffic light',
    'traffic sign',
    'vegetation',
    'terrain',
    'sky',
    'person',
    'rider',
    'car',
    'truck',
    'bus',
    'train',
    'motorcycle',
    'bicycle',
)
FORMATS = ('auto', 'ade20k', 'cityscapes', 'index')


def resolve_format(name: str, classes: Sequence[str] | None, reduce_zero_label: bool) -> str:
    """Return the format that 'auto' means for a dataset; any other name unchanged.

    'cityscapes' where the classes are Cityscapes' 19; 'ade20k', numbers from 1, where the dataset leaves the label 0
    out; else 'index', the unchanged class numbers.
    Raises ConfigError for an unknown name, and for 'cityscapes' with other classes than its 19.
    """
    if name not in FORMATS:
        raise ConfigError(f'submission format {name!r} is not known: choose one of {", ".join(FORMATS)}')
    is_cityscapes = tuple(classes or ()) == CITYSCAPES_CLASSES
    if name == 'cityscapes' and len(classes or ()) != len(CITYSCAPES_LABEL_IDS):
        raise ConfigError(f'submission format cityscapes needs its 19 classes, the dataset has {len(classes or ())}')
    if name != 'auto':
        return name
    if is_cityscapes:
        return 'cityscapes'
    return 'ade20k' if reduce_zero_label else 'index'


def prediction_files(images: Sequence[str], keep_folders: bool) -> dict[str, str]:
    """Return each image's prediction file: its base name as PNG; with its folders if base names are not unique.

    keep_folders: whether folders are allowed. Raises DatasetError, naming two images of one name, where they are not.
    """
    images = list(dict.fromkeys(images))
    names = {image: f'{_stem(image)}.png' for image in images}
    first: dict[str, str] = {}
    for image, name in names.items():
        other = first.setdefault(name, image)
        if other == image:
            continue
        if not keep_folders:
            raise DatasetError(
                f'the predictions of {other} and {image} would both be the file {name}: give the images different '
                "names, or write class numbers below folders with submission='index' of SegmenterIoUMetric."
            )
        folder = os.path.commonpath([os.path.dirname(image) for image in images])
        return _distinct({image: os.path.splitext(os.path.relpath(image, folder))[0] + '.png' for image in images})
    return names


def _distinct(names: dict[str, str]) -> dict[str, str]:
    """Keep the suffix of images whose names differ in it only."""
    counts = Counter(names.values())
    suffix = {image: os.path.splitext(image)[1] if counts[name] > 1 else '' for image, name in names.items()}
    return {image: f'{name[:-4]}{suffix[image]}.png' for image, name in names.items()}


def _stem(image: str) -> str:
    return os.path.splitext(os.path.basename(image))[0]


def to_submission(prediction: np.ndarray, form: str) -> np.ndarray:
    """Convert class numbers (H, W) to those of a prediction file, uint8; `form` is from `resolve_format`."""
    if form == 'cityscapes':
        return np.asarray(CITYSCAPES_LABEL_IDS, dtype=np.uint8)[prediction]
    return (prediction + (form == 'ade20k')).astype(np.uint8)
