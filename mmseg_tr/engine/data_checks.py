"""Check the data of a run before it starts: labels against pictures and classes, classes against heads, batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from logging import Logger
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.model import BaseDataPreprocessor
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmseg_tr.datasets.label_checks import check_labels
from mmseg_tr.datasets.label_loading import has_labels, kept_random_state, leaf_datasets
from mmseg_tr.datasets.label_report import LabelReport
from mmseg_tr.engine.runner import bare_model
from mmseg_tr.errors import ConfigError, DatasetError

TRIED = 4  # pictures that go through the whole pipeline, of different sizes if possible
IGNORE = 255


@dataclass(frozen=True)
class DataPart:
    """The data of one loop: its name in the config ('train', 'val', 'test'), its loader and ignored label."""

    name: str
    loader: DataLoader
    ignore_index: int = IGNORE


def check_run_data(runner: Runner, *loops: str) -> None:
    """Check the segmentation datasets of a run's loops ('train', 'val', 'test') on the main process.

    Raises DatasetError, with the first fault in one sentence, for invalid labels, and ConfigError for
    heads that do not predict the dataset's classes; on every process, so that no process waits for another.
    """
    failure: list[Exception | None] = [None]
    if is_main_process():
        try:
            model = bare_model(runner)
            check_parts(model, _parts(runner, model, loops), runner.logger)
        except (ConfigError, DatasetError) as error:
            failure[0] = error
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]


def _parts(runner: Runner, model: nn.Module, loops: Sequence[str]) -> list[DataPart]:
    """Return the data of the loops. A test ignores the label that its metric ignores."""
    trained = next((head.ignore_index for head in heads_of(model) if hasattr(head, 'ignore_index')), IGNORE)
    parts = []
    for name in loops:
        loop = getattr(runner, f'{name}_loop')
        metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
        tested = next((metric.ignore_index for metric in metrics if hasattr(metric, 'ignore_index')), trained)
        parts.append(DataPart(name, loop.dataloader, tested))
    return parts


def check_parts(model: nn.Module, parts: Sequence[DataPart], logger: Logger) -> None:
    """Check the data of several loops, each dataset once. Raises as `check_run_data` does."""
    for part in parts:
        for dataset in leaf_datasets(part.loader.dataset):
            if not is_segmentation(dataset):
                continue
            check_classes_of_heads(heads_of(model), dataset)
            report = check_labels(dataset, part.ignore_index)
            if report.faults:
                raise DatasetError(_sentence(report))
            for warning in report.warnings:
                logger.warning(f'{part.name} data: {warning}')
            if dataset is part.loader.dataset:
                examples = [report.examples[size] for size in sorted(report.examples)]
                check_sizes(part, model, examples)
                check_batch(part, model.data_preprocessor, examples)


def _sentence(report: LabelReport) -> str:
    """Return the first fault, and how many more there are."""
    more = len(report.faults) - 1
    others = f' {more} more: mmseg-tr check-dataset CONFIG lists all.' if more else ''
    return f'{report.faults[0].text}{others}'


def is_segmentation(dataset: Any) -> bool:
    """Return whether a dataset has label maps."""
    return hasattr(dataset, 'get_data_info') and len(dataset) > 0 and has_labels(dataset.get_data_info(0))


def heads_of(model: nn.Module) -> list[nn.Module]:
    """Return the heads of a segmentor that predict its classes, auxiliary ones included."""
    found = [getattr(model, name, None) for name in ('decode_head', 'auxiliary_head')]
    heads = [one for head in found for one in (head if isinstance(head, nn.ModuleList) else [head])]
    return [head for head in heads if isinstance(getattr(head, 'num_classes', None), int)]


def check_classes_of_heads(heads: Iterable[nn.Module], dataset: Any) -> None:
    """Raise ConfigError unless every head predicts as many classes as the dataset has."""
    classes = dataset.metainfo.get('classes')
    for head in heads if classes else ():
        is_binary = getattr(head, 'out_channels', None) == 1 and len(classes) <= 2
        if head.num_classes != len(classes) and not is_binary:
            shown = ', '.join(map(str, classes[:6])) + (', ...' if len(classes) > 6 else '')
            raise ConfigError(
                f'the head {type(head).__name__} predicts {head.num_classes} classes and the dataset '
                f'{type(dataset).__name__} has {len(classes)} ({shown}): set num_classes={len(classes)}, or the '
                'classes in the metainfo of the dataset.'
            )


def check_sizes(part: DataPart, model: nn.Module, examples: Sequence[int]) -> None:
    """Raise DatasetError when a picture has a size that the model does not accept.

    A model states this by `size_step`: images and label maps must be multiples of it. examples: as of check_batch.
    """
    step, dataset = getattr(model, 'size_step', None), part.loader.dataset
    if step is None:
        return
    with kept_random_state(), torch.no_grad():
        for index in dict.fromkeys(_extremes(examples)):
            batch = model.data_preprocessor(part.loader.collate_fn([dataset[index]]), training=part.name == 'train')
            labels = batch['data_samples'][0].gt_sem_seg.data
            for height, width in (labels.shape[-2:], batch['inputs'][0].shape[-2:]):
                if height % step or width % step:
                    raise DatasetError(
                        f'{dataset.get_data_info(index)["img_path"]} reaches the network of {part.name}_dataloader as '
                        f'{height} x {width} pixels, which must be multiples of {step}: crop or resize in the pipeline.'
                    )


def check_batch(part: DataPart, preprocessor: BaseDataPreprocessor, examples: Sequence[int]) -> None:
    """Raise DatasetError when the pipeline returns pictures of sizes that cannot form a batch.

    examples: indices of pictures of different sizes, ordered by size.
    """
    dataset, size = part.loader.dataset, part.loader.batch_size or 1
    if size < 2 or len(dataset) < 2:
        return
    chosen = list(islice(dict.fromkeys([*_extremes(examples), *range(len(dataset))]), min(TRIED, max(size, 2))))
    with kept_random_state(), torch.no_grad():
        samples = [dataset[index] for index in chosen]
        inputs = [sample.get('inputs') if isinstance(sample, dict) else None for sample in samples]
        shapes = {tuple(one.shape[-2:]): index for one, index in zip(inputs, chosen) if isinstance(one, torch.Tensor)}
        if len(shapes) < 2:
            return
        try:
            preprocessor(part.loader.collate_fn(samples), training=part.name == 'train')
        except (RuntimeError, AssertionError, ValueError) as error:
            shown = ', '.join(
                f'{height} x {width} ({dataset.get_data_info(index)["img_path"]})'
                for (height, width), index in shapes.items()
            )
            advice = 'add RandomCrop or Resize to its pipeline' if part.name == 'train' else 'use batch_size=1'
            raise DatasetError(
                f'pictures leave the pipeline of {part.name}_dataloader in several sizes, {shown}, which cannot make '
                f'a batch of {size}: {advice}.'
            ) from error


def _extremes(examples: Sequence[int]) -> list[int]:
    """Return the first, the last and two between of the examples."""
    return [examples[place * (len(examples) - 1) // (TRIED - 1)] for place in range(TRIED)] if examples else []
