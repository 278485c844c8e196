"""A network with reduced tokens beside the plain one: work, speed, tokens, memory, in one run on the same real images.

    for run in benchmark_model(model, images, batch_sizes=(1, 8)):
        run.ratios['work'], run.ratios['time'], run.model.gmacs, run.plain.images_per_second

Needs torch and timm only; apis.benchmark_config does the same for a config file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmseg_tr.analysis.mac_rules import check_rule, family_rule
from mmseg_tr.analysis.macs import MacCount, count_macs, evaluating
from mmseg_tr.analysis.network import (
    count_params,
    is_pose,
    method_name,
    network_of,
    plain_tokens,
    reduction_of,
    tokens_per_layer,
    without_reduction,
)
from mmseg_tr.analysis.parts import SCOPES, find_vit
from mmseg_tr.analysis.results import Measured, Run, ratios_of
from mmseg_tr.analysis.speed import Contestant, Seconds, mixed_precision, peak_memory, scope_shares, time_in_turn
from mmseg_tr.analysis.stages import attention_sizes, find_mit, tokens_per_stage
from mmseg_tr.errors import ConfigError

# Attention as published keeps its scores in memory; above this much for one layer it is not timed.
MATH_ATTENTION_BYTES = 4 << 30


def benchmark_model(
    model: nn.Module,
    images: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 8),
    rule: str | None = None,
    repeats: int = 10,
    seconds: float | None = 30.0,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    published: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Run]:
    """Count and time `model` and the same network without its reduction, once per batch size.

    images: (n, 3, H, W), normalised, all different, on the model's device. Batches hold different images; a last batch
    that is not full is left out. rule: of apis.counting_rules.RULES, by default that of the model's family.
    repeats, seconds: see apis.timing.time_in_turn. amp: dtype of autocast. compiled: time under torch.compile; counts
    and shares are of the eager network. published: also time the plain network with attention as published.
    Raises ConfigError for a rule that does not exist or a batch larger than the number of images.
    """
    rule = check_rule(rule) if rule else family_rule(family_of(model))
    for size in batch_sizes:
        if not 1 <= size <= len(images):
            raise ConfigError(
                f'a batch of {size} different images cannot be made from {len(images)}: give more images.'
            )
    reduction = reduction_of(model)
    plain = model if reduction is None else without_reduction(model)
    runs = []
    for size in batch_sizes:
        batches = list(images[: len(images) // size * size].split(size))
        where = f'{images.shape[2]}x{images.shape[3]}, batch {size}'
        with evaluating(model), evaluating(plain):
            progress(f'{where}: counting')
            with mixed_precision(images.device, amp):  # rounding may decide what merges
                counts = _count_both(model, plain, batches)
                tokens = _tokens_of_both(model, plain, batches)
            progress(f'{where}: timing')
            contestants = dict(model=Contestant.of(model, compiled=compiled))
            if reduction is not None:
                contestants['plain'] = Contestant.of(plain, compiled=compiled)
            if published and math_attention_fits(plain, batches[0]):
                contestants['published'] = Contestant.of(plain, math_attention=True)
            warm_up = len(batches) if compiled else None  # every new number of tokens may compile anew
            times = time_in_turn(contestants, batches, repeats=repeats, seconds=seconds, warm_up=warm_up, amp=amp)
            peaks = {name: peak_memory(contestants[name], batches[0], amp) for name in counts}
            shares = None
            if reduction is not None:
                progress(f'{where}: shares of merging and restoring')
                shares = scope_shares(Contestant.of(model), batches[:4], SCOPES, amp)
        measured = {
            name: _measured(network, batches[0], counts[name], times[name], tokens[name], rule, peaks[name])
            for name, network in dict(model=model, plain=plain).items()
            if name in counts
        }
        runs.append(
            Run(
                shape=tuple(images.shape[2:]),
                batch_size=size,
                images=sum(map(len, batches)),
                rule=rule,
                model=measured['model'],
                plain=measured.get('plain', measured['model']),
                ratios=ratios_of(measured, times),
                published_images_per_second=1 / times['published'].scores if 'published' in times else None,
                shares=shares,
                unknown=tuple(sorted(counts['model'].unknown)),
                labels='poses' if is_pose(model) else 'labels',
            )
        )
    return runs


def family_of(model: nn.Module) -> str:
    """'ALGM' or another method's name, 'Segmenter' and 'SegFormer++' for a plain ViT and MiT, 'other' for the rest."""
    reduction = reduction_of(model)
    if reduction is not None:
        return method_name(reduction)
    if find_mit(model) is not None:
        return 'SegFormer++'
    return 'other' if find_vit(model) is None else 'Segmenter'


def math_attention_fits(model: nn.Module, batch: Tensor) -> bool:
    """Whether one layer's attention scores stay below MATH_ATTENTION_BYTES; False without mmseg_tr's ViT or MiT."""
    if find_vit(model) is None and find_mit(model) is None:
        return False
    sizes = attention_sizes(network_of(model).scores, batch[:1])
    return len(batch) * max(size.score_bytes for size in sizes) <= MATH_ATTENTION_BYTES


def _count_both(model: nn.Module, plain: nn.Module, batches: list[Tensor]) -> dict[str, MacCount]:
    """Mean work per image. That of the plain network is the same for every batch."""
    images = sum(map(len, batches))
    if plain is model:
        return dict(model=MacCount.mean([count_macs(model, batches[0])], len(batches[0])))
    return dict(
        model=MacCount.mean((count_macs(model, batch) for batch in batches), images),
        plain=MacCount.mean([count_macs(plain, batches[0])], len(batches[0])),
    )


def _tokens_of_both(model: nn.Module, plain: nn.Module, batches: list[Tensor]) -> dict[str, list[float] | None]:
    vit = find_vit(plain)
    if vit is None:
        return dict(model=None, plain=None)
    counts = [float(plain_tokens(vit, batches[0]))] * len(vit.blocks)
    return dict(model=counts if plain is model else tokens_per_layer(find_vit(model), batches), plain=counts)


def _measured(
    model: nn.Module,
    images: Tensor,
    count: MacCount,
    time: Seconds,
    tokens: list[float] | None,
    rule: str,
    peak: int | None,
) -> Measured:
    def parts(rule: str) -> dict[str, float]:
        return {part: macs / 1e9 for part, macs in count.parts(rule).items() if macs}

    mit = find_mit(model)
    return Measured(
        gmacs=count.total(rule) / 1e9,
        gflops=2 * count.total(rule) / 1e9,
        gmacs_all=count.total('all') / 1e9,
        params=count_params(model),
        images_per_second=1 / time.scores,
        images_per_second_to_labels=1 / time.labels,
        tokens_per_layer=tokens,
        parts=parts(rule),
        parts_all=parts('all'),
        peak_memory=peak,
        tokens_per_stage=None if mit is None else tokens_per_stage(mit, images),
    )
