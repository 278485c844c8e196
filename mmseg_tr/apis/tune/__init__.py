"""Find the setting of a method that fits a budget: the verb of tools/tune.py."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.apis.build import build_model, machine, pick_precision, precision_name, prepare_device
from mmseg_tr.apis.compare.models import settings_of
from mmseg_tr.apis.compare.options import MeasuringOptions
from mmseg_tr.apis.config import load_config, require_checkpoint, require_sections, use_reduction
from mmseg_tr.apis.tune.measure import JOURNAL, Journal, Measurer, digest, digest_of
from mmseg_tr.apis.tune.search import Budget, Point, find
from mmseg_tr.apis.tune.spaces import Ladder, space
from mmseg_tr.apis.tune.written import check_out, config_text, default_name, nested_options
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import write_atomically
from mmseg_tr.reduction import find_method, method_names

__all__ = ['TuneOptions', 'Tuned', 'tune']


@dataclass(frozen=True)
class TuneOptions(MeasuringOptions):
    """As MeasuringOptions, with fraction the share of the dataset that is searched on.

    reduction: method and settings over the config's (config.parse_reduction). out: the config to write, by default in
    work_dir, which also holds the journal, by default below work_dirs/tune.
    """

    fraction: float = 0.1
    reduction: str | None = None
    out: str | None = None
    work_dir: str | None = None


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
    place, dtype = prepare_device(options.device), pick_precision(options.amp, options.device)
    changes = nested_options(options.cfg_options or {})
    base = load_config(config, options.cfg_options)
    require_sections(base, 'model', 'test_dataloader', 'test_evaluator')
    require_checkpoint(checkpoint)
    measure = 'PCK@0.1' if base.get('default_scope') == 'mmpose' else 'mIoU'
    reduced = copy.deepcopy(base)
    if options.reduction is not None:
        use_reduction(reduced, options.reduction)
    method, ladders = ladders_of(reduced)
    stem = Path(base.filename).stem
    name = stem if options.reduction is None else f'{stem}_{method.lower()}'
    folder = Path(options.work_dir or Path('work_dirs') / 'tune' / name)
    path = Path(options.out) if options.out else folder / default_name(base, method, budget, measure)
    check_out(path)
    plain = copy.deepcopy(reduced)
    plain.model.backbone.reduction = None
    setup = dict(
        config=digest(plain.model.to_dict(), plain.test_dataloader.to_dict()),
        checkpoint=digest_of(checkpoint),
        method=method,
        images=[options.images, options.batch_size, options.repeats],
        machine=[machine(place), torch.get_num_threads()],
        precision=precision_name(dtype),
    )
    journal = Journal(folder / JOURNAL, setup)
    subset = Measurer(plain, checkpoint, options, place, dtype, budget.by == 'time', journal, progress)
    whole = replace(options, fraction=1.0)
    full = Measurer(plain, checkpoint, whole, place, dtype, True, journal, lambda text: progress(f'full set, {text}'))
    points, confirmed, chosen = find(ladders, budget, subset, full)
    if chosen is not None:
        about = describe(budget, measure, chosen, full)
        write_atomically(config_text(path, base, chosen.settings, changes, about), path)
    plains = subset.plain_quality(), full.plain_quality() if confirmed else None
    written = path if chosen else None
    measured = subset.measured + full.measured
    return Tuned(method, measure, budget, points, confirmed, chosen, plains, written, folder, measured)


def ladders_of(config: Config) -> tuple[str, list[Ladder]]:
    """Return the method of a config and the ladders of its settings.

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
    own = own or dict(type=fitting[0])
    return find_method(own.get('type')).name, space(own, *network.extent)


def describe(budget: Budget, measure: str, point: Point, full: Measurer) -> str:
    """Return the comment at the head of a setting's config."""
    return (
        f'{point.ladder}, found by tools/tune.py for {budget}.\n'
        f'On the full test set: {measure} {point.quality:.2f} (plain {full.plain_quality():.2f}), '
        f'{point.work:.2f} times '
        f'less work, {point.time:.2f} times as fast\n({full.journal.setup["machine"][0]}).'
    )
