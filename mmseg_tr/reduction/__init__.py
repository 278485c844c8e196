"""Token-reduction methods for plain vision transformers, one file per paper."""

from __future__ import annotations

import inspect

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.act import ACT
from mmseg_tr.reduction.algm import ALGM
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.cts import CTS
from mmseg_tr.reduction.evit import EViT
from mmseg_tr.reduction.expedite import Expedite
from mmseg_tr.reduction.matching import Merge
from mmseg_tr.reduction.tokens import Tokens
from mmseg_tr.reduction.tome import ToMe

REDUCTIONS: dict[str, type[Reduction]] = {
    'ACT': ACT,
    'ALGM': ALGM,
    'CTS': CTS,
    'EViT': EViT,
    'Expedite': Expedite,
    'ToMe': ToMe,
}


def build_reduction(cfg: dict | Reduction | None) -> Reduction | None:
    """A strategy from its settings: dict(type='ALGM', layers=(1, 5), ...); None stays None (the plain model).

    Raises ConfigError for an unknown type or key, naming what is allowed, and for settings the method refuses.
    """
    if cfg is None or isinstance(cfg, Reduction):
        return cfg
    if not isinstance(cfg, dict):
        raise ConfigError(
            f"reduction={cfg!r} is no dict: write for example reduction=dict(type='ALGM', layers=(1, 5))."
        )
    settings = dict(cfg)
    name = settings.pop('type', None)
    if not isinstance(name, str) or name not in REDUCTIONS:
        raise ConfigError(f'reduction type {name!r} is unknown: it is one of {", ".join(sorted(REDUCTIONS))}.')
    method = REDUCTIONS[name]
    allowed = list(inspect.signature(method).parameters)
    for key in settings:
        if key not in allowed:
            raise ConfigError(f'reduction {name} has no setting {key!r}: its settings are {", ".join(allowed)}.')
    return method(**settings)


__all__ = ['ALGM', 'Merge', 'REDUCTIONS', 'Reduction', 'Tokens', 'build_reduction']
