"""Transforms of labels for mmseg's pipelines."""

from __future__ import annotations

from collections.abc import Mapping

import mmseg_tr.registry  # noqa: F401 (first: it makes mmcv importable)

# isort: split

import numpy as np
from mmcv.transforms import BaseTransform

from mmseg_tr.errors import ConfigError
from mmseg_tr.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MapLabels(BaseTransform):
    """Replace numbers of a label by others, after LoadAnnotations; numbers that are not named stay.

    mapping: old number to new number. ``{255: 1}`` turns masks of 0 and 255 into classes 0 and 1; ``{11: 255}`` has
        class 11 ignored. All numbers are replaced at once, so ``{0: 1, 1: 0}`` exchanges two classes.
    Raises ConfigError for numbers outside 0 to 255.

    Required and modified key: gt_seg_map (h, w) uint8.
    """

    def __init__(self, mapping: Mapping[int, int]) -> None:
        is_mapping = isinstance(mapping, Mapping) and bool(mapping)
        numbers = [number for pair in mapping.items() for number in pair] if is_mapping else [None]
        if not all(isinstance(number, int) and 0 <= number <= 255 for number in numbers):
            raise ConfigError(f'MapLabels: mapping must be a dict of numbers from 0 to 255, got {mapping!r}.')
        self.mapping = dict(mapping)
        self._table = np.arange(256, dtype=np.uint8)
        self._table[list(self.mapping)] = list(self.mapping.values())

    def transform(self, results: dict) -> dict:
        results['gt_seg_map'] = self._table[results['gt_seg_map']]
        return results

    def __repr__(self) -> str:
        return f'MapLabels(mapping={self.mapping})'
