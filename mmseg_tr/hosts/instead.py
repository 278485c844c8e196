"""Look for a method that saves time in a network where the applied one does not."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor, nn

from mmseg_tr.analysis.measure import MeasureOptions, time_models
from mmseg_tr.analysis.speed import Contestant
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.fixed import method_within
from mmseg_tr.nn.backbone import same_weights
from mmseg_tr.reduction import REDUCTIONS

BUDGET = 0.5


def what_pays(plain: nn.Module, target: Any, image: Tensor, first: str, seconds: float) -> str:
    """Say which method at half the multiply-adds is faster than the plain network here, by trying them.

    target: in `plain`. first: name of the method that is tried first. After `seconds` no further one is tried.
    """
    tried: list[Any] = []
    end = time.monotonic() + seconds
    path = next(name for name, module in plain.named_modules() if module is target.network)
    for key in sorted(REDUCTIONS, key=lambda key: REDUCTIONS[key].name != first):
        if tried and time.monotonic() > end:
            break
        name = REDUCTIONS[key].name
        try:
            target.check_fits(REDUCTIONS[key])
            strategy = method_within(dict(type=key), BUDGET, target)
        except ConfigError:
            continue  # does not fit this network, or cannot save so much
        other = same_weights(plain)
        target.install(other.get_submodule(path), strategy)
        contestants = dict(plain=Contestant.of(plain), other=Contestant.of(other))
        times = time_models(contestants, [image], MeasureOptions(repeats=3, seconds=seconds / 4, least=1))
        ratio = times['plain'].scores / times['other'].scores
        if ratio > 1:
            return f'{name} with budget={BUDGET} is {ratio:.2f}x as fast as plain here.'
        tried.append(name)
    if not tried:
        return ''
    return f'{", ".join(tried)} with budget={BUDGET} {"is" if len(tried) == 1 else "are"} not faster here either.'
