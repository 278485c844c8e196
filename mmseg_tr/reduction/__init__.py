"""Token-reduction methods, one file or folder per paper, and the registry that names them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.act import ACT
from mmseg_tr.reduction.algm import ALGM
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.cts import CTS
from mmseg_tr.reduction.cubistmerge import CubistMerge
from mmseg_tr.reduction.evit import EViT
from mmseg_tr.reduction.expedite import Expedite
from mmseg_tr.reduction.ladder import Grid
from mmseg_tr.reduction.merge import Merge
from mmseg_tr.reduction.mpm import MPM
from mmseg_tr.reduction.pitome import PiToMe
from mmseg_tr.reduction.segformerpp import SegFormerPP
from mmseg_tr.reduction.shared_matching import SharedMatching
from mmseg_tr.reduction.tokens import Tokens
from mmseg_tr.reduction.tome import ToMe

REDUCTIONS: dict[str, type[Reduction]] = {
    'ACT': ACT,
    'ALGM': ALGM,
    'CTS': CTS,
    'CubistMerge': CubistMerge,
    'EViT': EViT,
    'Expedite': Expedite,
    'MPM': MPM,
    'PiToMe': PiToMe,
    'SegFormerPP': SegFormerPP,
    'SharedMatching': SharedMatching,
    'ToMe': ToMe,
}
PLAIN_NAMES = ('none', 'original', 'plain')  # of the model without a method


def find_method(name: Any) -> type[Reduction]:
    """Return the class of a method by its registered type or its name, without regard to case and punctuation.

    Raises ConfigError for another name, with the nearest ones.
    """
    known = {_spelled(method.name): method for method in REDUCTIONS.values()}
    known |= {_spelled(key): method for key, method in REDUCTIONS.items()}
    if isinstance(name, str) and _spelled(name) in known:
        return known[_spelled(name)]
    close = get_close_matches(_spelled(name), known, n=2) if isinstance(name, str) else []
    near = ' or '.join(dict.fromkeys(known[spelling].name for spelling in close))
    hint = f': did you mean {near}?' if near else '.'
    raise ConfigError(f'reduction type must be one of {", ".join(method_names())}, got {name!r}{hint}')


def method_names(backbone: str | None = None) -> list[str]:
    """Return names of the registered methods, of those for 'ViT' or 'MiT' alone where that is given."""
    return sorted(method.name for method in set(REDUCTIONS.values()) if backbone in (None, method.backbone))


def build_reduction(
    cfg: Mapping[str, Any] | str | Reduction | None, width: int = 384, depth: int = 12, grid: Grid = (32, 32)
) -> Reduction | None:
    """Return a strategy from its settings: dict(type='ALGM', layers=(1, 5), ...); None stays None (the plain model).

    A bare name, such as 'algm', takes the method's defaults for a network of this width, depth and patch grid;
    'none', 'original' and 'plain' are the plain model. Names are matched as by find_method().
    Raises ConfigError for an unknown type or key, naming what is allowed, and for settings the method refuses.
    """
    if cfg is None or isinstance(cfg, Reduction):
        return cfg
    if isinstance(cfg, str):
        settings = default_settings(cfg, width, depth, grid)
        return None if settings is None else build_reduction(settings)
    if isinstance(cfg, list | tuple):
        raise ConfigError(f'reduction must be one method, as methods are not combined, got a list of {len(cfg)}.')
    if not isinstance(cfg, Mapping):
        raise ConfigError(f"reduction must be a name, or a dict such as dict(type='ALGM', layers=(1, 5)), got {cfg!r}.")
    settings = dict(cfg)
    method = find_method(settings.pop('type', None))
    allowed = list(inspect.signature(method).parameters)
    for key in settings:
        if key in ('budget', 'tokens', 'calibrate') and key not in allowed:
            raise ConfigError(
                f'{key} needs the whole network: give it to create_model() or apply(), or to a tool in a config.'
            )
        if key not in allowed:
            close = get_close_matches(str(key), allowed, n=1)
            hint = f' (did you mean {close[0]}?)' if close else ''
            raise ConfigError(f'{method.name} has no setting {key!r}{hint}: its settings are {", ".join(allowed)}.')
    return method(**settings)


def default_settings(name: str, width: int, depth: int, grid: Grid) -> dict[str, Any] | None:
    """Return settings of a method by its name alone, scaled to a network; None for a name of the plain model.

    Raises ConfigError for other names.
    """
    if _spelled(name) in PLAIN_NAMES:
        return None
    method = find_method(name)
    key = next(key for key, known in REDUCTIONS.items() if known is method)
    return dict(type=key, **method.defaults(width, depth, grid))


def _spelled(name: str) -> str:
    """Return a name without case and punctuation; '+' counts as 'p'."""
    return ''.join(filter(str.isalnum, name.casefold().replace('+', 'p')))


__all__ = [
    'ALGM',
    'Merge',
    'REDUCTIONS',
    'Reduction',
    'Tokens',
    'build_reduction',
    'default_settings',
    'find_method',
    'method_names',
]
