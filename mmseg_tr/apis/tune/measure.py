"""Measuring one setting after another against the plain model, and the journal from which a killed search goes on."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tr.analysis.macs import MacCount, count_macs
from mmseg_tr.analysis.network import is_pose
from mmseg_tr.analysis.speed import Contestant, mixed_precision, time_in_turn
from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.compare import predict_all, test_loader
from mmseg_tr.apis.compare.models import PLAIN
from mmseg_tr.apis.tune.search import Point
from mmseg_tr.apis.tune.spaces import Settings, identity
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import write_atomically

JOURNAL = 'tune.json'


class Journal:
    """Every point of a search in one file, complete after each of them.

    setup: what the numbers depend on. Raises ConfigError where the file is of another search, or is none.
    """

    def __init__(self, path: Path, setup: Mapping[str, Any]) -> None:
        self.path, self.setup = path, json.loads(json.dumps(setup))
        self.points: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text())
            known, self.points = content['setup'], content['points']
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'{self.path} is no journal of a search: name another folder with --work-dir.') from error
        other = [key for key in self.setup if known.get(key) != self.setup[key]]
        if other:
            raise ConfigError(
                f'{self.path} is of a search with another {", ".join(other)}: name another folder with --work-dir.'
            )

    def get(self, key: str, timed: bool) -> dict[str, Any] | None:
        """What is known of a point; one without a time counts as unknown where times are wanted."""
        found = self.points.get(key)
        return None if found is None or (timed and found['time'] is None) else found

    def put(self, key: str, numbers: Mapping[str, Any]) -> None:
        self.points[key] = dict(numbers)
        content = dict(setup=self.setup, points=self.points)
        write_atomically(json.dumps(content, indent=2) + '\n', self.path)


@dataclass
class Measurer:
    """Measures settings on a share of the test set. Points in the journal are not measured again.

    config: of the plain model. place: the key of the backbone under which settings stand. timed: whether to time, too.
    """

    config: Config
    checkpoint: str
    place: str
    fraction: float
    images: int
    batch_size: int
    repeats: int
    device: torch.device
    amp: torch.dtype | None
    timed: bool
    journal: Journal
    progress: Callable[[str], None] = lambda _: None
    measured: int = field(default=0, init=False)

    def __call__(self, ladder: str, settings: Settings) -> Point:
        """The point of a setting, measured or remembered."""
        key = self.key(settings)
        numbers = self.journal.get(key, self.timed)
        if numbers is None:
            self.measured += 1
            numbers = self._measure(ladder, settings)
            self.journal.put(key, numbers)
        return Point(ladder, settings, **{name: numbers[name] for name in ('quality', 'loss', 'gmacs', 'work', 'time')})

    def key(self, settings: Settings | None) -> str:
        """The name of a point in the journal: on which share of the images, and the settings."""
        return f'{self.fraction:g} {identity(settings)}'

    def build(self, settings: Settings | None) -> nn.Module:
        """The network with these settings; None for the plain one."""
        config = copy.deepcopy(self.config)
        config.model.backbone[self.place] = copy.deepcopy(settings)
        return build_model(config, self.checkpoint).to(self.device).eval()

    def plain_quality(self) -> float:
        """Of the plain model on the same images, in percent."""
        found = self.journal.get(self.key(None), False)
        return self._plain['quality'] if found is None else found['quality']

    def _measure(self, ladder: str, settings: Settings) -> dict[str, Any]:
        plain = self._plain
        self.progress(f'{ladder}: building')
        model = self.build(settings)
        quality, _ = self._predict(model, ladder)
        self.progress(f'{ladder}: counting')
        gmacs = self._gmacs(model, plain['batches'])
        return dict(
            quality=quality,
            loss=plain['quality'] - quality,
            gmacs=gmacs,
            work=plain['gmacs'] / gmacs,
            time=self._time_ratio(model, ladder) if self.timed else None,
            ladder=ladder,
        )

    @cached_property
    def _plain(self) -> dict[str, Any]:
        """The plain network, its score and work, and the images that are timed and counted in batches."""
        loader = self._loader
        if len(loader.dataset) < self.batch_size:
            raise ConfigError(
                f'--batch-size {self.batch_size} takes as many different images, {len(loader.dataset)} are tested on: '
                'take a smaller batch or a larger --frac-dataset.'
            )
        model = self.build(None)
        if not (hasattr(model, 'encode_decode') or is_pose(model)):
            name = type(model).__name__
            raise ConfigError(
                f'{self.config.filename} is of a {name}: tune takes networks of segmentation and of pose.'
            )
        quality, inputs = self._predict(model, PLAIN)
        full = len(inputs) // self.batch_size * self.batch_size
        batches = [torch.cat(inputs[start : start + self.batch_size]) for start in range(0, full, self.batch_size)]
        gmacs = self._gmacs(model, batches)
        numbers = dict(quality=quality, loss=0.0, gmacs=gmacs, work=1.0, time=None, ladder=PLAIN)
        self.journal.put(self.key(None), numbers)
        return dict(numbers, model=model, batches=batches)

    @cached_property
    def _loader(self):
        return test_loader(self.config, self.fraction)

    def _predict(self, model: nn.Module, what: str) -> tuple[float, list[Tensor]]:
        models = {what: model}
        tell = lambda text: self.progress(f'{what}: {text}')  # noqa: E731
        judge, inputs = predict_all(models, self.config, self._loader, self.images, self.amp, tell)
        return judge.quality()[what]['pck' if is_pose(model) else 'miou'], inputs

    def _gmacs(self, model: nn.Module, batches: Sequence[Tensor]) -> float:
        with mixed_precision(self.device, self.amp):  # rounding may decide what merges
            counts = [count_macs(model, batch) for batch in batches]
        return MacCount.mean(counts, sum(map(len, batches))).total() / 1e9

    def _time_ratio(self, model: nn.Module, what: str) -> float:
        """Seconds of the plain network over those of `model`, to class scores, both timed in turn."""
        self.progress(f'{what}: timing')
        contestants = {PLAIN: Contestant.of(self._plain['model']), what: Contestant.of(model)}
        taken = time_in_turn(contestants, self._plain['batches'], repeats=self.repeats, amp=self.amp)
        return taken[PLAIN].scores / taken[what].scores


def digest_of(path: str) -> str:
    """A short fingerprint of a file's content."""
    found = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()[:16]


def digest(*parts: Any) -> str:
    """A short fingerprint of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
