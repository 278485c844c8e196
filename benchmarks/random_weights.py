"""Settings of adaptive methods under random weights, chosen so that the work saved is the published one.

What ALGM merges and ACT clusters depends on trained weights, which are not at hand. A threshold found on the bundled
photographs brings the published work ratio, so that times can be compared with it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ideal import LayerCounts, Recorder, give, sliced_network
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.analysis.network import find_backbone, without_reduction
from mmseg_tr.reduction import Reduction, build_reduction
from mmseg_tr.reduction.act import ACT, bucket_codes, cluster_ids

STEPS = 8


def with_method(plain: nn.Module, settings: Mapping[str, Any]) -> nn.Module:
    """The network with a method, around the same weights. A method's own network has random ones, always the same."""
    model = without_reduction(plain)
    vit = find_backbone(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reduction = build_reduction(dict(settings))
    if isinstance(reduction, nn.Module):
        reduction.to(vit.pos_embed.device)
    give(vit, vit.fitted(reduction))
    return model.eval()


def on_meta(model: nn.Module) -> nn.Module:
    """The network without data, on which shapes and multiply-adds are found in no time."""
    empty = {id(tensor): tensor.to('meta') for tensor in chain(model.parameters(), model.buffers())}
    empty |= {id(weight): nn.Parameter(empty[id(weight)], requires_grad=False) for weight in model.parameters()}
    return copy.deepcopy(model, empty)


def tuned(plain: nn.Module, settings: dict[str, Any], images: Tensor, ratio: float, rule: str) -> dict[str, Any]:
    """Settings of ALGM or ACT under which `plain` does `ratio` times the work of the reduced network, on these images.

    rule: how work is counted. Others come back as they are. Where the ratio cannot be reached, the nearest there is.
    """
    kinds = dict(ALGM=(_algm_records, 'threshold', _linear), ACT=(_act_records, 'bucket_width', _geometric))
    if settings['type'] not in kinds:
        return settings
    records, key, middle = kinds[settings['type']]
    records_for = records(plain, settings, images)
    empty, image = on_meta(plain), images[:1].to('meta')
    whole = count_macs(empty, image).total(rule)

    def saved(value: float) -> float:
        counts = [count_macs(_meta_ideal(empty, record), image).total(rule) for record in records_for(value)]
        return whole * len(counts) / sum(counts)

    few, many = dict(ALGM=(1.0, -1.0), ACT=(1e-4, 1e4))[settings['type']]  # what saves little and what saves much
    for _ in range(STEPS):
        value = middle(few, many)
        few, many = (value, many) if saved(value) < ratio else (few, value)
    return settings | {key: round(middle(few, many), 4)}


def _linear(a: float, b: float) -> float:
    return (a + b) / 2


def _geometric(a: float, b: float) -> float:
    return math.sqrt(a * b)


def _meta_ideal(empty: nn.Module, record: Recorder) -> nn.Module:
    return sliced_network(empty, torch.empty(0), record)


def _algm_records(plain: nn.Module, settings: dict, images: Tensor) -> Callable[[float], list[Recorder]]:
    """Counts of every image for a threshold; the layers behind the last merge need not run."""

    @torch.inference_mode()
    def records(threshold: float) -> list[Recorder]:
        found = []
        for image in images.split(1):
            vit = find_backbone(plain)
            recorder = Recorder(vit.fitted(settings | dict(threshold=threshold)))
            watched = copy.copy(vit)
            watched._modules = dict(vit._modules)
            give(watched, recorder)
            tokens = watched.embed(image)
            for layer in range(1, max(recorder.method.layers) + 1):
                tokens = watched.run(tokens, layer)
            for behind in range(layer + 1, len(vit.blocks) + 1):
                recorder.layers[behind] = LayerCounts(*[tokens.counts] * 5)
            recorder.last = recorder.final = tokens.counts
            found.append(recorder)
        return found

    return records


class _Queries(Reduction):
    """Keeps the queries of every layer."""

    def __init__(self) -> None:
        self.queries: list[Tensor] = []

    def attention(self, attend, y, tokens, layer):
        ((q, k, v),) = attend.heads(y, tokens)
        self.queries.append(q * attend.module.scale)
        return attend.output([attend.attend(q, k, v)], y, tokens), None


def _act_records(plain: nn.Module, settings: dict, images: Tensor) -> Callable[[float], list[Recorder]]:
    """Counts of the first image for a bucket width, as the queries of the plain network cluster."""
    model, seen, method = (
        without_reduction(plain),
        _Queries(),
        ACT(**{k: v for k, v in settings.items() if k != 'type'}),
    )
    give(find_backbone(model), seen)
    with torch.inference_mode():
        find_backbone(model).forward_tokens(images[:1])

    def records(width: float) -> list[Recorder]:
        recorder = Recorder(method)
        for layer, q in enumerate(seen.queries, 1):
            projection, offset = (numbers.to(q.device) for numbers in method.hashes(layer, q.shape[-1]))
            clusters = int(cluster_ids(bucket_codes(q, projection, offset, width))[1].max())
            counts = (q.shape[2],)
            recorder.layers[layer] = LayerCounts(counts, counts, (clusters,), counts, counts)
        recorder.last = recorder.final = counts
        return [recorder]

    return records
