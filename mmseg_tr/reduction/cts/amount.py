"""Check of how many superpatches of CTS share a token."""

from __future__ import annotations

import warnings
from typing import Any

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.checks import check_integer, check_number


def check_amount(shared: Any, share: Any) -> tuple[int | None, float | None]:
    """Check shared and share, at most one of them given. Raises ConfigError."""
    if shared is not None and share is not None:
        raise ConfigError(
            'one of shared, the number of superpatches that share a token, and share, the fraction of tokens to save, '
            f'must be given, got shared={shared!r}, share={share!r}.'
        )
    if shared is not None:
        check_integer('shared', shared)
    share = 0.3 if shared is None and share is None else share
    if share is not None:
        check_number('share', share, 0, 0.75)
    if not (shared or share):
        warnings.warn('CTS: no superpatch shares a token, so nothing is reduced.', stacklevel=4)
    return shared, share
