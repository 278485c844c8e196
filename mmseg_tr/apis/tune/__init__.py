"""Find the setting of a method that fits a budget: the verb of tools/tune.py."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.apis.build import build_model, machine, pick_precision, precision_name, prepare_device
from mmseg_tr.apis.compare.models import settings_of
from mmseg_tr.apis.compare.options import BATCH, MeasuringOptions
from mmseg_tr.apis.config import load_config, require_sections, use_reduction
from mmseg_tr.apis.tune.measure import JOURNAL, Journal, Measurer, digest
from mmseg_tr.apis.tune.search import Budget, Point, find
from mmseg_tr.apis.tune.spaces import space
from mmseg_tr.apis.tune.written import check_out, config_text, default_name, nested_options
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import write_atomically
from mmseg_tr.nn.backbone import Backbone
from mmseg_tr.options import check_type
from mmseg_tr.paths import require_checkpoint
from mmseg_tr.reduction import find_method, method_names
from mmseg_tr.weights.download import digest_of

__all__ = ['TuneOptions', 'Tuned', 'tune']


@dataclass(frozen=True)
class TuneOptions(MeasuringOptions):
    """As MeasuringOptions, with fraction the share of the dataset that is searched on.

    reduction: method and settings over the config's (config.parse_reduction). out: the config to write, by default in
    work_dir, which also holds the journal, by default below work_dirs/tune.
    """

    fraction: float = 0.1
    reduction: str | None = None
    out: str | os.PathLike | None = None
    work_dir: str | os.PathLike | None = None


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    measure: the quality, mIoU or PCK. points: measured on the subset; confirmed: on the full set, the chosen one
    last where there is one. plain_quality: on subset and full set. path: of the config that was written; None where
    nothing meets the budget. measured: points that were not in the journal.
    """

    method: str
    measure: str
    budget: Budget
    points: tuple[Point, ...]
    confirmed: tuple[Point, ...]
    chosen: Point | None
    plain_quality: tuple[float, float | None]
    path: Path | None
    folder: Path
    measured: int


def tune(
    config: str,
    checkpoint: str,
    budget: Budget,
    options: TuneOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> Tuned:
    """Search on a subset of the test set, confirm on all of it, write a config that inherits from `config`.

    checkpoint: of the plain model. settings: fields of TuneOptions, over those of `options`.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError for input that cannot be used.
    """
    options = replace(options or TuneOptions(), **settings)
    check_type('budget', budget, Budget)
    task = Task.of(config, checkpoint, options)
    ladders = space(task.own, *task.network.extent)
    path = task.path_of(options.out, default_name(task.base, task.method, budget, task.measure))
    subset = task.measurer(options, budget.by == 'time', progress)
    whole = replace(options, fraction=1.0)
    full = task.measurer(whole, True, lambda text: progress(f'full set, {text}'))
    points, confirmed, chosen = find(ladders, budget, subset, full)
    if chosen is not None:
        about = describe(budget, task.measure, chosen, full)
        write_atomically(config_text(path, task.base, chosen.settings, task.changes, about), path)
    plains = subset.plain_quality(), full.plain_quality() if confirmed else None
    written = path if chosen else None
    measured = subset.measured + full.measured
    return Tuned(task.method, task.measure, budget, points, confirmed, chosen, plains, written, task.folder, measured)


@dataclass(frozen=True)
class Task:
    """A network whose method is tuned.

    base: the config as given; plain: without its method; network: that backbone. own: settings of the method.
    measure: the quality, mIoU or PCK. changes: cfg_options, nested.
    """

    base: Config
    plain: Config
    network: Backbone
    own: dict[str, Any]
    measure: str
    changes: dict[str, Any]
    journal: Journal
    checkpoint: str
    device: torch.device
    dtype: torch.dtype | None

    @classmethod
    def of(cls, config: str, checkpoint: str, options: TuneOptions) -> Task:
        """Raise ConfigError, CheckpointError or DeviceError for input that cannot be used."""
        place, dtype = prepare_device(options.device), pick_precision(options.amp, options.device)
        changes = nested_options(options.cfg_options or {})
        base = load_config(config, options.cfg_options)
        require_sections(base, 'model', 'test_dataloader', 'test_evaluator')
        require_checkpoint(checkpoint)
        reduced = copy.deepcopy(base)
        if options.reduction is not None:
            use_reduction(reduced, options.reduction)
        own, network = tunable(reduced)
        method, stem = find_method(own.get('type')).name, Path(base.filename).stem
        name = stem if options.reduction is None else f'{stem}_{method.lower()}'
        plain = copy.deepcopy(reduced)
        plain.model.backbone.reduction = None
        setup = dict(
            config=digest(plain.model.to_dict(), plain.test_dataloader.to_dict()),
            checkpoint=digest_of(Path(checkpoint), 'sha256')[:16],
            method=method,
            images=[options.images, options.batch_size or BATCH, options.repeats],
            machine=[machine(place), torch.get_num_threads()],
            precision=precision_name(dtype),
        )
        journal = Journal(Path(options.work_dir or Path('work_dirs') / 'tune' / name) / JOURNAL, setup)
        measure = 'PCK@0.1' if base.get('default_scope') == 'mmpose' else 'mIoU'
        return cls(base, plain, network, own, measure, changes, journal, checkpoint, place, dtype)

    @property
    def method(self) -> str:
        """The method's name."""
        return find_method(self.own.get('type')).name

    @property
    def folder(self) -> Path:
        """The folder of the journal."""
        return self.journal.path.parent

    def path_of(self, out: str | None, name: str) -> Path:
        """The config to write. Raises ConfigError where it exists."""
        path = Path(out) if out else self.folder / name
        check_out(path)
        return path

    def measurer(self, options: TuneOptions, timed: bool, progress: Callable[[str], None]) -> Measurer:
        """What measures settings on a share of the test set."""
        return Measurer(self.plain, self.checkpoint, options, self.device, self.dtype, timed, self.journal, progress)


def tunable(config: Config) -> tuple[dict[str, Any], Backbone]:
    """Return the settings of a config's method, type included, and its backbone without it.

    Raises ConfigError without a method, or when the backbone accepts none.
    """
    own = settings_of(config)
    bare = copy.deepcopy(config)
    backbone = bare.model.get('backbone')
    if not isinstance(backbone, Mapping):
        raise ConfigError(f'the config {config.filename} has no backbone: only segmentation networks can be tuned.')
    if 'reduction' in backbone:
        backbone['reduction'] = None
    network = find_backbone(build_model(bare, None))
    if network is None:
        raise ConfigError(
            f'the backbone of {config.filename} takes no method: tune takes mmseg_tr.ViT and mmseg_tr.MiT.'
        )
    fitting = method_names(network.kind)
    if not own and len(fitting) > 1:
        raise ConfigError(
            f'the config {config.filename} names no method: set reduction to one of {", ".join(fitting)}.',
            parameters=['reduction'],
        )
    return own or dict(type=fitting[0]), network


def describe(budget: Budget, measure: str, point: Point, full: Measurer) -> str:
    """Return the comment at the head of a setting's config."""
    return (
        f'{point.ladder}, found by tools/tune.py for {budget}.\n'
        f'On the full test set: {measure} {point.quality:.2f} (plain {full.plain_quality():.2f}), '
        f'{point.work:.2f} times '
        f'less work, {point.time:.2f} times as fast\n({full.journal.setup["machine"][0]}).'
    )
