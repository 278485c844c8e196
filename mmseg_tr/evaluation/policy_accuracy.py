"""Accuracy of CTS's policy network on superpatches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmseg_tr.reduction.cts.sharing import IGNORE
from mmseg_tr.registry import METRICS


def count_right(prediction: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return how many superpatches are right, and how many count: those not labelled 255. 0 or 1, any equal shapes."""
    counted = labels != IGNORE
    return int(((prediction == labels) & counted).sum()), int(counted.sum())


@METRICS.register_module()
class PolicyAccuracy(BaseMetric):
    """Superpatch accuracy in percent over the whole dataset, as `accuracy`, from the samples of a PolicyClassifier.

    `constant` is the accuracy of always predicting the more frequent of the two labels. Both have
    one decimal, as published.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the superpatches of each image."""
        for sample in data_samples:
            prediction, labels = sample['pred_policy']['data'], sample['gt_policy']['data']
            ones = int((labels == 1).sum())
            self.results.append((*count_right(prediction, labels), ones))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return both scores; only the main process calls this."""
        right, total, ones = (sum(column) for column in zip(*results))
        if not total:
            return dict(accuracy=float('nan'), constant=float('nan'))
        percent = torch.tensor([right, max(ones, total - ones)], dtype=torch.float64) * 100 / total
        accuracy, constant = (round(value, 1) for value in percent.tolist())
        return dict(accuracy=accuracy, constant=constant)
