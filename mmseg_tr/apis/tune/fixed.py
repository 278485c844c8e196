"""Calibrate a method's form of fixed shapes at a budget of multiply-adds, and write its config."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from mmseg_tr.analysis.speed import mixed_precision
from mmseg_tr.apis.compare.equal_work import sample
from mmseg_tr.apis.config import require_sections
from mmseg_tr.apis.fixed import config_target
from mmseg_tr.apis.tune import Task, TuneOptions
from mmseg_tr.apis.tune.search import Point
from mmseg_tr.apis.tune.table import describe
from mmseg_tr.apis.tune.written import config_text
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import write_atomically
from mmseg_tr.hosts.fixed import Candidate, calibrated, within_budget
from mmseg_tr.reduction import find_method
from mmseg_tr.values import as_code

SPLITS = ('train', 'test')


@dataclass(frozen=True)
class Calibrated:
    """Result of a calibration.

    candidates: ways to spend the budget, the one that changes the network's results least first. images: how many
    pictures decided, of the training or test set (split). tokens: patch tokens that leave each layer; None for a MiT.
    point: the chosen settings on a share of the test set. path: of the config that was written.
    """

    method: str
    budget: float
    candidates: tuple[Candidate, ...]
    images: int
    split: str
    tokens: tuple[int, ...] | None
    point: Point
    plain_quality: float
    measure: str
    path: Path

    @property
    def code(self) -> str:
        """The chosen settings as a config has them: dict(type='ALGM', ...)."""
        return as_code(self.candidates[0].settings)

    def table(self) -> Table:
        """Return a table of the candidates, the chosen one first."""
        out = Table('settings', 'work', 'change of the results')
        for column in out.columns[1:]:
            column.justify = 'right'
        for one in self.candidates:
            loss = '-' if one.loss is None else f'{100 * one.loss:.2f} %'
            style = 'bold' if one is self.candidates[0] else None
            out.add_row(describe(one.ladder, one.settings), f'{100 * one.work:.1f} %', loss, style=style)
        return out

    def verdict(self) -> str:
        """Return in one sentence what the chosen settings keep, and what they lose on the test set."""
        kept = '' if self.tokens is None else f', leaves {", ".join(map(str, self.tokens))} tokens after its layers'
        return (
            f'{describe(self.candidates[0].ladder, self.candidates[0].settings)} does '
            f'{100 * self.candidates[0].work:.1f} % of the plain work{kept}, and has {self.measure} '
            f'{self.point.quality:.2f} (plain {self.plain_quality:.2f}).'
        )


def calibrate(
    config: str,
    checkpoint: str,
    budget: float,
    options: TuneOptions | None = None,
    split: str = 'train',
    progress: Callable[[str], None] = lambda _: None,
) -> Calibrated:
    """Choose settings of fixed shapes for a budget on options.images pictures, and write a config that sets them.

    budget: the share of the plain network's multiply-adds that is kept at most. Several ways to spend it are compared
    by what they change in the network's results for pictures of the training set (or, by split, the test set), read as
    a test reads them. The chosen way is tested on options.fraction of the test set.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError for input that cannot be used.
    """
    options = options or TuneOptions()
    if split not in SPLITS:
        raise ConfigError(f'split must be {" or ".join(SPLITS)}, got {split}.', parameters=['split'])
    task = Task.of(config, checkpoint, options)
    require_sections(task.base, f'{split}_dataloader')
    path = task.path_of(options.out, f'{Path(task.base.filename).stem}_{task.method.lower()}_fixed-{budget:g}.py')
    measurer = task.measurer(options, False, lambda text: progress(f'test, {text}'))
    network = measurer.build(None)
    progress('settings within the budget')
    try:
        target = config_target(task.plain, network)
        target.check_fits(find_method(task.own.get('type')))
        target, plain = target.plain()
        found = list(within_budget(task.own, budget, target, plain))
    except ConfigError as error:
        raise ConfigError(str(error), parameters=['budget']) from error
    progress('pictures')
    images = sample(network, build_dataset(pictures_of(task.base, split)), options.images)
    progress(f'{len(found)} candidates on {len(images)} pictures')
    with mixed_precision(task.device, task.dtype):
        candidates = calibrated(found, target, images)
    chosen = candidates[0]
    point = measurer(chosen.ladder, chosen.settings)
    calibration = Calibrated(
        method=task.method,
        budget=budget,
        candidates=tuple(candidates),
        images=len(images),
        split=split,
        tokens=tokens_left(target, chosen, images[:1]),
        point=point,
        plain_quality=measurer.plain_quality(),
        measure=task.measure,
        path=path,
    )
    about = (
        f'Fixed shapes within {budget:g} of the plain multiply-adds, calibrated by tools/tune.py on {len(images)} '
        f'pictures ({split}).\n{calibration.verdict()}'
    )
    write_atomically(config_text(path, task.base, chosen.settings, task.changes, about), path)
    return calibration


def pictures_of(config: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return the dataset of a split with the pipeline of the test set, inside wrappers, too."""
    pipeline = next(one for one in nested(config['test_dataloader']['dataset']) if 'pipeline' in one)['pipeline']
    dataset = copy.deepcopy(config[f'{split}_dataloader']['dataset'])
    for one in nested(dataset):
        if 'pipeline' in one:
            one['pipeline'] = copy.deepcopy(pipeline)
    return dataset


def nested(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a dataset's config and those of the datasets that it wraps."""
    inner = [dataset.get('dataset'), *(dataset.get('datasets') or ())]
    return [dataset, *(found for one in inner if isinstance(one, Mapping) for found in nested(one))]


@torch.inference_mode()
def tokens_left(target: Any, chosen: Candidate, image: Tensor) -> tuple[int, ...] | None:
    """Return how many patch tokens leave each layer for an image; None for a MiT."""
    backbone = target.network.with_reduction(chosen.strategy)
    trace = backbone.trace(image)
    return None if trace is None else tuple(counts[0] - backbone.num_prefix for counts in trace)
