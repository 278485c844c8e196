"""Measure settings against the plain model, with a journal from which a killed search resumes."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tr.analysis.measure import MeasureOptions, count_work, measure
from mmseg_tr.analysis.network import is_pose
from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.compare.loop import Progress, Tested, build_test_loader, predict_all
from mmseg_tr.apis.compare.models import PLAIN
from mmseg_tr.apis.compare.options import MeasuringOptions
from mmseg_tr.apis.tune.search import Point
from mmseg_tr.apis.tune.spaces import Settings, identity
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import write_atomically

JOURNAL = 'tune.json'
_NUMBERS = ('quality', 'loss', 'gmacs', 'work')  # of a point, beside its time


class Journal:
    """Every point of a search in one file, complete after each of them.

    setup: what the numbers depend on. Raises ConfigError where the file belongs to another search, or is not a journal.
    """

    def __init__(self, path: Path, setup: Mapping[str, Any]) -> None:
        self.path, self.setup = path, json.loads(json.dumps(setup))
        self.points: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text())
            known, self.points = dict(content['setup']), dict(content['points'])
            if not all(_is_point(point) for point in self.points.values()):
                raise ValueError('no points')
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise ConfigError(
                f'{self.path} is not a journal of tune: choose another work_dir.', parameters=['work_dir']
            ) from error
        other = [key for key in self.setup if known.get(key) != self.setup[key]]
        if other:
            raise ConfigError(
                f'{self.path} belongs to a search with another {", ".join(other)}: choose another work_dir.',
                parameters=['work_dir'],
            )

    def get(self, key: str, timed: bool) -> dict[str, Any] | None:
        """Return the journal's entry of a point; None if a time is required and missing."""
        found = self.points.get(key)
        return None if found is None or (timed and found['time'] is None) else found

    def put(self, key: str, numbers: Mapping[str, Any]) -> None:
        self.points[key] = dict(numbers)
        content = dict(setup=self.setup, points=self.points)
        write_atomically(json.dumps(content, indent=2) + '\n', self.path)


def _is_point(point: Any) -> bool:
    """Return whether an entry of a journal has its numbers."""
    if not isinstance(point, dict) or not {*_NUMBERS, 'time'} <= set(point):
        return False
    numbers = [point[name] for name in _NUMBERS] + [point['time']] * (point['time'] is not None)
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


@dataclass
class Measurer:
    """Measures settings on a share of the test set. Points in the journal are not measured again.

    config: of the plain model. timed: whether to time, too.
    """

    config: Config
    checkpoint: str
    options: MeasuringOptions
    device: torch.device
    amp: torch.dtype | None
    timed: bool
    journal: Journal
    progress: Progress = lambda _: None
    measured: int = field(default=0, init=False)

    def __call__(self, ladder: str, settings: Settings) -> Point:
        """Return the point of a setting, measured or from the journal."""
        key = self.key(settings)
        numbers = self.journal.get(key, self.timed)
        if numbers is None:
            self.measured += 1
            numbers = self._measure(ladder, settings)
            self.journal.put(key, numbers)
        return Point(ladder, settings, **{name: numbers[name] for name in (*_NUMBERS, 'time')})

    def key(self, settings: Settings | None) -> str:
        """Return a point's name in the journal: the share of the images, and the settings."""
        return f'{self.options.fraction:g} {identity(settings)}'

    def build(self, settings: Settings | None) -> nn.Module:
        """Build the network with these settings; None for the plain one."""
        config = copy.deepcopy(self.config)
        config.model.backbone.reduction = copy.deepcopy(settings)
        return build_model(config, self.checkpoint).to(self.device).eval()

    def plain_quality(self) -> float:
        """Return the quality of the plain model on the same images, in percent."""
        found = self.journal.get(self.key(None), False)
        return self._plain.numbers['quality'] if found is None else found['quality']

    def _measure(self, ladder: str, settings: Settings) -> dict[str, Any]:
        plain = self._plain
        self.progress(f'{ladder}: building')
        model = self.build(settings)
        quality = self._predict(model, ladder).quality
        gmacs, time = self._cost(model, ladder)
        return dict(
            quality=quality,
            loss=plain.numbers['quality'] - quality,
            gmacs=gmacs,
            work=plain.numbers['gmacs'] / gmacs,
            time=time,
            ladder=ladder,
        )

    def _cost(self, model: nn.Module, what: str) -> tuple[float, float | None]:
        """Return GMACs, and the time ratio of the plain network to `model`, timed in turn; None where not timed."""
        batches, windows = self._plain.batches, self._plain.windows
        tell = lambda text: self.progress(f'{what}: {text}')  # noqa: E731
        if not self.timed:
            tell('counting')
            return windows * count_work(model, batches, self.amp).total() / 1e9, None
        options = MeasureOptions(repeats=self.options.repeats, seconds=None, amp=self.amp)
        found, _ = measure({PLAIN: self._plain.model, what: model}, batches, options, progress=tell)
        gmacs = windows * found[what].work.total() / 1e9
        return gmacs, found[PLAIN].seconds.scores / found[what].seconds.scores

    @cached_property
    def _plain(self) -> PlainModel:
        batch = self.options.batch_for(len(self._loader.dataset))
        model = self.build(None)
        if not (hasattr(model, 'encode_decode') or is_pose(model)):
            raise ConfigError(
                f'the model of {self.config.filename} must be a segmentor or a pose estimator, it is a '
                f'{type(model).__name__}.'
            )
        tested = self._predict(model, PLAIN)
        batches = tested.batches(batch)
        gmacs = tested.windows * count_work(model, batches, self.amp).total() / 1e9
        numbers = dict(quality=tested.quality, loss=0.0, gmacs=gmacs, work=1.0, time=None, ladder=PLAIN)
        self.journal.put(self.key(None), numbers)
        return PlainModel(model, batches, tested.windows, numbers)

    @cached_property
    def _loader(self):
        return build_test_loader(self.config, self.options.fraction)

    def _predict(self, model: nn.Module, what: str) -> Tested:
        tell = lambda text: self.progress(f'{what}: {text}')  # noqa: E731
        return predict_all({what: model}, self.config, self._loader, self.options.images, self.amp, tell)


@dataclass(frozen=True)
class PlainModel:
    """Build the plain network, with batches of the windows that are timed, their number per picture, and its scores."""

    model: nn.Module
    batches: list[Tensor]
    windows: float
    numbers: dict[str, Any]


def digest(*parts: Any) -> str:
    """Return a short fingerprint of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
