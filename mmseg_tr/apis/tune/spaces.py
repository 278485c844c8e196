"""Which settings of a method tools/tune.py looks through: ladders that reduce more from step to step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction import find_method
from mmseg_tr.reduction.ladder import Grid, Ladder, Settings
from mmseg_tr.reduction.segformerpp.settings import PRESETS


def space(own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
    """The ladders of a method. The first holds the layers (or form) that `own` names.

    own: settings of the method, type included; what is not looked through is kept. depth: layers of the backbone.
    grid: its patches, (h, w). Raises ConfigError for a method or settings that have nothing to look through.
    """
    method = find_method(own.get('type'))
    found = [ladder for ladder in method.ladder(dict(own), depth, grid) if ladder.rungs]
    if not found:
        raise ConfigError(f'{method.name} has no setting to try on {depth} layers and {grid[0]}x{grid[1]} patches.')
    return found


def mit_space(num_stages: int) -> list[Ladder]:
    """The ladders of SegFormer++: the patterns of its presets with one fraction r, in all stages, the two that have
    the most tokens, or the others; and the presets that have no fraction.
    """
    fractions = [round(0.05 * step, 2) for step in range(2, 20)]  # 0.1 to 0.95
    early = num_stages // 2
    ladders = []
    for name, strides in (('bsm_hq', (2, 4)), ('bsm_fast', (4, 4))):
        for where, stages in (
            ('all stages', range(num_stages)),
            (f'stages 1 to {early}', range(early)),
            (f'stages {early + 1} to {num_stages}', range(early, num_stages)),
        ):
            if name == 'bsm_fast' and stages.start == early:
                continue  # the late stages of both patterns are the same
            settings = [
                [stage_settings(stage, early, strides, r, stages) for stage in range(num_stages)]
                for r in fractions
                if stages.start or strides[0] > 2 or r <= 0.75
            ]  # a 2x2 block holds 3 sources of 4
            ladders.append(Ladder(f'SegFormer++, pattern of {name}, {where}', tuple(settings)))
    fixed = [name for name in ('n2d_2x2', 'downsample') if len(PRESETS[name] or [{}] * num_stages) == num_stages]
    return [*ladders, *(Ladder(f'SegFormer++, {name}', (name,)) for name in fixed)]


def stage_settings(stage: int, early: int, strides: tuple[int, int], r: float, stages: range) -> dict[str, Any]:
    """Keys and values merge in early stages, queries in late ones, as in the presets; nothing in other `stages`."""
    if stage not in stages:
        return {}
    side, stride = ('kv', strides[0]) if stage < early else ('q', strides[1])
    return {f'{side}_mode': 'bsm', f'{side}_r': r, f'{side}_sx': stride, f'{side}_sy': stride}


def identity(settings: Settings | None) -> str:
    """Text that is the same for equal settings, tuples being lists."""
    return json.dumps(settings, sort_keys=True)
