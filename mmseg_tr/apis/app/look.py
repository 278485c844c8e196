"""What the app shows of one picture under one method, measured against the plain model in the same run."""

from __future__ import annotations

import math
import threading
import warnings
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from mmseg_tr.analysis.measure import MeasureOptions, count_work, time_models
from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.analysis.speed import Contestant
from mmseg_tr.apis.app.subject import Subject, variant
from mmseg_tr.apis.show.layers import MergedLayer
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.hosts.fixed import method_within
from mmseg_tr.hosts.own import own_target
from mmseg_tr.reduction import PLAIN_NAMES, Reduction, find_method, method_names
from mmseg_tr.visualization.merging import show_groups
from mmseg_tr.visualization.pixels import Filter, resized
from mmseg_tr.visualization.scenes import colorize

PLAIN = PLAIN_NAMES[-1]
TYPES = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF')
MOST_PIXELS = 40_000_000
KEPT = 16  # strategies of (method, budget)


@dataclass(frozen=True)
class Look:
    """One method on one picture. prediction, merged, changed: (H, W, 3) uint8 of one size.

    tokens: per layer or place, (name, tokens, patches). milliseconds, gmacs: of the picture, all windows; with those
    of the plain model, measured in the same run. agreement: percent of the pixels labelled as by the plain model.
    """

    method: str
    settings: dict[str, Any] | None
    prediction: np.ndarray
    merged: np.ndarray
    changed: np.ndarray
    tokens: list[tuple[str, int, int]]
    milliseconds: float
    plain_milliseconds: float
    gmacs: float
    plain_gmacs: float
    agreement: float


def read_picture(path: str | Path, megabytes: float) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an uploaded file. Raises DatasetError for a type or size that is refused."""
    path = Path(path)
    size = path.stat().st_size / 2**20
    if size > megabytes:
        raise DatasetError(f'a picture must have at most {megabytes:g} MB, got {size:.1f} MB.')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path, formats=TYPES) as image:
                if math.prod(image.size) > MOST_PIXELS:
                    raise DatasetError(
                        f'a picture must have at most {MOST_PIXELS // 10**6} megapixels, got {image.size[0]}x'
                        f'{image.size[1]}.'
                    )
                return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    except DatasetError:
        raise
    except Exception as error:  # Pillow raises a dozen types for damaged files
        raise DatasetError(f'a picture must be a whole {", ".join(TYPES)} file, got {path.name!r}.') from error


class Playground:
    """A plain model, and strategies that were chosen for it. One picture is looked at at a time."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.target = own_target(find_backbone(subject.model))
        if self.target is None:
            raise ConfigError('the model must have a backbone of mmseg_tr, ViT or MiT, to be reduced.')
        self.chosen: OrderedDict[tuple[str, int], Reduction] = OrderedDict()
        self.lock = threading.Lock()

    @property
    def methods(self) -> list[str]:
        """Names of the methods that fit without weights of their own, the plain model first."""
        names = method_names(self.target.network.kind)
        return [PLAIN, *(name for name in names if not issubclass(find_method(name), torch.nn.Module))]

    def first(self, percent: int) -> str:
        """The first method that can keep a budget."""
        for method in self.methods[1:]:
            with suppress(ConfigError):
                self.strategy(method, percent)
                return method
        return PLAIN

    def strategy(self, method: str, percent: int) -> Reduction | None:
        """The strategy within a budget of percent of the multiply-adds. Raises ConfigError if it cannot be kept."""
        if method == PLAIN:
            return None
        key = (method, percent)
        if key not in self.chosen:
            self.chosen[key] = method_within(dict(type=method), percent / 100, self.target)
            if len(self.chosen) > KEPT:
                self.chosen.popitem(last=False)
        return self.chosen[key]

    @torch.inference_mode()
    def look(self, pixels: np.ndarray, method: str, percent: int) -> Look:
        """Run a method and the plain model on a picture. Raises ConfigError, DatasetError."""
        with self.lock:
            strategy = self.strategy(method, percent)
            plain, model = self.subject.model, variant(self.subject.model, strategy)
            entered, windows = self.subject.enter(pixels)
            expected, labels = self.subject.labels(plain, pixels), self.subject.labels(model, pixels)
            contestants = dict(model=Contestant.of(model), plain=Contestant.of(plain))
            options = MeasureOptions(repeats=5, seconds=2.0, least=2)
            times = time_models(contestants, windows[:1], options)
            work = {
                name: count_work(one, windows[:1]).total() / 1e9 for name, one in (('model', model), ('plain', plain))
            }
            merged = [] if strategy is None else self.subject.merged(model, pixels)
        per_picture = len(windows)
        same = labels == expected
        return Look(
            method=method,
            settings=None if strategy is None else strategy.portable_settings(),
            prediction=self.coloured(entered, labels),
            merged=entered if not merged else show_groups(*whole_patches(entered, merged[-1])),
            changed=changed(entered, same),
            tokens=[(f'{one.name} {one.part}'.strip(), one.tokens, one.patches) for one in merged],
            milliseconds=1e3 * per_picture * times['model'].scores,
            plain_milliseconds=1e3 * per_picture * times['plain'].scores,
            gmacs=per_picture * work['model'],
            plain_gmacs=per_picture * work['plain'],
            agreement=100 * float(same.mean()),
        )

    def coloured(self, entered: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The picture and the colours of its classes, half and half."""
        colours = resized(colorize(labels, self.subject.palette), entered.shape, Filter.NEAREST)
        return (0.5 * entered + 0.5 * colours).astype(np.uint8)


def changed(entered: np.ndarray, same: np.ndarray) -> np.ndarray:
    """The picture in grey, pixels with another label in red."""
    grey = entered.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)
    grey[~resized(same, entered.shape)] = (220, 30, 30)
    return grey


def whole_patches(entered: np.ndarray, layer: MergedLayer) -> tuple[np.ndarray, np.ndarray]:
    """A picture enlarged to whole cells of a layer's groups, and the groups."""
    (height, width), (rows, columns) = entered.shape[:2], layer.groups.shape
    size = (-(-height // rows) * rows, -(-width // columns) * columns)
    return resized(entered, size, Filter.NEAREST), layer.groups
