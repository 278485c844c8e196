"""Load a dataset's pictures and labels through its own transforms, without its augmentation."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LIBRARIES = ('mmcv.', 'mmseg.', 'mmdet.', 'mmpose.', 'mmengine.')
OURS = 'mmseg_tr.'


@dataclass(frozen=True)
class LoadedLabel:
    """A label in the network's numbers, its picture, and the loaded sizes (h, w) of both."""

    label: np.ndarray
    label_size: tuple[int, int]
    picture_size: tuple[int, int] | None
    picture: np.ndarray | None = None


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the datasets that hold files, inside ConcatDataset, RepeatDataset and other wrappers at any depth."""
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())]
    inner = [one for one in inner if one is not None]
    if not inner:
        yield dataset
    for one in inner:
        yield from leaf_datasets(one)


def image_paths(dataset: Any) -> list[str]:
    """Return the paths of all images, in the order of the items."""
    return [leaf.get_data_info(index)['img_path'] for leaf in leaf_datasets(dataset) for index in range(len(leaf))]


class LabelLoader:
    """Apply a pipeline's loading transforms and the user's own, which may change the numbers of labels.

    Resizing, cropping, flipping and colour transforms of the OpenMMLab libraries are left out: they do not change which
    numbers a label holds.
    """

    def __init__(self, pipeline: Any):
        self.transforms = [one for one in _flat(getattr(pipeline, 'transforms', ())) if _matters(one)]

    @property
    def is_thread_safe(self) -> bool:
        """Return whether all transforms are known: a user's own may draw random numbers or keep state."""
        return all(type(one).__module__.startswith((*LIBRARIES, OURS)) for one in self.transforms)

    def __call__(self, info: dict) -> LoadedLabel | None:
        """Load the label of an item, `info` from dataset.get_data_info(); None when the pipeline loads none."""
        size: tuple[int, int] | None = None
        for transform in self.transforms:
            info = transform(info)
            if info is None:
                return None
            label = info.get('gt_seg_map')
            if size is None and label is not None:
                size = tuple(np.shape(label)[:2])
                picture = info.get('ori_shape') or np.shape(info.get('img', ()))
                picture = tuple(int(side) for side in picture[:2]) or None
        return None if size is None else LoadedLabel(np.asarray(info['gt_seg_map']), size, picture, info.get('img'))


def _matters(transform: Any) -> bool:
    name, module = type(transform).__name__, type(transform).__module__
    return name.startswith('Load') or not (module.startswith(LIBRARIES) or name.startswith('Pack'))


def _flat(transforms: Sequence[Any]) -> Iterator[Any]:
    """Return the transforms of a pipeline; of TestTimeAug those of its first variant."""
    for transform in transforms:
        variants = getattr(transform, 'subroutines', None)
        if variants:
            yield from _flat(variants[0].transforms)
        else:
            yield transform


def has_labels(info: Mapping[str, Any]) -> bool:
    """Return whether an item of a segmentation dataset names a label."""
    return bool(info.get('seg_map_path'))


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch, so that a check does not change a training."""
    states: list[tuple[Callable, Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)
