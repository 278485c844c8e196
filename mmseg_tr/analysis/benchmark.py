"""Measure a network with reduced tokens and the plain one: work, speed, tokens, memory, on the same real images.

for run in benchmark_model(model, images, MeasureOptions(batch_sizes=(1, 8))):
    run.ratios['work'], run.ratios['time'], run.model.gmacs, run.plain.images_per_second
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from mmseg_tr.analysis.mac_rules import check_rule
from mmseg_tr.analysis.macs import SCOPES, evaluating
from mmseg_tr.analysis.measure import Measurement, MeasureOptions, math_attention_fits, measure
from mmseg_tr.analysis.network import count_rule_of, is_pose, reduction_of, without_reduction
from mmseg_tr.analysis.speed import Contestant, Seconds, scope_shares
from mmseg_tr.errors import ConfigError


@dataclass(frozen=True)
class Measured:
    """One network at one shape and batch size; everything is per image.

    gmacs: 1e9 multiply-adds from normalised image to logits at its size, under the chosen rule; gflops: twice that.
    gmacs_all: under the rule 'all'. parts: gmacs by part of the network; parts_all: the same under 'all'.
    params: parameters that inference can use. images_per_second: from normalised image to scores on the decoder's grid;
    images_per_second_to_labels: to the class of every pixel, or to keypoints. tokens_per_layer: mean number of tokens
    that leave each layer, prefix tokens included; None for a network without mmseg_tr's ViT. tokens_per_stage: queries
    and keys of each stage's attention, of a MiT. peak_memory: bytes on the GPU, None on a CPU.
    """

    gmacs: float
    gflops: float
    gmacs_all: float
    params: int
    images_per_second: float
    images_per_second_to_labels: float
    tokens_per_layer: list[float] | None
    parts: dict[str, float]
    parts_all: dict[str, float]
    peak_memory: int | None
    tokens_per_stage: list[dict[str, int]] | None = None


@dataclass(frozen=True)
class Run:
    """A network and its plain counterpart at one shape and batch size.

    images: how many different images were measured. plain: the same object as model when that reduces nothing.
    ratios: plain over model: work (gmacs), work_all (gmacs_all), work_to_scores (gmacs without the enlargement), time
        (to scores), time_to_labels; efficiency = time / work_to_scores, the share of the saved work that became saved
        time; time_over_published, of the plain network with attention as published.
    published_images_per_second: of the plain network with attention as published; None where that was not timed.
    shares: of the time to scores that merging and restoring take (speed.scope_shares).
    unknown: operators whose cost no counting rule defines. labels: the final result, 'labels' or 'poses'.
    """

    shape: tuple[int, int]
    batch_size: int
    images: int
    rule: str
    model: Measured
    plain: Measured
    ratios: dict[str, float] | None = None
    published_images_per_second: float | None = None
    shares: dict[str, float] | None = None
    unknown: tuple[str, ...] = ()
    labels: str = 'labels'

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and strings."""
        return dict(
            shape=list(self.shape),
            batch_size=self.batch_size,
            images=self.images,
            count=self.rule,
            model=asdict(self.model),
            plain=asdict(self.plain),
            ratios=self.ratios,
            published_images_per_second=self.published_images_per_second,
            shares=self.shares,
            unknown_operators=list(self.unknown),
            labels=self.labels,
        )


def benchmark_model(
    model: nn.Module,
    images: Tensor,
    options: MeasureOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
    plain: nn.Module | None = None,
) -> list[Run]:
    """Count and time `model` and the same network without its reduction, once per batch size.

    images: (n, 3, H, W), normalised, all different, on the model's device. plain: the network without its reduction,
    where it is not one of this package's.
    Raises ConfigError for a rule that does not exist or a batch larger than the number of images.
    """
    options = options or MeasureOptions()
    rule = check_rule(options.rule) if options.rule else count_rule_of(model)
    for size in options.batch_sizes:
        if not 1 <= size <= len(images):
            raise ConfigError(f'batch_sizes must be from 1 to the number of images, {len(images)}, got {size}.')
    options = replace(options, rule=rule)
    if plain is None:
        plain = model if reduction_of(model) is None else without_reduction(model)
    return [_benchmark(model, plain, images, size, options, progress) for size in options.batch_sizes]


def _benchmark(
    model: nn.Module,
    plain: nn.Module,
    images: Tensor,
    size: int,
    options: MeasureOptions,
    progress: Callable[[str], None],
) -> Run:
    reduced = plain is not model
    batches = list(images[: len(images) // size * size].split(size))
    where = f'{images.shape[2]}x{images.shape[3]}, batch {size}'
    shares = None
    with evaluating(model, plain):
        published = options.published and math_attention_fits(plain, batches[0])
        found, times = measure(
            dict(model=model, plain=plain) if reduced else dict(model=model),
            batches,
            options,
            more=dict(published=Contestant.of(plain, math_attention=True)) if published else None,
            progress=lambda text: progress(f'{where}: {text}'),
        )
        if reduced:
            progress(f'{where}: shares of merging and restoring')
            shares = scope_shares(Contestant.of(model), batches[:4], SCOPES, options.amp)
    measured = {name: _measured(measurement, options.rule) for name, measurement in found.items()}
    return Run(
        shape=tuple(images.shape[2:]),
        batch_size=size,
        images=sum(map(len, batches)),
        rule=options.rule,
        model=measured['model'],
        plain=measured.get('plain', measured['model']),
        ratios=_ratios(measured, times),
        published_images_per_second=1 / times['published'].scores if published else None,
        shares=shares,
        unknown=tuple(sorted(found['model'].work.unknown)),
        labels='poses' if is_pose(model) else 'labels',
    )


def _measured(found: Measurement, rule: str) -> Measured:
    def parts(rule: str) -> dict[str, float]:
        return {part: macs / 1e9 for part, macs in found.work.parts(rule).items() if macs}

    return Measured(
        gmacs=found.work.total(rule) / 1e9,
        gflops=2 * found.work.total(rule) / 1e9,
        gmacs_all=found.work.total('all') / 1e9,
        params=found.params,
        images_per_second=1 / found.seconds.scores,
        images_per_second_to_labels=1 / found.seconds.labels,
        tokens_per_layer=found.tokens_per_layer,
        parts=parts(rule),
        parts_all=parts('all'),
        peak_memory=found.peak_memory,
        tokens_per_stage=found.tokens_per_stage,
    )


def _ratios(measured: dict[str, Measured], times: dict[str, Seconds]) -> dict[str, float] | None:
    """Return Run.ratios; None without a plain network to compare with."""
    if 'plain' not in measured:
        return None
    model, plain = measured['model'], measured['plain']
    work_to_scores = (plain.gmacs - plain.parts.get('enlargement', 0)) / (
        model.gmacs - model.parts.get('enlargement', 0)
    )
    time = times['plain'].scores / times['model'].scores
    ratios = dict(
        work=plain.gmacs / model.gmacs,
        work_all=plain.gmacs_all / model.gmacs_all,
        work_to_scores=work_to_scores,
        time=time,
        time_to_labels=times['plain'].labels / times['model'].labels,
        efficiency=time / work_to_scores,
    )
    if 'published' in times:
        ratios['time_over_published'] = times['published'].scores / times['model'].scores
    return ratios
