"""Choose the pose scores of a test, by the names of `--eval`, and the file of predictions."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from mmseg_tr.errors import ConfigError

PCK, COCO = 'mmseg_tr.PCKAccuracy', 'mmseg_tr.CocoMetric'
THRESHOLD = re.compile(r'PCK@(0*\.\d+|\d+(?:\.\d+)?)')
OTHERS = {'AUC': 'mmpose.AUC', 'EPE': 'mmpose.EPE'}
COCO_NAMES = ('AP', 'mAP', 'CocoMetric')
CHOICES = 'PCK (at the thresholds of the config, else 0.1 and 0.05), PCK@0.05 or another threshold, AUC, EPE, AP'
PREDICTIONS = 'predictions'  # CocoMetric adds .keypoints.json


def set_pose_metrics(
    config: Config, names: Sequence[str] | None, out: str | None, format_only: bool, fraction: float
) -> None:
    """Set the test's scores to `names` (by default the config's) and write predictions into `out`, in place.

    The file is in COCO's format for keypoint results, as its test server takes it. With a fraction of the dataset the
    scores of COCO are those of the instances that are tested, not of the whole annotation file.
    Raises ConfigError for an unknown name, naming all that are unknown.
    """
    own = config.test_evaluator if isinstance(config.test_evaluator, list | tuple) else [config.test_evaluator]
    own = [ConfigDict(item) for item in own]
    for item in own:
        if item.get('type') in ('CocoMetric', 'mmpose.CocoMetric'):
            item.type = COCO
    chosen = own if names is None else _chosen(own, names)
    if format_only:
        chosen = []
    if out is not None:
        os.makedirs(out, exist_ok=True)
        prefix = os.path.join(out, PREDICTIONS)
        writers = [item for item in chosen if item.get('type') == COCO]
        if not writers:
            writers = [ConfigDict(_first(own, COCO) or dict(type=COCO), format_only=True)]
            chosen = [*chosen, *writers]
        writers[0].outfile_prefix = prefix
    if fraction < 1:
        for item in chosen:
            if item.get('type') == COCO:
                item.from_samples = True
                item.pop('ann_file', None)
    config.test_evaluator = chosen


def _chosen(own: Sequence[ConfigDict], names: Sequence[str]) -> list[ConfigDict]:
    unknown = [name for name in names if not (name in ('PCK', *OTHERS, *COCO_NAMES) or THRESHOLD.fullmatch(name))]
    if unknown or not names:
        raise ConfigError(f'metric {", ".join(unknown) or "missing"}: choose among {CHOICES}')
    pck = _first(own, PCK) or ConfigDict(type=PCK)
    thresholds: list[float] = []
    for name in names:
        match = THRESHOLD.fullmatch(name)
        if match:
            thresholds.append(float(match[1]))
        elif name == 'PCK':
            thresholds += _thresholds(pck)
    chosen = [ConfigDict(pck, thr=list(dict.fromkeys(thresholds)))] if thresholds else []
    for name, kind in OTHERS.items():
        if name in names:
            chosen.append(_first(own, kind, name) or ConfigDict(type=kind))
    if any(name in names for name in COCO_NAMES):
        chosen.append(_first(own, COCO) or ConfigDict(type=COCO))
    return chosen


def _thresholds(pck: ConfigDict) -> list[float]:
    thr: Any = pck.get('thr', (0.1, 0.05))
    return [thr] if isinstance(thr, int | float) else list(thr)


def _first(items: Sequence[ConfigDict], *kinds: str) -> ConfigDict | None:
    return next((item for item in items if item.get('type') in kinds), None)


def draw_poses(config: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Draw every pose over its picture; changes the config in place, which has mmpose's visualisation hook."""
    hook = config.default_hooks.visualization
    hook.enable, hook.interval = True, 1
    if show:
        hook.show, hook.wait_time = True, wait_time
    if show_dir:
        hook.out_dir = os.path.abspath(show_dir)  # mmpose would put a relative one below the work dir in every batch
