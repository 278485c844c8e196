"""Finding the setting of a method that fits a budget: what tools/tune.py does."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.apis.build import PRECISIONS, build_model, machine, pick_precision, prepare_device
from mmseg_tr.apis.compare.models import check_numbers, settings_of
from mmseg_tr.apis.config import load_config, require_checkpoint, require_sections, use_reduction
from mmseg_tr.apis.tune.measure import JOURNAL, Journal, Measurer, digest, digest_of
from mmseg_tr.apis.tune.search import Budget, Point, search
from mmseg_tr.apis.tune.spaces import Ladder, Settings, identity, space
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import write_atomically
from mmseg_tr.reduction import find_method, method_names

CONFIRMATIONS = 5  # settings that are tried on the full set before the search gives up


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    measure: what quality is, mIoU or PCK. points: measured on the subset; confirmed: on the full set, the chosen one
    last where there is one. plain_quality: on subset and full set. path: of the config that was written; None where
    nothing keeps to the budget. measured: points that were not in the journal.
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
    *,
    reduction: str | None = None,
    fraction: float = 0.1,
    images: int = 32,
    batch_size: int = 8,
    repeats: int = 5,
    device: str | None = None,
    amp: str | None = None,
    out: str | None = None,
    work_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Search on a subset of the test set, confirm on all of it, write a config that inherits from `config`.

    checkpoint: of the plain model. reduction: method and settings over the config's (overrides.parse_reduction).
    fraction: share of the test set that is searched on. images, batch_size, repeats, amp: as in apis.compare.
    out: the config to write, by default in work_dir, which also holds the journal, by default below work_dirs/tune.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError for input that cannot be used.
    """
    place, dtype = prepare_device(device), pick_precision(amp, device)
    check_numbers(fraction, batch_size, images, repeats)
    options = nested_options(cfg_options or {})
    loaded = load_config(config, cfg_options)
    require_sections(loaded, 'model', 'test_dataloader', 'test_evaluator')
    require_checkpoint(checkpoint)
    measure = 'PCK@0.1' if loaded.get('default_scope') == 'mmpose' else 'mIoU'
    had = key_in_backbone(loaded)
    if reduction is not None:
        use_reduction(loaded, reduction)
    method, key, ladders = ladders_of(loaded)
    stem = Path(loaded.filename).stem
    folder = Path(work_dir or Path('work_dirs') / 'tune' / (stem if reduction is None else f'{stem}_{method.lower()}'))
    wanted = (
        f'{measure.partition("@")[0].lower()}-{budget.loss:g}'
        if budget.loss is not None
        else f'{budget.by}-{budget.speed_up:g}'
    )
    path = Path(out) if out else folder / f'{stem}_{method.lower()}_{wanted}.py'
    check_out(path)
    plain = copy.deepcopy(loaded)
    plain.model.backbone[key] = None
    setup = dict(
        config=digest(plain.model.to_dict(), plain.test_dataloader.to_dict()),
        checkpoint=digest_of(checkpoint),
        method=method,
        images=[images, batch_size, repeats],
        machine=[machine(place), torch.get_num_threads()],
        precision=next((name for name, kind in PRECISIONS.items() if kind == dtype), 'fp32'),
    )
    common = (images, batch_size, repeats, place, dtype)
    journal = Journal(folder / JOURNAL, setup)
    subset = Measurer(plain, checkpoint, key, fraction, *common, budget.by == 'time', journal, progress)
    full = Measurer(plain, checkpoint, key, 1.0, *common, True, journal, lambda text: progress(f'full set, {text}'))
    points, confirmed, chosen = find(ladders, budget, subset, full)
    if chosen is not None:
        text = config_text(
            path, loaded.filename, key, chosen.settings, had, options, describe(budget, measure, chosen, full)
        )
        write_atomically(text, path)
    plains = subset.plain_quality(), full.plain_quality() if confirmed else None
    written = path if chosen else None
    measured = subset.measured + full.measured
    return Tuned(method, measure, budget, points, confirmed, chosen, plains, written, folder, measured)


