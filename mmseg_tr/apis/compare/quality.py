"""Accuracy of each compared model and its agreement with the plain model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import METRICS
from torch import Tensor

from mmseg_tr.apis.test import set_metric
from mmseg_tr.evaluation import SegmenterIoUMetric
from mmseg_tr.evaluation.pose_metrics import PCK

SAME = 0.05  # keypoints nearer than this share of the box's longer side agree
THRESHOLDS = (0.1, 0.05)


class Judge:
    """Collect the predictions of every model per batch: take() for each model, then close().

    names: of the models, the plain one first. metric: a config, built once a model.
    """

    measure: str  # the name of a row's `quality`

    def __init__(self, names: Iterable[str], metric: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        # a prefix, which only evaluate() uses, avoids mmengine's warning about a missing one
        self.metrics = {name: METRICS.build({'prefix': name, **metric}) for name in names}
        for built in self.metrics.values():
            built.dataset_meta = dict(meta)
        self.same = dict.fromkeys(self.metrics, 0)
        self.counted = 0
        self.batch: dict[str, Tensor] = {}

    def take(self, name: str, data: Any, samples: Sequence[Any]) -> None:
        """Take a model's predictions of a batch. Samples are read at once, so models may reuse the same objects."""
        self.metrics[name].process(data, [sample.to_dict() for sample in samples])
        self.batch[name] = self.prediction(samples)

    def close(self, samples: Sequence[Any]) -> None:
        """Compare every prediction of the batch with the plain model's where labels exist."""
        counts = self.labelled(samples)
        self.counted += counts.sum().item()
        plain = next(iter(self.batch.values()))
        for name, prediction in self.batch.items():
            self.same[name] += (self.agrees(prediction, plain, samples) & counts.to(prediction.device)).sum().item()
        self.batch = {}

    def agreement(self) -> dict[str, float]:
        """Return the agreement in percent of what is labelled."""
        return {name: 100 * count / max(self.counted, 1) for name, count in self.same.items()}

    def quality(self) -> dict[str, dict[str, float]]:
        """Return the scores of a row, in percent, by model."""
        raise NotImplementedError

    def prediction(self, samples: Sequence[Any]) -> Tensor:
        raise NotImplementedError

    def labelled(self, samples: Sequence[Any]) -> Tensor:
        raise NotImplementedError

    def agrees(self, prediction: Tensor, plain: Tensor, samples: Sequence[Any]) -> Tensor:
        raise NotImplementedError


class PixelJudge(Judge):
    """Segmentation: mean IoU; pixels of the same class agree."""

    measure = 'mIoU'

    def __init__(self, names: Iterable[str], config: Config, meta: Mapping[str, Any]) -> None:
        evaluation = copy.deepcopy(config)
        set_metric(evaluation, ['mIoU'], None, False)
        settings = evaluation.test_evaluator
        super().__init__(names, settings[0] if isinstance(settings, (list, tuple)) else settings, meta)
        self.ignored = next(iter(self.metrics.values())).ignore_index

    def quality(self) -> dict[str, dict[str, float]]:
        return {name: dict(miou=mean_iou(metric)) for name, metric in self.metrics.items()}

    def prediction(self, samples: Sequence[Any]) -> Tensor:
        return torch.stack([sample.pred_sem_seg.data[0] for sample in samples])

    def labelled(self, samples: Sequence[Any]) -> Tensor:
        return torch.stack([sample.gt_sem_seg.data[0] for sample in samples]) != self.ignored

    def agrees(self, prediction: Tensor, plain: Tensor, samples: Sequence[Any]) -> Tensor:
        return prediction == plain


class PoseJudge(Judge):
    """Pose: PCK at THRESHOLDS; keypoints agree whose distance is below SAME of the longer side of the box."""

    measure = f'PCK@{THRESHOLDS[0]}'

    def __init__(self, names: Iterable[str], config: Config, meta: Mapping[str, Any]) -> None:
        super().__init__(names, dict(type=PCK, thr=THRESHOLDS), meta)

    def quality(self) -> dict[str, dict[str, float]]:
        found = {name: metric.compute_metrics(metric.results) for name, metric in self.metrics.items()}
        return {
            name: {key: 100 * scores[f'PCK@{thr}'] for key, thr in zip(('pck', 'pck_strict'), THRESHOLDS)}
            for name, scores in found.items()
        }

    def prediction(self, samples: Sequence[Any]) -> Tensor:
        """(instances, K, 2)."""
        return torch.cat([torch.as_tensor(sample.pred_instances.keypoints[..., :2]) for sample in samples])

    def labelled(self, samples: Sequence[Any]) -> Tensor:
        return torch.cat([torch.as_tensor(sample.gt_instances.keypoints_visible) for sample in samples]) > 0

    def agrees(self, prediction: Tensor, plain: Tensor, samples: Sequence[Any]) -> Tensor:
        boxes = torch.cat([torch.as_tensor(sample.gt_instances.bboxes) for sample in samples])
        longer = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
        return (prediction - plain).norm(dim=-1) < SAME * longer


def mean_iou(metric: SegmenterIoUMetric) -> float:
    """Return the mean IoU in percent over the images seen; the metric's evaluate() would print a table of classes."""
    areas = (sum(parts) for parts in zip(*metric.results))
    return metric.percent(metric.total_area_to_metrics(*areas, ['mIoU'])['IoU'])
