"""The rows of a benchmark suite about plain vision transformers.

Every function takes the Bench and a row's settings, and returns plain numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from benchmarks.ideal import sliced_network, token_counts
from benchmarks.random_weights import Method, on_meta, settings_on, tuned, with_method
from mmseg_tr.analysis.macs import SCOPES, MacCount, count_macs
from mmseg_tr.analysis.measure import math_attention_fits
from mmseg_tr.analysis.network import Steps, count_rule_of, find_backbone, network_of, reduction_of
from mmseg_tr.analysis.speed import Contestant, Profile, Seconds, mixed_precision, profile_once, time_in_turn
from mmseg_tr.apis.build import build_model, load_batch, own_shape
from mmseg_tr.apis.config import load_config
from mmseg_tr.paths import config_path
from mmseg_tr.reduction import build_reduction

Numbers = dict[str, Any]
TUNED_ON = 8  # images at most
PART_SCOPES = SCOPES | {'mmseg_tr::policy': 'policy'}


@dataclass
class Bench:
    """Settings of a measurement, and the plain network that was built last.

    seconds: of the timing of one row, about. images: at most, of a row. compiled: under torch.compile.
    """

    device: torch.device
    seconds: float
    images: int = 8
    amp: torch.dtype | None = None
    compiled: bool = False
    _built: tuple[str, nn.Module] | None = field(default=None, repr=False)

    def plain(self, config: Config) -> nn.Module:
        """Return the network of a config without its method, with reproducible random weights."""
        model = {key: value for key, value in config.model.items() if key not in ('test_cfg', 'train_cfg')}
        key = repr(model | dict(backbone={k: v for k, v in model['backbone'].items() if k != 'reduction'}))
        if self._built is None or self._built[0] != key:
            self._built = None  # before the next is built: two may not fit
            config.model.backbone.reduction = None
            config.model.backbone.pretrained = None
            model = build_model(config, None).to(self.device).eval()
            self._built = key, model.requires_grad_(True)
        return self._built[1]

    def time(
        self, contestants: dict[str, Contestant], batches: Sequence[Tensor], warm: bool = True, **limits: Any
    ) -> dict[str, Seconds]:
        """Time all in turn, for self.seconds or two rounds, whichever takes longer. limits: others than these."""
        warm_up = len(batches) if self.compiled else 1 if warm else 0
        limits = dict(repeats=20, seconds=self.seconds, least=2) | limits
        return time_in_turn(contestants, batches, **limits, warm_up=warm_up, amp=self.amp)

    def profile(self, contestant: Contestant, batch: Tensor) -> Profile:
        """One forward to scores."""
        with torch.inference_mode(), mixed_precision(self.device, self.amp):
            return profile_once(lambda: contestant.scores(batch), self.device, PART_SCOPES)

    def contestant(self, model: nn.Module, **kwargs) -> Contestant:
        return Contestant.of(model, compiled=self.compiled, **kwargs)

    def seconds_of(self, contestant: Contestant, batch: Tensor) -> float:
        """One forward to scores, roughly."""
        with torch.inference_mode(), mixed_precision(self.device, self.amp):
            start = time.perf_counter()
            contestant.scores(batch)
            if self.device.type == 'cuda':
                torch.cuda.synchronize(self.device)
            return time.perf_counter() - start


def read(settings: Numbers) -> tuple[Config, Method | None, tuple[int, int]]:
    """Config, method (settings or a name) and size of the images of a row. Raises ConfigError.

    more: settings over those of the config's method. options: over those of the config.
    """
    config = load_config(str(config_path(settings['config'])), settings.get('options'))
    method = settings.get('reduction', config.model.backbone.get('reduction'))
    if isinstance(method, Mapping):  # weights are random throughout
        method = {key: value for key, value in method.items() if not key.endswith('checkpoint')}
        method |= settings.get('more', {})
    return config, method, own_shape(config)


def reduced(bench: Bench, settings: Numbers) -> Numbers:
    """Time a method against the plain network and its ideal on the same images.

    published: GMACs of the paper, or ratio: plain over reduced work; an adaptive method is adjusted to reach them.
    """
    config, method, shape = read(settings)
    plain, batch = bench.plain(config), settings['batch']
    images = load_batch(config, plain, None, shape, max(bench.images, batch), batch).to(bench.device)
    method = settings_on(plain, method)
    rule, adaptive = count_rule_of(with_method(plain, method)), build_reduction(method).adaptive
    empty = count_macs(on_meta(plain), images[:1].to('meta'))
    whole = bench.profile(Contestant.of(plain), images[:batch])
    once = bench.seconds_of(bench.contestant(plain), images[:batch])
    number = max(1, min(len(images) // batch, int(bench.seconds / (6 * once))))
    batches = list(images[: number * batch].split(batch))
    wanted = wanted_ratio(settings, empty, rule) if adaptive else None
    if wanted:
        with mixed_precision(bench.device, bench.amp):
            method = tuned(plain, method, images[: min(number * batch, TUNED_ON)], wanted, rule)
    model = with_method(plain, method)
    kept = bench.profile(Contestant.of(model), batches[0])
    ideals = Ideals(bench, model, batches, adaptive)
    contestants = dict(plain=bench.contestant(plain), model=bench.contestant(model), ideal=ideals.contestant)
    times = bench.time(contestants, batches, warm=once < 1)
    macs = count_model(model, batches, adaptive)
    return dict(
        method=build_reduction(method).name,
        setting=method,
        tuned=bool(wanted),
        shape=list(shape),
        batch=batch,
        images=number * batch,
        rule=rule,
        published_gmacs=settings.get('published'),
        gmacs_plain=empty.total(rule) / 1e9,
        gmacs=macs.total(rule) / 1e9,
        **ratios(times, to_scores(empty, rule), to_scores(macs, rule), kept, own_work(model, images[:1], rule)),
        shares=kept.shares,
        peak_plain=whole.peak,
        peak=kept.peak,
        tokens=[list(layer.mlp) for layer in ideals.records[0].layers.values()],
    )


def wanted_ratio(settings: Numbers, plain: MacCount, rule: str) -> float | None:
    """Return the target ratio of plain to reduced work of an adaptive method; None without one."""
    published = settings.get('published')
    return plain.total(rule) / 1e9 / published if published else settings.get('ratio')


def ratios(times: dict[str, Seconds], plain: float, reduced: float, kept: Profile, own: float) -> Numbers:
    """Times and their ratios. plain, reduced: work to scores; own: of the method's own network."""
    work, ratio = plain / reduced, times['plain'].scores / times['model'].scores
    ideal = times['plain'].scores / times['ideal'].scores
    without = ratio / (1 - kept.shares['policy']) * (reduced - own) / plain
    return dict(
        ms_plain=1e3 * times['plain'].scores,
        ms=1e3 * times['model'].scores,
        ms_ideal=1e3 * times['ideal'].scores,
        work_ratio=work,
        time_ratio=ratio,
        ideal_ratio=ideal,
        efficiency=ratio / work,
        efficiency_without_policy=without if own else None,
        of_ideal=ratio / ideal,
        labels_ratio=times['plain'].labels / times['model'].labels,
        ms_labels_plain=1e3 * (times['plain'].labels - times['plain'].scores),
    )


