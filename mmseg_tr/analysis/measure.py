"""The one way to measure: work, tokens, speed and memory of several networks in one run, on the same real images.

found = measure(dict(plain=plain, model=model), batches, MeasureOptions(repeats=5))
found['model'].work.total() / 1e9, found['plain'].seconds.scores / found['model'].seconds.scores
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmseg_tr.analysis.macs import MacCount, count_macs, evaluating
from mmseg_tr.analysis.network import count_params, find_backbone, is_adaptive, network_of
from mmseg_tr.analysis.speed import Contestant, Seconds, mixed_precision, peak_memory, time_in_turn
from mmseg_tr.analysis.tokens import attention_sizes, tokens_per_layer, tokens_per_stage
from mmseg_tr.options import Options

# Attention as published keeps its scores in memory; above this much for one layer it is not timed.
MATH_ATTENTION_BYTES = 4 << 30


@dataclass(frozen=True)
class MeasureOptions(Options):
    """How to measure. batch_sizes, rule and published are read by benchmark_model() alone.

    batch_sizes: images per batch, all different; a last batch that is not full is left out. rule: a counting rule of
    mac_rules.RULES; by default that of the model's method or family. repeats, seconds, least: rounds of timing, see
    speed.time_in_turn(). amp: dtype of autocast. compiled: time under torch.compile; counts and shares are of the eager
    network. published: also time the plain network with attention as published.
    """

    batch_sizes: Sequence[int] = (1, 8)
    rule: str | None = None
    repeats: int = 10
    seconds: float | None = 30.0
    least: int = 1
    amp: torch.dtype | None = None
    compiled: bool = False
    published: bool = True


@dataclass(frozen=True)
class Measurement:
    """One network on the batches that were measured; work and seconds are per image.

    tokens_per_layer: mean number of tokens that leave each layer, prefix included; None for a network without a ViT.
    tokens_per_stage: queries and keys of each stage's attention, of a MiT. params: parameters that inference can use.
    peak_memory: bytes on the GPU, None on a CPU.
    """

    work: MacCount
    seconds: Seconds
    tokens_per_layer: list[float] | None
    tokens_per_stage: list[dict[str, int]] | None
    params: int
    peak_memory: int | None


def measure(
    models: Mapping[str, nn.Module],
    batches: Sequence[Tensor],
    options: MeasureOptions | None = None,
    *,
    more: Mapping[str, Contestant] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Measurement], dict[str, Seconds]]:
    """Measure every model on every batch, in eval mode.

    batches: (B, 3, H, W) each, normalised, on the device of the models. more: further contestants to time.
    Returns the measurements by name, and the times of all contestants.
    Raises DeviceError where a network cannot be compiled or needs more memory than there is.
    """
    options = options or MeasureOptions()
    with evaluating(*models.values()):
        progress('counting')
        work = {name: count_work(model, batches, options.amp) for name, model in models.items()}
        with mixed_precision(batches[0].device, options.amp):  # rounding may decide what merges
            tokens = {name: _tokens(model, batches) for name, model in models.items()}
        progress('timing')
        contestants = {name: Contestant.of(model, compiled=options.compiled) for name, model in models.items()}
        times = time_models(contestants | dict(more or {}), batches, options)
        peaks = {name: peak_memory(contestants[name], batches[0], options.amp) for name in models}
    found = {
        name: Measurement(work[name], times[name], *tokens[name], count_params(model), peaks[name])
        for name, model in models.items()
    }
    return found, times


def count_work(model: nn.Module, batches: Sequence[Tensor], amp: torch.dtype | None = None) -> MacCount:
    """Return the mean work per image. One batch is enough if the images do not decide how many tokens remain."""
    used = batches if is_adaptive(model) else batches[:1]
    with mixed_precision(batches[0].device, amp):
        return MacCount.mean((count_macs(model, batch) for batch in used), sum(map(len, used)))


def time_models(
    contestants: Mapping[str, Contestant], batches: Sequence[Tensor], options: MeasureOptions
) -> dict[str, Seconds]:
    """Return seconds per image of every contestant, in turn."""
    return time_in_turn(
        contestants,
        batches,
        repeats=options.repeats,
        seconds=options.seconds,
        least=options.least,
        warm_up=len(batches) if options.compiled else None,  # every new number of tokens may compile anew
        amp=options.amp,
    )


def _tokens(model: nn.Module, batches: Sequence[Tensor]) -> tuple[list[float] | None, list[dict[str, int]] | None]:
    backbone = find_backbone(model)
    if backbone is None:
        return None, None
    used = batches if is_adaptive(model) else batches[:1]
    return tokens_per_layer(backbone, used), tokens_per_stage(backbone, batches[0])


def math_attention_fits(model: nn.Module, batch: Tensor) -> bool:
    """Whether one layer's attention scores stay below MATH_ATTENTION_BYTES; False without a ViT or MiT."""
    if find_backbone(model) is None:
        return False
    sizes = attention_sizes(network_of(model).scores, batch[:1])
    return len(batch) * max(size.score_bytes for size in sizes) <= MATH_ATTENTION_BYTES
