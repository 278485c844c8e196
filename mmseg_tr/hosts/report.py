"""Report of a method in a network: tokens per layer, work, and measured time against the plain network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.analysis.macs import evaluating
from mmseg_tr.analysis.measure import MeasureOptions, count_work, time_models
from mmseg_tr.analysis.speed import Contestant
from mmseg_tr.analysis.tokens import attention_sizes
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.instead import what_pays
from mmseg_tr.hosts.pictures import photographs
from mmseg_tr.hosts.state import applied_to, require_applied, restore_modules
from mmseg_tr.hosts.watch import watch
from mmseg_tr.nn.backbone import same_weights
from mmseg_tr.options import check_type
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.checks import check_integer, check_number
from mmseg_tr.reduction.observe import Observer

LAUNCH_BOUND = 2e-4  # seconds per layer and image below which starting operators takes most of the time


@dataclass(frozen=True)
class Summary:
    """Measured on one batch, per image. work, time: of the plain network over that of the reduced one.

    tokens: mean number that leaves each layer, prefix included; plain_tokens: without the method. Of a network of
    several stages, the queries of each layer, and those of the first; parts: what merges in the first block of each
    stage, in the first image. gmacs, plain_gmacs: 1e9 multiply-adds, everything counted. seconds, plain_seconds: until
    the network returns.
    """

    method: str
    settings: dict[str, Any]
    tokens: tuple[float, ...]
    plain_tokens: int
    gmacs: float
    plain_gmacs: float
    seconds: float
    plain_seconds: float
    device: str
    parts: tuple[str, ...] = ()
    instead: str = ''  # what was found to be faster, or not, where the method is slower than plain

    @property
    def work(self) -> float:
        return self.plain_gmacs / self.gmacs

    @property
    def time(self) -> float:
        return self.plain_seconds / self.seconds

    @property
    def advice(self) -> str:
        """Advice whether to use the method, with the reason if not."""
        if self.time >= 1:
            return f'{self.time:.2f}x as fast as plain.'
        if self.work <= 1:
            reason = 'the method saves no work here: take stronger settings or a smaller budget'
        elif self.plain_seconds / len(self.tokens) < LAUNCH_BOUND:
            reason = 'starting operators takes most of the time (launch-bound): take larger batches or images'
        elif self.plain_tokens < 256:
            reason = f'there are too few tokens, {self.plain_tokens}: take larger images'
        else:
            reason = 'finding what to merge takes longer than it saves: take fewer layers or a stronger setting'
        return f'leave it plain: {self.time:.2f}x, {reason}. {self.instead}'.rstrip()

    def __str__(self) -> str:
        settings = ', '.join(f'{key}={value!r}' for key, value in self.settings.items() if key != 'type')
        layers = ' '.join(f'{count:.0f}' for count in self.tokens)
        newline = '\n'
        lines = self.parts or (f'tokens per layer: {layers} (plain {self.plain_tokens})',)
        return (
            f'{self.method} ({settings}) on {self.device}\n'
            f'{newline.join(lines)}\n'
            f'work: {self.gmacs:.2f} of {self.plain_gmacs:.2f} GMACs, {self.gmacs / self.plain_gmacs:.0%}\n'
            f'time: {1e3 * self.seconds:.1f} of {1e3 * self.plain_seconds:.1f} ms per image\n'
            f'{self.advice}'
        )


@dataclass
class Counting(Observer):
    """Wrap a method and record how many tokens the plain network has, and how many leave each layer."""

    def __post_init__(self) -> None:
        self.entered = 0
        self.counts: list[tuple[int, ...]] = []

    def before_block(self, tokens: Tokens, layer: int) -> Tokens:
        self.entered = self.entered or tokens.num_prefix + tokens.grid[0] * tokens.grid[1]
        return super().before_block(tokens, layer)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        tokens = super().after_block(tokens, layer)
        self.counts.append(tokens.counts)
        return tokens


def summary(
    model: nn.Module,
    image: Tensor | None = None,
    *,
    repeats: int = 10,
    seconds: float = 10.0,
    instead: float = 5.0,
) -> Summary:
    """Measure a network with a method applied and the plain one, in turn, on the network's device.

    image: (B, C, H, W) as the network takes it; by default a bundled photograph, normalised as the network's own
    settings say. repeats: rounds of timing; seconds: no new round begins later. instead: seconds in which other
    methods are tried where this one is slower than plain; 0 for none.
    The network itself is not changed. Raises ConfigError where nothing was applied or the normalisation is not known.
    """
    applied: Any = require_applied(model)
    weight = next(model.parameters())
    check_type('image', image, Tensor | None)
    if image is not None and image.dim() != 4:
        raise ConfigError(f'image must be (B, C, H, W) as the network takes it, got {tuple(image.shape)}.')
    check_integer('repeats', repeats, 1)
    check_number('seconds', seconds, 0)
    check_number('instead', instead, 0)
    image = photographs(model, 1, applied.target.image_size) if image is None else image
    image = image.to(weight.device, weight.dtype)
    reduced, plain = same_weights(model), same_weights(model)
    target = require_applied(plain).target
    restore_modules(plain)
    with evaluating(reduced, plain), torch.inference_mode():
        tokens, plain_tokens, parts = count_tokens(reduced, plain, image)
        work = [count_work(network, [image]).total() / 1e9 for network in (reduced, plain)]
        contestants = dict(reduced=Contestant.of(reduced), plain=Contestant.of(plain))
        times = time_models(contestants, [image], MeasureOptions(repeats=repeats, seconds=seconds, least=3))
    found = Summary(
        method=applied.method.name,
        settings=applied.method.settings(),
        tokens=tokens,
        plain_tokens=plain_tokens,
        gmacs=work[0],
        plain_gmacs=work[1],
        seconds=times['reduced'].scores,
        plain_seconds=times['plain'].scores,
        device=str(image.device),
        parts=parts,
    )
    if found.time >= 1 or not instead:
        return found
    with evaluating(plain), torch.inference_mode():
        return replace(found, instead=what_pays(plain, target, image, found.method, instead))


def count_tokens(reduced: nn.Module, plain: nn.Module, image: Tensor) -> tuple[tuple[float, ...], int, tuple[str, ...]]:
    """As Summary.tokens, plain_tokens and parts."""
    applied: Any = applied_to(reduced)
    method, depths = applied.method, applied.depths
    if len(depths) == 1:
        counting = Counting(method)
        applied.method = counting
        reduced(image)
        applied.method = method
        return tuple(sum(counts) / len(counts) for counts in counting.counts), counting.entered, ()
    first = [1 + sum(depths[:stage]) for stage in range(len(depths))]
    parts = tuple(
        f'{entry.name}: {entry.tokens} of {entry.patches} {entry.part}'
        for entry in watch(reduced, image[:1])
        if entry.layer in first
    )
    queries = [[size.queries for size in attention_sizes(network, image[:1])] for network in (reduced, plain)]
    return tuple(map(float, queries[0])), max(queries[1], default=0), parts
