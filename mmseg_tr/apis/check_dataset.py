"""Check all labels of a config's datasets: the verb of tools/check_dataset.py."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)
from mmseg_tr.apis.config import load_config
from mmseg_tr.datasets.label_checks import check_labels
from mmseg_tr.datasets.label_loading import LabelLoader, leaf_datasets
from mmseg_tr.datasets.label_report import LabelFault, LabelReport
from mmseg_tr.engine.data_checks import DataPart, check_batch, check_classes_of_heads, heads_of, is_segmentation
from mmseg_tr.engine.runner import ToolRunner, config_mistakes
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.files import write_atomically
from mmseg_tr.registry import MODELS
from mmseg_tr.visualization.attention import picture_png
from mmseg_tr.visualization.labels import draw_label

LOOPS = ('train', 'val', 'test')
SHOWN_FAULTS, SHOWN_SIZES = 40, 5
Progress = Callable[[str, int, int], None]


@dataclass
class DatasetCheck:
    """One dataset of a config and its report."""

    loop: str
    dataset: Any
    report: LabelReport
    faults: list[LabelFault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.faults = [*self.report.faults, *self.faults]

    def to_dict(self) -> dict[str, Any]:
        """Return the report in plain values, for JSON."""
        return dict(loop=self.loop, **{**self.report.to_dict(), 'faults': [vars(fault) for fault in self.faults]})


def check_dataset(
    config: str | Config, cfg_options: Mapping[str, Any] | None = None, progress: Progress = lambda *_: None
) -> list[DatasetCheck]:
    """Check every picture and label that a config trains, validates and tests on; each dataset once.

    Raises ConfigError for a config without segmentation datasets, and as building a dataset does.
    """
    config = load_config(config, cfg_options)
    init_default_scope(config.get('default_scope') or 'mmseg')
    with config_mistakes(config), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of mmseg, about settings of heads
        model = _outline(config)
        checks = list(_checks(config, model, progress))
    if not checks:
        raise ConfigError(f'the config {config.filename} names no dataset with label maps.')
    return checks


def _outline(config: Config) -> nn.Module:
    """Build the heads and the preprocessor of a config's model, without backbone and weights."""
    settings = config.get('model') or {}
    settings = settings.get('module', settings)
    model = nn.Module()
    for name in ('decode_head', 'auxiliary_head', 'data_preprocessor'):
        part = settings.get(name)
        parts = [MODELS.build(one) for one in (part if isinstance(part, list | tuple) else [part]) if one]
        setattr(model, name, nn.ModuleList(parts) if name != 'data_preprocessor' else (parts or [None])[0])
    return model


def _checks(config: Config, model: nn.Module, progress: Progress) -> Iterator[DatasetCheck]:
    seen: list[Any] = []
    for loop in LOOPS:
        settings = config.get(f'{loop}_dataloader')
        if settings is None or settings.dataset in seen:
            continue
        seen.append(settings.dataset)
        part = DataPart(loop, ToolRunner.build_dataloader({**settings, 'num_workers': 0, 'persistent_workers': False}))
        ignore_index = _ignore_index(config, model, loop)
        for dataset in leaf_datasets(part.loader.dataset):
            if is_segmentation(dataset):
                report = check_labels(
                    dataset,
                    ignore_index,
                    decode=None,
                    headers=None,
                    progress=partial(progress, loop),
                )
                yield DatasetCheck(loop, dataset, report, list(_further_faults(part, model, dataset, report)))


def _ignore_index(config: Config, model: nn.Module, loop: str) -> int:
    evaluators = config.get(f'{loop}_evaluator') or ()
    named = [
        one for one in (evaluators if isinstance(evaluators, list | tuple) else [evaluators]) if 'ignore_index' in one
    ]
    if named:
        return named[0]['ignore_index']
    return 255 if evaluators else next((head.ignore_index for head in heads_of(model)), 255)


