"""Settings with which every compared method does the same work, a share of the plain network's multiply-adds."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tr.analysis.measure import count_work
from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.apis.compare.models import settings_of
from mmseg_tr.engine.preprocess import preprocess
from mmseg_tr.engine.windows import windows_of
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.fixed import calibrated, within_budget
from mmseg_tr.hosts.own import OwnTarget
from mmseg_tr.nn.backbone import same_weights
from mmseg_tr.reduction import default_settings, find_method
from mmseg_tr.reduction.ladder import Ladder, Settings

NEAR = 0.02  # of the plain work: a setting that is farther from the share does not count as equal


@dataclass
class Worker:
    """Counts the work of settings on some windows of the test, each setting once.

    model: the plain network. windows: (B, C, H, W).
    """

    model: nn.Module
    windows: Tensor
    known: dict[str, float] = field(default_factory=dict)

    def share(self, settings: Settings) -> float:
        """Multiply-adds under a method, everything counted, as a share of the plain network's."""
        return self._work(settings) / self._work(None)

    def adaptive(self, settings: Settings) -> bool:
        """Whether images decide how much the settings save."""
        return find_backbone(self.model).fitted(dict(settings)).adaptive

    @torch.inference_mode()
    def _work(self, settings: Settings | None) -> float:
        key = json.dumps(settings, sort_keys=True)
        if key not in self.known:
            model = same_weights(self.model)
            backbone = find_backbone(model)
            method = backbone.fitted(settings)
            if isinstance(method, nn.Module):  # of its own weights, which the plain network does not have
                method.init_weights()
                method = method.to(self.windows.device)
            backbone.reduction = method
            self.known[key] = count_work(model.eval(), [self.windows]).total()
        return self.known[key]


def sample(model: nn.Module, dataset: Sequence[Any], number: int) -> Tensor:
    """The middle windows of some pictures of a test set, evenly spread: (number, C, H, W), of one size."""
    number = min(number, len(dataset))
    pictures = (dataset[index * len(dataset) // number] for index in range(number))
    middles = [windows_of(model, preprocess(model, [picture])['inputs']).middle() for picture in pictures]
    height, width = (min(window.shape[dim] for window in middles) for dim in (-2, -1))
    return torch.cat([window[..., :height, :width] for window in middles])


def ladders_of(own: Mapping[str, Any], model: nn.Module) -> list[Ladder]:
    """The ladders of a method in the order in which they are tried: first its own, then those of its fixed form."""
    backbone, method = find_backbone(model), find_method(own.get('type'))
    depth, grid = backbone.extent
    if own.keys() == {'type'}:
        own = default_settings(method.name, backbone.width, depth, grid) or own
    own = dict(own)
    every = chain(method.ladder(own, depth, grid), method.fixed_ladder(own, depth, grid))
    return [ladder for ladder in every if ladder.rungs]


def nearest(ladder: Ladder, share: float, work: Callable[[Settings], float]) -> tuple[float, Settings]:
    """The rung whose work is nearest to a share, by bisection: work falls along a ladder. Returns its work, too."""
    low, high = 0, len(ladder.rungs) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if work(ladder.rungs[middle]) > share else (low, middle)
    found = [(work(ladder.rungs[rung]), ladder.rungs[rung]) for rung in dict.fromkeys((low, high))]
    return min(found, key=lambda entry: abs(entry[0] - share))


def fixed_like(own: Mapping[str, Any], work: float, worker: Worker) -> Settings | None:
    """The fixed form of adaptive settings at a share of the plain work, calibrated on the windows.

    None where the settings have fixed shapes already, or no fixed form does so little work.
    """
    backbone = find_backbone(worker.model)
    if not worker.adaptive(own):
        return None
    size = tuple(worker.windows.shape[-2:]) if len(backbone.depths) > 1 else None
    target, plain = OwnTarget(backbone, size, weights=True, whole=worker.model).plain()
    try:
        found = list(within_budget(dict(own), work, target, plain))
    except ConfigError:
        return None
    return calibrated(found, target, worker.windows)[0].settings


def at_equal_work(
    configs: Mapping[str, Config],
    worker: Worker,
    shares: Sequence[float],
    fixed: bool,
    progress: Callable[[str], None],
) -> tuple[dict[str, Config], dict[str, str]]:
    """Return the plain config and every method's at every share, and what is left out, with the reason.

    configs: the plain one first; of the others the method and the settings that its first ladder keeps are taken. The
    first ladder with a setting within NEAR of the share decides. fixed: also the fixed form of adaptive settings; where
    only that reaches the share, the adaptive one is left out by name.
    """
    (plain, base), *others = configs.items()
    found, left_out = {plain: base}, {}
    for name, config in others:
        ladders = ladders_of(settings_of(config), worker.model)
        for share in shares:
            progress(f'{name}: settings for {share:.0%} of the work')
            entry, best = f'{name} {share:.0%}', None
            for ladder in ladders:
                candidate = nearest(ladder, share, worker.share)
                if best is None or abs(candidate[0] - share) < abs(best[0] - share):
                    best = candidate
                if abs(best[0] - share) <= NEAR:
                    break
            if best is None or abs(best[0] - share) > NEAR:
                left_out[entry] = 'no setting to change' if best is None else f'the nearest setting does {best[0]:.0%}'
                continue
            adaptive = [ladder for ladder in ladders if worker.adaptive(ladder.rungs[0])] if fixed else []
            if adaptive and not worker.adaptive(best[1]):
                reached = [nearest(ladder, share, worker.share)[0] for ladder in adaptive]
                closest = min(reached, key=lambda work: abs(work - share))
                left_out[entry] = f'the nearest adaptive setting does {closest:.0%}'
                entry = f'{entry} fixed'
            found[entry] = copy.deepcopy(config)
            found[entry].model.backbone.reduction = copy.deepcopy(best[1])
            like = fixed_like(best[1], best[0], worker) if fixed else None
            if like is not None:
                found[f'{entry} fixed'] = copy.deepcopy(config)
                found[f'{entry} fixed'].model.backbone.reduction = copy.deepcopy(like)
    return found, left_out
