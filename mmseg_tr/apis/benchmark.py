"""Benchmark the network of a config: the verb of tools/get_fps_flops.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.benchmark import Run, benchmark_model
from mmseg_tr.analysis.mac_rules import check_rule
from mmseg_tr.analysis.measure import MeasureOptions
from mmseg_tr.analysis.network import is_adaptive, method_name, reduction_of
from mmseg_tr.apis.build import (
    IMAGES,
    MOST_IMAGES,
    build_model,
    cpu_threads,
    load_batch,
    machine,
    own_shape,
    pick_precision,
    prepare_device,
)
from mmseg_tr.apis.config import load_config, reduction_settings, require_sections, use_reduction
from mmseg_tr.apis.hosts import host_runs, open_named
from mmseg_tr.errors import ConfigError
from mmseg_tr.options import Options


@dataclass(frozen=True)
class BenchmarkReport:
    """Results of a benchmark: one Run per shape and batch size, the setup, and warnings."""

    about: Mapping[str, Any]
    runs: tuple[Run, ...]
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON. Top-level numbers are of the first run, `plain` has the plain network's."""
        first = self.runs[0].to_dict()
        top = ('gmacs', 'gflops', 'params', 'images_per_second', 'tokens_per_layer', 'tokens_per_stage')
        return dict(
            **self.about,
            **{key: first['model'][key] for key in top},
            plain={key: first['plain'][key] for key in top},
            ratios=first['ratios'],
            shares=first['shares'],
            runs=[run.to_dict() for run in self.runs],
            warnings=list(self.warnings),
        )


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """What is measured, and on which images.

    shapes: (H, W) of the images that enter the network; by default the config's own. batch_sizes: those larger than the
    number of images are measured at that number, and reported. images: a folder, by default the bundled photographs;
    num_images: how many of them. device: 'cpu', 'cuda', 'cuda:1'; by default a GPU if available. amp: 'bf16' or
    'fp16'. threads: of the CPU. reduction: a method over the config's
    (config.parse_reduction). rule, repeats, seconds, compiled, published: see analysis.measure.MeasureOptions.
    """

    shapes: Sequence[tuple[int, int]] | None = None
    batch_sizes: Sequence[int] = (1, 8)
    images: str | os.PathLike | None = None
    num_images: int | None = None
    device: str | torch.device | None = None
    amp: str | None = None
    compiled: bool = False
    rule: str | None = None
    reduction: str | None = None
    repeats: int = 10
    seconds: float | None = 30.0
    threads: int | None = None
    published: bool = True
    cfg_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers out of range, before anything is built."""
        super().__post_init__()
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(
                f'batch_sizes must be positive integers, got {tuple(self.batch_sizes)}.', parameters=['batch_sizes']
            )
        if self.most_images > MOST_IMAGES:
            raise ConfigError(
                f'num_images and batch_sizes must be at most {MOST_IMAGES}, got {self.most_images}.',
                parameters=['num_images', 'batch_sizes'],
            )
        for name in ('num_images', 'repeats', 'threads'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f'{name} must be a positive integer, got {value}.', parameters=[name])
        if self.num_images is not None and self.num_images < max(self.batch_sizes):
            raise ConfigError(
                f'num_images must be at least the largest of batch_sizes, {max(self.batch_sizes)}, got '
                f'{self.num_images}: a batch holds different images.',
                parameters=['num_images', 'batch_sizes'],
            )
        if self.rule is not None:
            check_rule(self.rule)

    @property
    def most_images(self) -> int:
        """How many pictures are loaded at most."""
        return self.num_images or max(IMAGES, *self.batch_sizes)

    def measuring(self, amp: torch.dtype | None, images: int) -> MeasureOptions:
        """How a network is measured on a number of images."""
        sizes = dict.fromkeys(min(size, images) for size in self.batch_sizes)
        return MeasureOptions(
            batch_sizes=tuple(sizes),
            rule=self.rule,
            repeats=self.repeats,
            seconds=self.seconds,
            amp=amp,
            compiled=self.compiled,
            published=self.published,
        )


def benchmark(
    config: str | Config,
    checkpoint: str | None = None,
    options: BenchmarkOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> BenchmarkReport:
    """Measure the network of a config, and the same without its token reduction, on real and different images.

    settings: fields of BenchmarkOptions, over those of `options`.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError with one sentence for input that cannot be used.
    """
    options = replace(options or BenchmarkOptions(), **settings)
    place, dtype = prepare_device(options.device, options.compiled), pick_precision(options.amp, options.device)
    config = load_config(config, options.cfg_options)
    require_sections(config, 'model')
    if options.reduction is not None:
        use_reduction(config, options.reduction)
    model = build_model(config, checkpoint).to(place).eval()
    runs: list[Run] = []
    with cpu_threads(options.threads):
        for shape in options.shapes or [own_shape(config)]:
            batch = load_batch(config, model, options.images, shape, options.most_images, 1)
            runs += benchmark_model(model, batch.to(place), options.measuring(dtype, len(batch)), progress)
        own = reduction_settings(config.model.get('backbone') or {}) or None
        about = _circumstances(str(config.filename), own, checkpoint, options, place) | dict(count=runs[0].rule)
    cautions = (*_missing(options, runs), *_cautions(model, checkpoint, runs))
    return BenchmarkReport(about, tuple(runs), cautions)


def benchmark_host(
    name: str,
    checkpoint: str | None = None,
    options: BenchmarkOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchmarkReport:
    """As benchmark(), of a network of another library: timm:NAME or transformers:FOLDER_OR_NAME.

    checkpoint: 'none' for random weights; by default those of the name.
    """
    options = options or BenchmarkOptions()
    if options.cfg_options:
        raise ConfigError('cfg_options are for a config, and model names a network.', parameters=['cfg_options'])
    place, dtype = prepare_device(options.device, options.compiled), pick_precision(options.amp, options.device)
    model, runs = host_runs(open_named(name, checkpoint, place), options, dtype, progress)
    reduction = reduction_of(model)
    settings = None if reduction is None else reduction.settings()
    about = _circumstances(name, settings, checkpoint or name, options, place) | dict(count=runs[0].rule)
    random = None if checkpoint else name
    return BenchmarkReport(about, tuple(runs), (*_missing(options, runs), *_cautions(model, random, runs)))


def _circumstances(
    config: str, reduction: Any, checkpoint: str | None, options: BenchmarkOptions, place: torch.device
) -> dict[str, Any]:
    return dict(
        config=config,
        checkpoint=checkpoint,
        reduction=reduction,
        count=None,
        device=str(place),
        machine=machine(place),
        threads=torch.get_num_threads(),
        precision=options.amp or 'fp32',
        compiled=options.compiled,
        image_source=str(options.images or 'photographs bundled with scikit-image and scikit-learn'),
        torch=torch.__version__,
        date=datetime.now().astimezone().isoformat(timespec='seconds'),
    )


def _missing(options: BenchmarkOptions, runs: Sequence[Run]) -> Iterator[str]:
    """Warn about batch sizes that exceed the number of images."""
    there = max(run.batch_size for run in runs)
    larger = [str(size) for size in options.batch_sizes if size > there]
    if larger:
        yield (
            f'a batch of {" or ".join(larger)} takes as many different images and there are {there}: measured with '
            f'batches of {there}.'
        )


def _cautions(model: nn.Module, checkpoint: str | None, runs: Sequence[Run]) -> Iterator[str]:
    reduction = reduction_of(model)
    name = None if reduction is None else method_name(reduction)
    if is_adaptive(model) and checkpoint is None:
        yield (
            f'{name} is adaptive, and without a checkpoint the weights are random: its savings here do not predict '
            'those of the trained model.'
        )
    for run in runs:
        where = f'at {run.shape[0]}x{run.shape[1]}, batch {run.batch_size}'
        if run.unknown:
            yield f'{where} the work of {", ".join(run.unknown)} was not counted: no rule knows these operators.'
        # not by tokens per layer: ACT and dense ToMe save work but keep the tokens between layers
        if run.ratios and run.ratios['work_all'] <= 1:
            more = 1 / run.ratios['work_all']
            yield f'{where} {name} saves no work: it takes {more:.3f} times the multiply-adds of the plain network.'
        if run.ratios and run.ratios['time'] < 1:
            yield f'{where} {name} does not pay: the plain network is {1 / run.ratios["time"]:.2f} times as fast.'