class Ideals:
    """Return the ideal of every batch: a network each, with shared weights."""

    def __init__(self, bench: Bench, model: nn.Module, batches: Sequence[Tensor], adaptive: bool) -> None:
        with mixed_precision(bench.device, bench.amp):
            self.records = [token_counts(model, batch) for batch in (batches if adaptive else batches[:1])]
        networks = [sliced_network(model, batches[0], record) for record in self.records]
        steps = [bench.contestant(network) for network in networks]
        self.steps = {batch.data_ptr(): steps[number % len(steps)] for number, batch in enumerate(batches)}

    @property
    def contestant(self) -> Contestant:
        return Contestant(
            lambda batch: self.steps[batch.data_ptr()].scores(batch),
            lambda scores, batch: self.steps[batch.data_ptr()].labels(scores, batch),
        )


def count_model(model: nn.Module, batches: Sequence[Tensor], adaptive: bool) -> MacCount:
    """Return the work per image; counted without running when all images cost the same."""
    if adaptive:
        return MacCount.mean((count_macs(model, batch) for batch in batches), sum(map(len, batches)))
    return count_macs(on_meta(model), batches[0][:1].to('meta'))


@torch.inference_mode()
def own_work(model: nn.Module, image: Tensor, rule: str) -> float:
    """Return the multiply-adds of a method's own network, such as a policy; 0 without one."""
    method = find_backbone(model).reduction
    if not isinstance(method, nn.Module):
        return 0.0
    calls: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        part.register_forward_pre_hook(lambda part, args: calls.append((part, args[0]))) for part in method.children()
    ]
    try:
        network_of(model).scores(image)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(count_macs(part, given).total(rule) for part, given in calls)


