"""The spelling before 0.2: `merging=` on a MiT is read as `reduction=` with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping, Sequence
from typing import Any

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.segformerpp.settings import as_reduction
from mmseg_tr.values import as_code


def reduction_from_merging(
    merging: str | Sequence[dict[str, Any] | None] | None, stacklevel: int = 2
) -> dict[str, Any] | None:
    """Return the settings of `reduction=` for those of `merging=`: a preset, one dict per stage, or None.

    Warns with the new spelling. Raises ConfigError for anything else.
    """
    if not (merging is None or isinstance(merging, str | Sequence)):
        raise ConfigError(
            f"merging must be a preset such as 'bsm_hq' or a list of one dict per stage, got {merging!r}."
        )
    reduction = as_reduction(merging)
    if isinstance(reduction, str):
        reduction = dict(type='SegFormerPP', preset=reduction)  # which refuses it
    warnings.warn(
        f'merging= is deprecated and will be removed in 0.3: write reduction={as_code(reduction)}.',
        DeprecationWarning,
        stacklevel=stacklevel + 1,
    )
    return reduction


def replace_merging(backbone: MutableMapping[str, Any]) -> None:
    """Rename `merging` to `reduction` in the settings of a MiT, in place, with one DeprecationWarning."""
    if 'merging' in backbone and str(backbone.get('type', '')).rpartition('.')[2] in ('MiT', 'MixVisionTransformer'):
        backbone['reduction'] = reduction_from_merging(backbone.pop('merging'), stacklevel=3)
