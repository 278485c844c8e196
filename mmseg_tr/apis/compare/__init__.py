"""Compare methods over one checkpoint and one dataset in one run: the verb of tools/compare.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.network import method_name, reduction_of
from mmseg_tr.apis.build import build_model, machine, pick_precision, precision_name, prepare_device
from mmseg_tr.apis.compare.equal_work import Worker, at_equal_work, sample
from mmseg_tr.apis.compare.loop import Cost, Progress, Tested, build_test_loader, measure_costs, predict_all
from mmseg_tr.apis.compare.models import (
    PLAIN,
    check_alike,
    names_of,
    settings_of,
    share_weights,
    with_methods,
    with_plain,
)
from mmseg_tr.apis.compare.options import CompareOptions
from mmseg_tr.apis.compare.rivals import build_rivals
from mmseg_tr.apis.config import load_configs, require_sections
from mmseg_tr.options import check_type

__all__ = ['ComparedModel', 'Comparison', 'CompareOptions', 'compare']


@dataclass(frozen=True)
class Predictions:
    """Whose predictions were tested, and how good they are.

    miou: percent, of segmentation. pck, pck_strict: percent of the keypoints within 0.1 and 0.05 of the box's longer
    side, of pose. agreement: percent of the labelled pixels for which both models predict the same class, or of the
    labelled keypoints that are within 0.05 of that side of the plain model's.
    """

    name: str
    method: str
    settings: dict[str, Any]
    miou: float | None
    pck: float | None
    pck_strict: float | None
    agreement: float

    @property
    def quality(self) -> float:
        """mIoU or PCK@0.1, percent; without labels the agreement."""
        return next((score for score in (self.pck, self.miou) if score is not None), self.agreement)


@dataclass(frozen=True)
class ComparedModel(Cost, Predictions):  # fields of the last base come first
    """One method of a comparison: its predictions, then its cost; poses without the flip test."""


@dataclass(frozen=True)
class Comparison:
    """The compared models, the plain one first, and the circumstances of the measurement."""

    rows: tuple[ComparedModel, ...]
    about: Mapping[str, Any]


def compare(
    configs: Sequence[str],
    checkpoint: str,
    options: CompareOptions | None = None,
    progress: Progress = lambda _: None,
    **settings: Any,
) -> Comparison:
    """Test and time every config and the plain model, with the same weights on the same images.

    The dataset and the windows are those of the plain config, or of the first where none is plain. Every network is
    timed in turn. settings: fields of CompareOptions, over those of `options`.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError for input that cannot be used.
    """
    options = replace(options or CompareOptions(), **settings)
    check_type('checkpoint', checkpoint, str | os.PathLike | None)
    place, dtype = prepare_device(options.device, options.compiled), pick_precision(options.amp, options.device)
    named, left_out = load_compared(configs, options), {}
    first = next(iter(named.values()))
    loader = build_test_loader(first, options.fraction)
    options = replace(options, batch_size=options.batch_for(len(loader.dataset)))
    if options.work:
        plain = build_model(first, checkpoint).to(place).eval()
        worker = Worker(plain, sample(plain, loader.dataset, options.batch_size))
        named, left_out = at_equal_work(named, worker, options.work, options.fixed, progress)
    models = build_compared(named, checkpoint, place, progress)
    rivals = build_rivals(models, first, options, dtype, progress)
    models |= rivals.models
    tested = predict_all(models, first, loader, options.images, dtype, progress)
    costs = measure_costs(models, tested, options, dtype, progress, rivals.compiled)
    settings = {name: used_settings(named[name], models[name]) for name in named} | rivals.settings
    rows = rows_of(models | dict.fromkeys(rivals.compiled, next(iter(models.values()))), settings, tested, costs)
    about = dict(
        checkpoint=str(checkpoint),
        quality=tested.judge.measure,
        dataset=str(first.test_dataloader.dataset.type),
        images_tested=len(loader.dataset),
        images_timed=len(tested.inputs),
        shape=list(tested.inputs[0].shape[2:]),
        windows_per_image=tested.windows,
        batch_size=options.batch_size,
        machine=machine(place),
        threads=torch.get_num_threads(),
        precision=precision_name(dtype),
        torch=torch.__version__,
        work=list(options.work),
        rivals=[*rivals.models, *rivals.compiled],
        left_out=left_out | rivals.left_out,
    )
    return Comparison(rows, about)


def load_compared(configs: Sequence[str], options: CompareOptions) -> dict[str, Config]:
    """Return the configs by name: the plain one first, further methods last. Raises ConfigError."""
    loaded = load_configs(configs, options.cfg_options)
    for config in loaded:
        require_sections(config, 'model', 'test_dataloader', 'test_evaluator')
    named = with_plain(dict(zip(names_of(configs), loaded)))
    return with_methods(named, loaded[0], options.methods, options.reductions)


def rows_of(
    models: Mapping[str, nn.Module], settings: Mapping[str, dict], tested: Tested, costs: Mapping[str, Cost]
) -> tuple[ComparedModel, ...]:
    """Return the rows of the models, the plain one first. A compiled one has the predictions of the plain network."""
    scores, agreement, plain = tested.judge.quality(), tested.judge.agreement(), next(iter(models))
    return tuple(
        ComparedModel(
            name=name,
            method=PLAIN if reduction_of(model) is None else method_name(reduction_of(model)),
            settings=settings[name],
            **(dict.fromkeys(('miou', 'pck', 'pck_strict')) | scores.get(name, scores[plain])),
            agreement=agreement.get(name, agreement[plain]),
            **asdict(costs[name]),
        )
        for name, model in models.items()
    )


def used_settings(config: Config, model: nn.Module) -> dict[str, Any]:
    """Return the settings of the config's method; of a bare name its defaults on this network."""
    settings = settings_of(config)
    return reduction_of(model).settings() if settings.keys() == {'type'} else settings


def build_compared(
    configs: Mapping[str, Config], checkpoint: str, device: torch.device, progress: Callable[[str], None]
) -> dict[str, nn.Module]:
    """Build the models of the configs, which must predict alike, with shared weights."""
    models: dict[str, nn.Module] = {}
    for name, config in configs.items():
        progress(f'building {name}')
        models[name] = build_model(config, checkpoint).to(device).eval()
        check_alike(models)
        share_weights(models)
    return models
