"""Segmentation scores, counted exactly over the whole dataset."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence

import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from PIL import Image
from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.evaluation.submission import FORMATS, prediction_files, resolve_format, to_submission
from mmseg_tr.files import open_atomically
from mmseg_tr.registry import METRICS

SCORES = ('mIoU', 'mDice', 'mFscore')


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError unless `names` are one or more of the known metrics."""
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise ConfigError(f'metric {", ".join(unknown) or "missing"}: choose among {", ".join(SCORES)}')


@METRICS.register_module()
class SegmenterIoUMetric(IoUMetric):
    """mmseg's IoUMetric with exact counts, the scores of each class kept, and the test servers' file formats.

    mmseg adds pixel counts up in float32, which loses pixels once a class has more than 2**24 of them; here they are
    integers and the ratios float64, as in the releases that the published scores come from. After an evaluation, on
    the main process, `class_scores` maps 'IoU', 'Acc' ... to one float64 a class in [0, 1], NaN for a class that is
    nowhere, and `areas` holds the counts they come from.

    iou_metrics: any of mIoU, mDice, mFscore.
    submission: how predictions are numbered in the files of `output_dir`: 'ade20k', 'cityscapes', 'index', or 'auto'
        to choose by the dataset.
    The other arguments are mmseg's.
    Raises ConfigError for an unknown metric or format, before anything is evaluated.
    """

    def __init__(self, iou_metrics: str | Sequence[str] = ('mIoU',), submission: str = 'auto', **kwargs):
        names = [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics)
        check_names(names)
        if submission not in FORMATS:
            raise ConfigError(f'submission format {submission!r} is not known: choose one of {", ".join(FORMATS)}')
        super().__init__(iou_metrics=names, **kwargs)
        if self.output_dir is not None:  # mmseg lets the main process make it, which may be later
            os.makedirs(self.output_dir, exist_ok=True)
        self.submission = submission
        self._files: dict[str, str] = {}  # the prediction file of each image, below output_dir
        self._owners: dict[str, str] = {}  # the image of each prediction file
        self.class_scores: dict[str, np.ndarray] = {}
        self.areas: tuple[Tensor, ...] | None = None  # pixels of each class: in both, in either, predicted, labelled

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of each image and, where `output_dir` is set, write its prediction."""
        classes = self.dataset_meta['classes']
        for sample in data_samples:
            prediction = sample['pred_sem_seg']['data'].squeeze(0)
            if not self.format_only:
                label = sample['gt_sem_seg']['data'].squeeze(0).to(prediction)
                self.results.append(self.intersect_and_union(prediction, label, len(classes), self.ignore_index))
            if self.output_dir is not None:
                form = resolve_format(self.submission, classes, sample.get('reduce_zero_label', False))
                self._write(to_submission(prediction.cpu().numpy(), form), sample['img_path'])

    def plan_files(self, paths: Sequence[str], reduce_zero_label: bool = False) -> None:
        """Plan one prediction file per image below `output_dir`, before anything is evaluated.

        The file has the image's base name. Where two images share one, class numbers ('index') keep the folders of
        their images; test servers take no folders: then DatasetError is raised.
        """
        form = resolve_format(self.submission, self.dataset_meta['classes'], reduce_zero_label)
        self._files = prediction_files(paths, keep_folders=form == 'index')

    def _write(self, pixels: np.ndarray, image: str) -> None:
        if image not in self._files:  # not planned in a run by mmseg's own tools
            self._files[image] = prediction_files([image], keep_folders=False)[image]
            prediction_files([self._owners.setdefault(self._files[image], image), image], keep_folders=False)
        with open_atomically(osp.join(self.output_dir, self._files[image]), sync=False) as file:
            Image.fromarray(pixels).save(file, format='PNG')

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return pixels of each class of one image, int64: in both, in either, predicted, labelled.

        pred_label, label: (H, W) class numbers. Pixels labelled `ignore_index` are excluded.
        """
        counted = label != ignore_index
        prediction, label = pred_label[counted].long(), label[counted].long()

        def count(values: Tensor) -> Tensor:
            return torch.bincount(values, minlength=num_classes)[:num_classes].cpu()

        both, predicted, labelled = count(label[prediction == label]), count(prediction), count(label)
        return both, predicted + labelled - both, predicted, labelled

    @staticmethod
    def total_area_to_metrics(*areas: Tensor, **kwargs) -> dict[str, np.ndarray]:
        """Return mmseg's ratios in float64."""
        counts, settings = areas[:4], areas[4:]
        return IoUMetric.total_area_to_metrics(*(area.double() for area in counts), *settings, **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return scores in percent with two decimals, as plain floats. Only the main process calls this."""
        metrics = super().compute_metrics(results)
        if not self.format_only:
            self.areas = tuple(sum(parts) for parts in zip(*results))
            ratios = self.total_area_to_metrics(*self.areas, self.metrics, self.nan_to_num, self.beta)
            self.class_scores = {name: value for name, value in ratios.items() if name != 'aAcc'}
        return {name: float(value) for name, value in metrics.items()}

    @staticmethod
    def percent(ratio: np.ndarray) -> float:
        """Return the mean over the classes that occur, in percent with two decimals; NaN when none does."""
        known = ratio[~np.isnan(ratio)]
        return float(np.round(known.mean() * 100, 2)) if known.size else float('nan')
