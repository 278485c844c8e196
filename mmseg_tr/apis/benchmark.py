"""The benchmark of a config file: what tools/get_fps_flops.py does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import torch
from mmengine.config import Config

from mmseg_tr.analysis.benchmark import Run, benchmark_model
from mmseg_tr.analysis.mac_rules import check_rule
from mmseg_tr.analysis.measure import MeasureOptions
from mmseg_tr.analysis.network import method_name, reduction_of
from mmseg_tr.apis.build import (
    IMAGES,
    build_model,
    cpu_threads,
    load_batch,
    machine,
    own_shape,
    pick_precision,
    prepare_device,
)
from mmseg_tr.apis.config import load_config, reduction_settings, require_sections


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured, one Run per shape and batch size, with the circumstances and what to beware of."""

    about: Mapping[str, Any]
    runs: tuple[Run, ...]
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Top-level numbers are those of the first run, `plain` holds the same of the plain network."""
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


def benchmark(
    config: str | Config,
    checkpoint: str | None = None,
    *,
    shapes: Sequence[tuple[int, int]] | None = None,
    batch_sizes: Sequence[int] = (1, 8),
    images: str | None = None,
    num_images: int | None = None,
    device: str | None = None,
    amp: str | None = None,
    compiled: bool = False,
    rule: str | None = None,
    repeats: int = 10,
    seconds: float | None = 30.0,
    threads: int | None = None,
    published: bool = True,
    cfg_options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchmarkReport:
    """Measure the network of a config, and the same without its token reduction, on real and different images.

    shapes: (H, W) of the images that enter the network; by default the config's own. images: a folder, by default the
    bundled photographs; num_images: how many of them. device: 'cpu', 'cuda', 'cuda:1'; by default a GPU where there is
    one. amp: 'bf16' or 'fp16'. threads: of the CPU. Everything else: see apis.benchmark.benchmark_model.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError with one sentence for input that cannot be used.
    """
    place, dtype = prepare_device(device), pick_precision(amp, device)
    if rule is not None:
        check_rule(rule)
    config = load_config(config, cfg_options)
    require_sections(config, 'model')
    model = build_model(config, checkpoint).to(place).eval()
    reduction, runs = reduction_of(model), []
    with cpu_threads(threads):
        for shape in shapes or [own_shape(config)]:
            batch = load_batch(config, model, images, shape, num_images or max(IMAGES, *batch_sizes), max(batch_sizes))
            options = MeasureOptions(
                batch_sizes=batch_sizes,
                rule=rule,
                repeats=repeats,
                seconds=seconds,
                amp=dtype,
                compiled=compiled,
                published=published,
            )
            runs += benchmark_model(model, batch.to(place), options, progress)
        about = dict(
            config=str(config.filename),
            checkpoint=checkpoint,
            reduction=_settings(config.model),
            count=runs[0].rule,
            device=str(place),
            machine=machine(place),
            threads=torch.get_num_threads(),
            precision=amp or 'fp32',
            compiled=compiled,
            image_source=str(images or 'photographs bundled with scikit-image and scikit-learn'),
            torch=torch.__version__,
            date=datetime.now().astimezone().isoformat(timespec='seconds'),
        )
    return BenchmarkReport(about, tuple(runs), tuple(_cautions(reduction, checkpoint, runs)))


def _settings(model: Mapping[str, Any]) -> dict[str, Any] | None:
    return reduction_settings(model.get('backbone') or {}) or None


def _cautions(reduction: Any, checkpoint: str | None, runs: Sequence[Run]) -> Iterator[str]:
    name = None if reduction is None else method_name(reduction)
    if getattr(reduction, 'adaptive', False) and checkpoint is None:  # SegFormer++ says how many tokens to merge
        yield (
            f'{name} decides by what the network sees, and without --checkpoint its weights are random: what it '
            'saves here says nothing about the trained model.'
        )
    for run in runs:
        where = f'at {run.shape[0]}x{run.shape[1]}, batch {run.batch_size}'
        if run.unknown:
            yield f'{where} the work of {", ".join(run.unknown)} was not counted: no rule knows these operators.'
        # not by tokens per layer: ACT and dense ToMe save work while the tokens between layers stay
        if run.ratios and run.ratios['work_all'] <= 1:
            more = 1 / run.ratios['work_all']
            yield f'{where} {name} saves no work: it takes {more:.3f} times the multiply-adds of the plain network.'
        if run.ratios and run.ratios['time'] < 1:
            yield f'{where} {name} does not pay: the plain network is {1 / run.ratios["time"]:.2f} times as fast.'