def ladders_of(config: Config) -> tuple[str, str, list[Ladder]]:
    """The method of a config, the key of its backbone that says it, and the ladders of its settings.

    Raises ConfigError where there is no method, or the backbone takes none.
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
            f'the config {config.filename} names no method: add a reduction, one of {", ".join(fitting)}.',
            parameters=['reduction'],
        )
    own = own or dict(type=fitting[0])
    return find_method(own.get('type')).name, 'reduction', space(own, *network.extent)


def find(
    ladders: list[Ladder], budget: Budget, subset: Callable[[str, Settings], Point], full: Callable[..., Point]
) -> tuple[tuple[Point, ...], tuple[Point, ...], Point | None]:
    """Points of the subset and of the full set, and the one that keeps to the budget on the full set, or None.

    A setting that fails on the full set tells how much the subset flatters; the search is then repeated with a budget
    that is stricter by as much. When nothing is left, the setting farthest inside the budget is tried last.
    """
    seen: dict[str, Point] = {}
    confirmed: list[Point] = []
    margin = 0.0
    for turn in range(CONFIRMATIONS):
        for point in search(ladders, budget, subset, margin):
            seen[identity(point.settings)] = point
        best = budget.best(seen.values(), margin)
        last = best is None or turn == CONFIRMATIONS - 1
        if last:
            tried = [identity(point.settings) for point in confirmed]
            left = [point for key, point in seen.items() if key not in tried and budget.holds(point)]
            best = budget.closest(left) if left else None
        if best is None:
            break
        confirmed.append(full(best.ladder, best.settings))
        if budget.holds(confirmed[-1]):
            return tuple(seen.values()), tuple(confirmed), confirmed[-1]
        if last:
            break
        margin = budget.missed_by(confirmed[-1]) - budget.missed_by(best)
    return tuple(seen.values()), tuple(confirmed), None


def check_out(path: Path) -> None:
    """Raise ConfigError where the config to write exists, or is no Python file."""
    if path.suffix != '.py':
        raise ConfigError(f'--out {path} is no name of a config: let it end in .py.')
    if path.exists():
        raise ConfigError(f'{path} exists and is kept: name another file with --out.')


def key_in_backbone(config: Config) -> set[str]:
    """The keys of a config's backbone, before anything is changed."""
    return set(config.model.get('backbone') or {})


def nested_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """{'a.b': 1} as {'a': {'b': 1}}, so that a config can say it. Raises ConfigError for an entry of a list."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split('.')
        if any(part.isdigit() for part in (*path, last)):
            raise ConfigError(
                f'--cfg-options {name} changes an entry of a list, which the config to write cannot inherit: put it '
                'into the config.'
            )
        inner = found
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return found


def describe(budget: Budget, measure: str, point: Point, full: Measurer) -> str:
    """What is known of a setting, for the head of its config."""
    return (
        f'{point.ladder}, found by tools/tune.py for {budget}.\n'
        f'On the full test set: {measure} {point.quality:.2f} (plain {full.plain_quality():.2f}), '
        f'{point.work:.2f} times '
        f'less work, {point.time:.2f} times as fast\n({full.journal.setup["machine"][0]}).'
    )


def config_text(
    path: Path, base: str, key: str, settings: Settings, had: set[str], options: dict[str, Any], about: str
) -> str:
    """A config that inherits from `base` and says a setting; `had`: keys of the base's backbone."""
    relative = os.path.relpath(Path(base).resolve(), path.resolve().parent)
    changes = copy.deepcopy(options)
    model = changes.setdefault('model', {})
    backbone = model.setdefault('backbone', {})
    replaced = {'_delete_': True} if key in had and isinstance(settings, Mapping) else {}
    backbone[key] = {**replaced, **settings} if isinstance(settings, Mapping) else settings
    said = '\n'.join(f'# {line}' for line in about.splitlines())
    body = '\n'.join(f'{name} = {as_code(value)}' for name, value in changes.items())
    return f'{said}\n_base_ = {relative!r}\n\n{body}\n'


def as_code(value: Any) -> str:
    """Plain values as configs write them: dict(a=1)."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return f'dict({", ".join(f"{key}={as_code(part)}" for key, part in value.items())})'
        return f'{{{", ".join(f"{key!r}: {as_code(part)}" for key, part in value.items())}}}'
    if isinstance(value, list):
        return f'[{", ".join(map(as_code, value))}]'
    return repr(value)
