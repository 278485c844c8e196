"""Set adaptive methods on random weights so that they save as much work as on trained ones.

What adaptive methods merge depends on trained weights, which are not available here. A setting found on the bundled
photographs reaches the target work ratio, so that times are comparable with published ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.analysis.network import find_backbone, with_reduction
from mmseg_tr.reduction import default_settings, find_method

STEPS = 8
Method = Mapping[str, Any] | str


def settings_on(plain: nn.Module, method: Method) -> dict[str, Any]:
    """Settings of a method; for a name alone its defaults for this network."""
    if not isinstance(method, str):
        return dict(method)
    backbone = find_backbone(plain)
    return default_settings(method, backbone.width, *backbone.extent)


def with_method(plain: nn.Module, method: Method) -> nn.Module:
    """The network with a method, around the same weights. A method's own network has random ones, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return with_reduction(plain, method if isinstance(method, str) else dict(method)).eval()


def on_meta(model: nn.Module) -> nn.Module:
    """Return the network on the meta device, where shapes and multiply-adds cost no time."""
    empty = {id(tensor): tensor.to('meta') for tensor in chain(model.parameters(), model.buffers())}
    empty |= {id(weight): nn.Parameter(empty[id(weight)], requires_grad=False) for weight in model.parameters()}
    return copy.deepcopy(model, empty)


def tuned(plain: nn.Module, settings: dict[str, Any], images: Tensor, ratio: float, rule: str) -> dict[str, Any]:
    """Settings under which `plain` takes `ratio` times the work of the reduced network, on these images.

    rule: how work is counted. A method without a dial keeps its settings. Where the ratio cannot be
    reached, the nearest is.
    """
    dial = find_method(settings['type']).dial
    if dial is None:
        return settings
    middle = _geometric_mean if dial.geometric else _mean
    whole = count_macs(on_meta(plain), images[:1].to('meta')).total(rule)

    def saved(value: float) -> float:
        model = with_method(plain, settings | {dial.key: value})
        counts = [count_macs(model, image).total(rule) for image in images.split(1)]
        return whole * len(counts) / sum(counts)

    mild, strong = dial.mild, dial.strong
    for _ in range(STEPS):
        value = middle(mild, strong)
        mild, strong = (value, strong) if saved(value) < ratio else (mild, value)
    return settings | {dial.key: round(middle(mild, strong), 4)}


def _mean(a: float, b: float) -> float:
    return (a + b) / 2


def _geometric_mean(a: float, b: float) -> float:
    return math.sqrt(a * b)
