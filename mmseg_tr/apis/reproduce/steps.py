"""The steps of a row: weights, conversion, dataset, scores plain and reduced, work and speed."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmseg_tr.analysis.measure import MeasureOptions, measure
from mmseg_tr.analysis.network import count_rule_of, reduction_of, without_reduction
from mmseg_tr.apis.build import build_model, fit_to, own_shape, prepare_device
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.reproduce.rows import Row, mirrored
from mmseg_tr.apis.test import evaluate
from mmseg_tr.checkpoints import convert_file
from mmseg_tr.datasets.prepare import MODULES, advice, check
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.preprocess import preprocess
from mmseg_tr.errors import CheckpointError, DatasetError
from mmseg_tr.files import write_atomically
from mmseg_tr.reduction import PLAIN_NAMES
from mmseg_tr.weights.download import plain_address
from mmseg_tr.weights.fetch import fetch
from mmseg_tr.weights.published import PUBLISHED, Published

MEASURED = 4  # images, or people, whose time is taken
MOST_TEXT = 1 << 20  # bytes of a variant.yml


@dataclass(frozen=True)
class Work:
    """What the steps of a row share. folder: of the row; fraction: share of the test images."""

    row: Row
    folder: Path
    device: str | None = None
    fraction: float = 1.0
    mirror: str | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'model.pth'

    def config(self) -> Config:
        config = load_config(str(self.row.config))
        init_default_scope(config.get('default_scope') or 'mmseg')
        return config


def check_data(work: Work) -> dict[str, Any]:
    """Build the test set; returns its number of images, or of people.

    Raises DatasetError saying what is missing and from where.
    """
    try:
        dataset = build_dataset(work.config().test_dataloader.dataset)
        count = len(dataset)
    except (OSError, DatasetError) as error:
        raise DatasetError(f'{error} {_where(work.row)}'.strip()) from error
    if not count:
        raise DatasetError(f'the test set of {work.row.dataset} has no image. {_where(work.row)}'.strip())
    return dict(images=count)


def _where(row: Row) -> str:
    """Where the files of a dataset come from."""
    wanted = _letters(row.dataset)
    for name, module in MODULES.items():
        for recipe in module.RECIPES:
            if wanted in (_letters(recipe.name), _letters(name)):
                steps = '; '.join(advice(recipe, check(recipe, Path('nowhere'))))
                return f'`mmseg-tr prepare-dataset {name}` brings it: {steps}.'
    return ''


def _letters(name: str) -> str:
    return ''.join(filter(str.isalnum, name.casefold()))


def bring_weights(work: Work) -> dict[str, Any]:
    """Fetch a row's weights, if they are not kept, and convert them. Raises CheckpointError naming the address."""
    row = work.row
    if row.weights is None:
        raise CheckpointError(f'no weights of {row.name} are published.')
    url = mirrored(row, row.weights, work.mirror)
    known = PUBLISHED.get(row.name)
    path = fetch(Published(url, known.sha256 if known and known.url == row.weights else ''))
    variant = None
    if row.variant is not None:
        variant = work.folder / 'variant.yml'
        write_atomically(_text(mirrored(row, row.variant, work.mirror)), variant)
    convert_file(path, work.checkpoint, variant=variant, force=True)
    return dict(weights=plain_address(url))


def _text(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read(MOST_TEXT)
            missing = getattr(answer, 'length', 0)  # what the server announced and this did not read
            if missing:
                raise ValueError(f'{missing} bytes are missing, or it is longer than {MOST_TEXT} bytes')
            return text
    except (OSError, ValueError, HTTPException) as error:
        raise CheckpointError(f'{plain_address(url)} could not be fetched ({error!r}).') from error


def score_plain(work: Work) -> dict[str, Any]:
    """Scores of the plain network with a row's weights, in percent: 'plain_miou', 'plain_pck@0.1' ..."""
    return {f'plain_{name}': value for name, value in _scores(work, 'plain', PLAIN_NAMES[0]).items()}


def score_reduced(work: Work) -> dict[str, Any]:
    """Scores with the method of the row's config: 'miou', 'pck@0.1' ...; of a plain row none."""
    if not work.config().model.backbone.get('reduction'):
        return {}
    return _scores(work, 'reduced', None)


def _scores(work: Work, name: str, reduction: str | None) -> dict[str, float]:
    metrics = work.row.metrics
    scores = evaluate(
        work.config(), str(work.checkpoint), metrics=metrics, reduction=reduction, fraction=work.fraction,
        work_dir=str(work.folder / name),
    )  # fmt: skip
    if 'mIoU' in metrics:
        return dict(miou=float(scores['mean_iou']))
    return {metric.lower(): 100 * float(scores[metric]) for metric in metrics}


def measure_speed(work: Work) -> dict[str, Any]:
    """Multiply-adds by the row's rule, and milliseconds per window, beside those of the plain network."""
    config, place = work.config(), prepare_device(work.device)
    model = build_model(config, str(work.checkpoint)).to(place).eval()
    dataset, shape = build_dataset(config.test_dataloader.dataset), own_shape(config)
    indices = range(0, len(dataset), max(len(dataset) // MEASURED, 1))[:MEASURED]
    images = [fit_to(preprocess(model, [dataset[index]])['inputs'], model, shape) for index in indices]
    models = dict(model=model)
    if reduction_of(model) is not None:
        models['plain'] = without_reduction(model)
    found, _ = measure(models, images, MeasureOptions(repeats=5, seconds=30.0))
    rule, plain = count_rule_of(model), found.get('plain', found['model'])
    return dict(
        gmacs=found['model'].work.total(rule) / 1e9,
        plain_gmacs=plain.work.total(rule) / 1e9,
        milliseconds=1e3 * found['model'].seconds.scores,
        plain_milliseconds=1e3 * plain.seconds.scores,
    )


STEPS: dict[str, Callable[[Work], dict[str, Any]]] = {
    'dataset': check_data,
    'weights': bring_weights,
    'plain': score_plain,
    'reduced': score_reduced,
    'speed': measure_speed,
}


def macs_per_second(device: torch.device, seconds: float = 0.5) -> float:
    """Multiply-adds per second of this machine in a matrix product of a network's size, for estimates."""
    left, right = torch.rand(1024, 1024, device=device), torch.rand(1024, 1024, device=device)
    left @ right
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        (left @ right).sum().item()
        done += 1
    return done * 1024**3 / (time.perf_counter() - start)