def to_scores(count: MacCount, rule: str) -> float:
    """Return the multiply-adds without upsampling."""
    return count.total(rule) - count.parts(rule).get('enlargement', 0)


def improvements(bench: Bench, settings: Numbers) -> Numbers:
    """Time the plain network and each optimisation on its own: fused attention, labels from patch scores."""
    config, _, shape = read(settings)
    plain = bench.plain(config)
    images = load_batch(config, plain, None, shape, 2, 1).to(bench.device)
    network = network_of(plain)
    contestants = dict(
        plain=bench.contestant(plain),
        enlarged=Contestant(network.scores, lambda scores, batch: network.enlarge(scores, batch).argmax(1)),
    )
    if math_attention_fits(plain, images[:1]):
        contestants['published'] = Contestant.of(plain, math_attention=True)
    times = bench.time(contestants, images.split(1))
    best, other = times['plain'], times['enlarged']
    regions = label_times(bench, network, images[:1])
    return dict(
        shape=list(shape),
        ms=1e3 * best.scores,
        ms_to_labels=1e3 * best.labels,
        ms_published_attention=1e3 * times['published'].scores if 'published' in times else None,
        fused_attention=times['published'].scores / best.scores if 'published' in times else None,
        ms_labels=1e3 * (best.labels - best.scores),
        ms_labels_by_enlarging=1e3 * (other.labels - other.scores),
        labels=(other.labels - other.scores) / (best.labels - best.scores),
        **regions,
    )


def label_times(bench: Bench, network: Steps, image: Tensor) -> Numbers:
    """The same for scores with regions, as of trained networks: upsampled noise of an eighth of the grid."""
    with torch.inference_mode():
        shape = network.scores(image).shape
        noise = torch.randn(
            1, shape[1], *(-(-side // 8) for side in shape[2:]), generator=torch.Generator().manual_seed(0)
        )
        scores = F.interpolate(noise, size=shape[2:], mode='bilinear').to(bench.device)
    contestants = dict(
        straight=Contestant(lambda _: scores, network.labels),
        enlarged=Contestant(lambda _: scores, lambda scores, batch: network.enlarge(scores, batch).argmax(1)),
    )
    times = bench.time(contestants, [image])
    straight, enlarged = (times[name].labels - times[name].scores for name in ('straight', 'enlarged'))
    return dict(
        ms_regions=1e3 * straight, ms_regions_by_enlarging=1e3 * enlarged, labels_of_regions=enlarged / straight
    )


def copies(bench: Bench, settings: Numbers) -> Numbers:
    """Time a batch of different images against copies of the image whose work is nearest to the mean."""
    config, method, shape = read(settings)
    plain, size = bench.plain(config), settings['batch']
    images = load_batch(config, plain, None, shape, size, size).to(bench.device)
    model = with_method(plain, method)
    rule = count_rule_of(model)
    with mixed_precision(bench.device, bench.amp):
        macs = [to_scores(count_macs(model, image), rule) for image in images.split(1)]
    middle = min(range(size), key=lambda number: abs(macs[number] - statistics.fmean(macs)))
    same = images[middle : middle + 1].repeat(size, 1, 1, 1)
    work = statistics.fmean(macs) / macs[middle]
    runner = bench.contestant(model)
    contestants = dict(different=_fixed(runner, images), copies=_fixed(runner, same))
    times = bench.time(contestants, [images])
    return dict(
        method=reduction_of(model).name,
        shape=list(shape),
        batch=size,
        gmacs=[each / 1e9 for each in macs],
        work_of_copies=work,
        ms_different=1e3 * times['different'].scores,
        ms_copies=1e3 * times['copies'].scores,
        throughput=times['copies'].scores / times['different'].scores,
        of_copies=work * times['copies'].scores / times['different'].scores,
    )


def _fixed(runner: Contestant, batch: Tensor) -> Contestant:
    return Contestant(lambda _: runner.scores(batch), lambda *_: None)
