"""Write the scores file of an evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmseg_tr.errors import ConfigError
from mmseg_tr.evaluation import SegmenterIoUMetric
from mmseg_tr.files import write_atomically

SUFFIXES = ('.yml', '.yaml', '.json')


def check_scores_path(path: str) -> None:
    """Raise ConfigError unless `path` ends in .yml, .yaml or .json."""
    if Path(path).suffix not in SUFFIXES:
        raise ConfigError(f'scores must end in {", ".join(SUFFIXES)}, got {path}.', parameters=['scores'])


def collect_scores(metrics: Mapping[str, Any], metric: SegmenterIoUMetric | None) -> dict[str, Any]:
    """Return scores by name, those of the published score files first; plain Python numbers only.

    pixel_accuracy, mean_accuracy, mean_iou and cat_iou, the IoU of each class, are percentages with two decimals, as
    published; NaN for a class without a pixel. After them are the evaluation's own, such as mDice.

    metric: holds the counts of the classes; without it there is only what the evaluation returned.
    """
    scores: dict[str, Any] = {}
    if metric is not None and metric.areas is not None:
        ratios = metric.total_area_to_metrics(*metric.areas, ['mIoU'])
        for name, key in (('pixel_accuracy', 'aAcc'), ('mean_accuracy', 'Acc'), ('mean_iou', 'IoU')):
            scores[name] = metric.percent(ratios[key])
        scores['cat_iou'] = np.round(100 * ratios['IoU'], 2).tolist()
        scores['classes'] = list(metric.dataset_meta['classes'])
    scores.update({name: float(value) for name, value in metrics.items()})
    return scores


def write_scores(scores: Mapping[str, Any], path: str) -> None:
    """Write YAML or, where `path` ends in .json, JSON, which has null instead of NaN."""
    if Path(path).suffix == '.json':
        text = json.dumps(_without_nan(scores), indent=2, allow_nan=False) + '\n'
    else:
        text = yaml.safe_dump(dict(scores), sort_keys=False, allow_unicode=True)
    write_atomically(text, path)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
