"""Pose metrics of mmpose with several thresholds in one pass and plain numbers as results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmpose.evaluation import CocoMetric as _CocoMetric
from mmpose.evaluation import PCKAccuracy as _PCKAccuracy
from mmpose.evaluation.functional import keypoint_pck_accuracy

from mmseg_tr.console import hushed
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.registry import METRICS


@METRICS.register_module()
class PCKAccuracy(_PCKAccuracy):
    """Percentage of correct keypoints, as a share in [0, 1], at every threshold: 'PCK@0.1', 'PCK@0.05' ...

    A keypoint is correct when it is nearer to the true one than `thr` times the longer side of the box. The score is
    the mean over the joints of their shares among labelled instances, hidden ones too (visibility above 0).

    thr: one threshold or several.
    The other arguments are mmpose's; boxes are the only norm.
    Raises ConfigError for thresholds that are not numbers above 0.
    """

    def __init__(self, thr: float | Sequence[float] = (0.1, 0.05), **kwargs) -> None:
        thresholds = list(thr) if isinstance(thr, Sequence) else [thr]
        if not thresholds or not all(isinstance(value, (int, float)) and value > 0 for value in thresholds):
            raise ConfigError(f'PCKAccuracy: thr must be numbers above 0, such as (0.1, 0.05), got {thr!r}.')
        if kwargs.get('norm_item', 'bbox') != 'bbox':
            raise ConfigError(
                f'norm_item={kwargs["norm_item"]!r}: use mmpose.PCKAccuracy for norms other than the box.'
            )
        super().__init__(thr=max(thresholds), **kwargs)
        self.thresholds = thresholds

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return scores over all figures; NaN where nothing is labelled. Only the main process calls this."""
        predicted, true, labelled, sides = (
            np.concatenate([result[key] for result in results])
            for key in ('pred_coords', 'gt_coords', 'mask', 'bbox_size')
        )
        if not labelled.any():
            return {f'PCK@{thr:g}': float('nan') for thr in self.thresholds}
        # Copies: mmpose's function overwrites the sides of empty boxes, which would count from the second threshold on.
        return {
            f'PCK@{thr:g}': float(keypoint_pck_accuracy(predicted, true, labelled.copy(), thr, sides.copy())[1])
            for thr in self.thresholds
        }


@METRICS.register_module()
class CocoMetric(_CocoMetric):
    """mmpose's CocoMetric with plain numbers; what it and pycocotools print is kept from the terminal.

    from_samples: compare with the labels of the instances that were tested, not with an annotation file, which would
        count what was left out of a test on a part of the dataset as missed.
    Raises DatasetError when the annotation file does not exist.
    """

    def __init__(self, ann_file: str | None = None, from_samples: bool = False, **kwargs) -> None:
        if ann_file is not None and '://' not in ann_file and not Path(ann_file).is_file():
            raise DatasetError(f'there is no annotation file {ann_file} for CocoMetric: check the path')
        with hushed():
            super().__init__(ann_file=None if from_samples else ann_file, **kwargs)
        self.from_samples = from_samples

    @property
    def dataset_meta(self) -> dict | None:
        """Metainfo of the dataset. Once it is set, mmpose reads the dataset's annotation file."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        with hushed():
            _CocoMetric.dataset_meta.fset(self, meta)
        if self.from_samples:
            self.coco = None

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return AP and AR by name. Only the main process calls this."""
        with hushed():
            scores = super().compute_metrics(results)
        return {name: float(value) for name, value in scores.items()}
