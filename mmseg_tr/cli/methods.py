"""The list of token-reduction methods that `mmseg-tr methods` prints."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from mmseg_tr.reduction import REDUCTIONS, build_reduction, find_method
from mmseg_tr.reduction.base import Reduction

EXAMPLE = dict(width=384, depth=12, grid=(32, 32))  # ViT-S/16 at 512 pixels


def describe(names: Sequence[str] = ()) -> str:
    """Describe every method, or those named: what it does, its settings, and what its bare name means.

    Raises ConfigError for a name that does not exist.
    """
    methods = [find_method(name) for name in names] or sorted(set(REDUCTIONS.values()), key=lambda method: method.name)
    return '\n\n'.join(map(paragraph, methods))


def paragraph(method: type[Reduction]) -> str:
    """Describe one method."""
    about = (inspect.getdoc(method) or '').partition('\n')[0]
    settings = [written(parameter) for parameter in inspect.signature(method).parameters.values()]
    lines = [f'{method.name} (for {method.backbone}): {about}', f'    settings  {", ".join(settings)}']
    if method.backbone == 'ViT':
        alone = build_reduction(method.name, **EXAMPLE)
        chosen = {key: value for key, value in alone.settings().items() if key != 'type'}
        lines.append(
            f'    the name alone, on ViT-S/16 at 512 pixels  {", ".join(f"{k}={v!r}" for k, v in chosen.items())}'
        )
    return '\n'.join(lines)


def written(parameter: inspect.Parameter) -> str:
    """Return a setting with its default."""
    required = parameter.default is inspect.Parameter.empty
    return parameter.name if required else f'{parameter.name}={parameter.default!r}'
