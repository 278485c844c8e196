"""Settings that a method has when it is asked for by name alone: the published ones where there are some for the
encoder, otherwise the same proportions of its depth and grid.
"""

from __future__ import annotations

import math
from typing import Any

from mmseg_tr.errors import ConfigError

NAMES = ('algm', 'cts', 'expedite', 'evit', 'tome', 'act')
PLAIN = ('original', 'none', 'plain')
# ALGM, width of the encoder -> local threshold, as published for ADE20K
THRESHOLDS = {192: 0.90, 384: 0.88, 768: 0.94, 1024: 0.95}


def default_method(name: str, embed_dim: int, depth: int, grid: tuple[int, int]) -> dict[str, Any] | None:
    """Settings for an encoder of this width, depth and patch grid; None for a name of the plain model.

    ALGM: layers 1 and 5, of 24 layers 1 and 7, windows of 2x2 and the threshold of the width's ADE20K row (0.88 for
    widths that have none). CTS: 30 % of the tokens, by a policy network whose weights must come with the model's or
    from policy_checkpoint. Expedite, of 24 layers on a grid of 40x40: 28x28 clusters behind layer 10. EViT, of 24
    layers: 80 % kept behind 8, 14, 20. ToMe: dense, 30 % in each layer. ACT: 32 hashes.
    Raises ConfigError for other names.
    """
    name = name.lower()
    if name in PLAIN:
        return None
    if name not in NAMES:
        raise ConfigError(
            f'method {name!r} is unknown for a ViT: it is one of {", ".join(NAMES)}, or a dict such as '
            "dict(type='ALGM', layers=(1, 5)); original or None is the plain model."
        )
    layers = [min(max(round(layer * depth / 24), 1), depth) for layer in (8, 14, 20)]
    if name == 'algm':
        late = min(7 if depth >= 24 else 5, depth)
        threshold = THRESHOLDS.get(embed_dim, 0.88)
        return dict(type='ALGM', layers=tuple(sorted({1, late})), window=(2, 2), threshold=threshold)
    if name == 'cts':
        return dict(type='CTS', share=0.3)
    if name == 'expedite':
        clusters = tuple(max(round(0.7 * side), 1) for side in grid)
        layer = min(max(round(depth * 10 / 24), 1), depth)
        return dict(type='Expedite', layer=layer, clusters=clusters, k=min(20, math.prod(clusters)))
    if name == 'evit':
        return dict(type='EViT', keep_rate=0.8, layers=tuple(sorted(set(layers))))
    return dict(type='ToMe', form='dense', r=0.3) if name == 'tome' else dict(type='ACT', q_hashes=32)
