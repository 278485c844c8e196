"""Write the interactive report of pictures under several methods: the verb of tools/report.py.

report/page.py writes the page.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmseg_tr.apis.compare.models import (
    PLAIN,
    check_alike,
    names_of,
    settings_of,
    share_weights,
    with_methods,
    with_plain,
)
from mmseg_tr.apis.config import load_configs, require_sections
from mmseg_tr.apis.images import Failure
from mmseg_tr.apis.meta import classes_of, palette_of
from mmseg_tr.apis.report.pictures import Seen, Shown, look, own_examples, test_examples
from mmseg_tr.apis.show.view import RANDOM, View, open_view
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.pose_checks import is_pose_config
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.options import Options, check_type
from mmseg_tr.reduction.checks import is_number
from mmseg_tr.weights import card

__all__ = ['Report', 'ReportOptions', 'Seen', 'Shown', 'build_report', 'labels_of']


@dataclass(frozen=True)
class Report:
    """Content of the page.

    methods: settings of every method by its name, the plain model (no settings) first. rows: of a comparison, as
    compare.json has them, the plain model first; about: its circumstances. facts: sentences for the foot of the page.
    """

    title: str
    summary: str
    methods: Mapping[str, Mapping[str, Any]]
    pictures: Sequence[Shown]
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    rows: Sequence[Mapping[str, Any]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class ReportOptions(Options):
    """What a report shows.

    comparison: a compare.json of tools/compare.py. scenes: how many pictures of the test set, where no inputs are
    named. reductions: further methods over the first config, each text as config.parse_reduction() reads it.
    device: 'cpu', 'cuda', 'cuda:1'; by default a GPU if available. cfg_options: settings over the configs'.
    progress(text) reports progress, report(failure) for every picture that is skipped.
    """

    comparison: str | os.PathLike | None = None
    scenes: int = 5
    reductions: Sequence[str] = ()
    device: str | torch.device | None = None
    cfg_options: Mapping[str, Any] | None = None
    progress: Callable[[str], None] = lambda text: None
    report: Callable[[Failure], None] = lambda failure: None


def build_report(
    configs: Sequence[str],
    checkpoint: str,
    inputs: Sequence[str] = (),
    options: ReportOptions | None = None,
    **settings: Any,
) -> Report:
    """Report every config and the plain model on the same pictures with the same weights.

    inputs: image files and folders; without any, pictures spread over the test set of the plain config, with their
    labels. checkpoint='none' gives random weights. settings: fields of ReportOptions, over `options`.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError.
    """
    options = replace(options or ReportOptions(), **settings)
    if options.scenes < 1:
        raise ConfigError(f'scenes must be 1 or more, got {options.scenes}.', parameters=['scenes'])
    check_type('checkpoint', checkpoint, str | os.PathLike)
    check_type('inputs', inputs, Sequence[str | os.PathLike])
    rows, about = read_comparison(options.comparison) if options.comparison else ((), {})
    named = named_configs(configs, options)
    views = build_views(named, checkpoint, options)
    first = next(iter(views.values()))
    weights = None if checkpoint == RANDOM else checkpoint
    palette, names = (
        palette_of(first.config, first.model, weights),
        classes_of(first.config, first.model, weights).names,
    )
    pictures = look_at_all(views, inputs, options)
    said = 'The weights are random.' if checkpoint == RANDOM else f'Weights: {Path(checkpoint).name}.'
    return Report(
        title='Token reduction, picture by picture',
        summary=f'{len(views)} models over one checkpoint, {len(pictures)} picture{"s" * (len(pictures) != 1)}.',
        methods={name: settings_of(config) for name, config in named.items()},
        pictures=pictures,
        classes=names[: len(palette)],
        palette=palette,
        rows=rows,
        about=about,
        facts=[f'{said} Pictures enter as in a test; the first: {pictures[0].scale}.'],
    )


def named_configs(configs: Sequence[str], options: ReportOptions) -> dict[str, Config]:
    """Return every config by a short name: plain model first, then the first config under further methods."""
    loaded = load_configs(configs, options.cfg_options)
    for config in loaded:
        require_sections(config, 'model')
        if is_pose_config(config):
            raise ConfigError(f'{config.filename} is a pose config: the report is for segmentation.')
    named = with_plain(dict(zip(names_of(configs), loaded)))
    return with_methods(named, loaded[0], reductions=options.reductions)


def build_views(named: Mapping[str, Config], checkpoint: str, options: ReportOptions) -> dict[str, View]:
    """Build the models, which share their weights."""
    views: dict[str, View] = {}
    for name, config in named.items():
        options.progress(f'building {name}')
        views[name] = open_view(config, checkpoint, device=options.device)
    models = {name: view.model for name, view in views.items()}
    check_alike(models)
    share_weights(models)
    return views


def look_at_all(views: Mapping[str, View], inputs: Sequence[str], options: ReportOptions) -> list[Shown]:
    """Run all models on all pictures. Raises DatasetError when no picture can be read."""
    first, pictures, failures = next(iter(views.values())), [], []
    if inputs:
        examples = own_examples(first.reader, inputs, failures)
    else:
        require_sections(first.config, 'test_dataloader')
        examples = test_examples(first.reader, build_dataset(first.config.test_dataloader.dataset), options.scenes)
    for example in examples:
        options.progress(f'looking at {example.name}')
        try:
            pictures.append(look(views, example))
        except DatasetError as error:
            failures.append(Failure(Path(example.name), str(error)))
    for failure in failures:
        options.report(failure)
    if not pictures:
        raise DatasetError('none of the pictures can be read: name others.')
    return pictures


def read_comparison(path: str) -> tuple[list[dict], dict]:
    """Read rows and setup from the compare.json of a segmentation. Raises ConfigError."""
    content = card.read_comparison(path)
    for row in content['rows']:
        if not usable_row(row):
            raise ConfigError(
                f'comparison must hold segmentation models with their numbers, {row["name"]} of {path} is none: take '
                'the compare.json of another comparison.',
                parameters=['comparison'],
            )
    return content['rows'], content['about']


def usable_row(row: Any) -> bool:
    """Return whether a row of a segmentation comparison has all numbers that the page draws."""

    def number(key: str) -> bool:
        return is_number(row[key])

    if not isinstance(row, dict) or not {'name', 'method', 'miou', 'gmacs'} <= set(row):
        return False
    tokens, settings = row.get('tokens_per_layer'), row.get('settings')
    return (
        all(isinstance(row[key], str) for key in ('name', 'method'))
        and number('miou')
        and number('gmacs')
        and row['gmacs'] > 0
        and all(row.get(key) is None or number(key) for key in ('fps', 'throughput', 'agreement'))
        and (settings is None or isinstance(settings, dict))
        and (tokens is None or (isinstance(tokens, list) and all(map(is_number, tokens))))
    )


def labels_of(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a label of every method: its type, and a distinguishing setting where types repeat."""
    kinds = {name: str(settings.get('type', PLAIN)) for name, settings in methods.items()}
    labels = {}
    for name, settings in methods.items():
        alike = [other for other in methods if other != name and kinds[other] == kinds[name]]
        own = [
            key
            for key in settings
            if key != 'type' and all(methods[other].get(key) != settings[key] for other in alike)
        ]
        if alike and own:
            value = settings[own[0]]
            labels[name] = f'{kinds[name]}, {value if isinstance(value, str) else f"{own[0]}={value}"}'
        else:
            labels[name] = f'{kinds[name]}, {name}' if alike else kinds[name]
    return labels if max(Counter(labels.values()).values()) == 1 else {name: name for name in methods}
