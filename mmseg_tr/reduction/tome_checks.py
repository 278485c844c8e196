"""Checks of ToMe's settings r and k, each a number or a list with one per layer."""

from __future__ import annotations

from typing import Any

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.checks import is_integer, is_number


def listed(setting: Any) -> tuple[Any, ...]:
    return tuple(setting) if isinstance(setting, (list, tuple)) else (setting,)


def check_k(k: Any) -> int | tuple[int, ...]:
    entries = listed(k)
    if not entries or not all(is_integer(entry) and entry >= 1 for entry in entries):
        raise ConfigError(f'k must be a positive integer, or a list of them, one per layer, got {k!r}.')
    return entries if isinstance(k, list | tuple) else k


def check_r(r: Any) -> int | float | tuple[Any, ...] | dict[str, Any]:
    if isinstance(r, tuple):
        raise ConfigError(f'r must be a list per layer, {list(r)}, or dict(mean=..., slope=...), got the tuple {r!r}.')
    if isinstance(r, dict):
        mean: Any = r.get('mean')
        slope: Any = r.get('slope')
        if set(r) != {'mean', 'slope'} or not is_integer(mean) or mean < 0 or not is_number(slope) or abs(slope) > 1:
            raise ConfigError(
                'r must be a schedule such as dict(mean=8, slope=-1.0), with a non-negative integer as mean and a '
                f'slope from -1 to 1, got {dict(r)}.'
            )
        return dict(r)
    entries = listed(r)
    fits = [is_integer(entry) and entry >= 0 or isinstance(entry, float) and 0 < entry < 1 for entry in entries]
    if not entries or not all(fits):
        raise ConfigError(
            'r must be a non-negative integer, a fraction between 0 and 1, a list of these, one per layer, or '
            f'dict(mean=, slope=), got {r!r}.'
        )
    return entries if isinstance(r, list) else r