def _further_faults(part: DataPart, model: nn.Module, dataset: Any, report: LabelReport) -> Iterator[LabelFault]:
    """Report heads that predict other classes, and batches that cannot be made."""
    try:
        check_classes_of_heads(heads_of(model), dataset)
    except ConfigError as error:
        yield LabelFault('classes', '', str(error))
    if dataset is part.loader.dataset and model.data_preprocessor is not None and not report.faults:
        try:
            check_batch(part, model.data_preprocessor, [report.examples[size] for size in sorted(report.examples)])
        except DatasetError as error:
            yield LabelFault('batch', '', str(error))


def check_outputs(out: str | None, report: str | None) -> None:
    """Raise ConfigError when the folder of pictures is not empty or the JSON file exists."""
    if out is not None and Path(out).is_dir() and any(Path(out).iterdir()):
        raise ConfigError(f'out is the folder {out}, which is not empty: name another one.', parameters=['out'])
    if report is not None and Path(report).exists():
        raise ConfigError(f'json names {report}, which exists already: name another file.', parameters=['json'])


def format_check(check: DatasetCheck) -> str:
    """Format a check as text: sizes, a table of classes, faults by file."""
    report = check.report
    lines = [f'{check.loop}: {report.name}, {report.total} pictures, {report.decoded} labels read', _sizes(report), '']
    total = max(1, int(report.pixels.sum()) + report.ignored)
    names = list(report.classes or range(len(report.pixels)))
    width = max([len('ignored'), *(len(str(name)) for name in names)])
    lines.append(f'  {"class":>{width + 5}} {"pixels":>14} {"share":>8} {"pictures":>9}')
    for number, name in enumerate(names):
        pixels = int(report.pixels[number])
        lines.append(
            f'  {number:>4} {name:>{width}} {pixels:>14} {100 * pixels / total:>7.2f}% {report.pictures[number]:>9}'
        )
    lines += [f'  {"":>4} {"ignored":>{width}} {report.ignored:>14} {100 * report.ignored / total:>7.2f}%', '']
    lines += [f'warning: {text}' for text in report.warnings]
    lines += [f'fault: {fault.text}' for fault in check.faults[:SHOWN_FAULTS]]
    if len(check.faults) > SHOWN_FAULTS:
        lines.append(f'and {len(check.faults) - SHOWN_FAULTS} faults more, which --json holds')
    return '\n'.join(lines + ([] if check.faults else ['no fault']))


def _sizes(report: LabelReport) -> str:
    shown = [f'{h}x{w} ({count})' for (h, w), count in report.sizes.most_common(SHOWN_SIZES)]
    more = len(report.sizes) - len(shown)
    return f'sizes, height x width: {", ".join(shown)}' + (f' and {more} more' if more > 0 else '')


def write_json(checks: Sequence[DatasetCheck], path: str | os.PathLike) -> None:
    """Write all results as JSON."""
    content = dict(datasets=[check.to_dict() for check in checks], faults=sum(len(check.faults) for check in checks))
    write_atomically(json.dumps(content, indent=2) + '\n', path)


def draw_samples(check: DatasetCheck, folder: str | os.PathLike, count: int) -> list[Path]:
    """Write PNGs of a few evenly spread pictures, each next to its label overlay; returns their paths."""
    load, palette = LabelLoader(check.dataset.pipeline), check.dataset.metainfo.get('palette')
    written = []
    total = len(check.dataset)
    for place in range(min(count, total)):
        index = place * total // min(count, total)
        try:
            loaded = load(check.dataset.get_data_info(index))
        except Exception:  # it is among the faults
            continue
        if loaded is None or loaded.label.ndim != 2 or loaded.picture is None:
            continue
        path = Path(folder) / check.loop / f'{index:06d}_{_stem(check.dataset, index)}.png'
        write_atomically(picture_png(draw_label(loaded.picture, loaded.label, palette)), path)
        written.append(path)
    return written


def _stem(dataset: Any, index: int) -> str:
    return Path(str(dataset.get_data_info(index).get('img_path'))).stem[:80]
