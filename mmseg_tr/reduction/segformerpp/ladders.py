"""Ladders of SegFormer++ for tune: the patterns of its presets with other fractions, in all or some stages."""

from __future__ import annotations

from typing import Any

from mmseg_tr.reduction.ladder import Ladder
from mmseg_tr.reduction.segformerpp.settings import PRESETS, as_reduction


def ladders(num_stages: int) -> list[Ladder]:
    """Return ladders of SegFormer++: the patterns of its presets with one fraction r, in all stages, the two that have
    the most tokens, or the others; and the presets that have no fraction.
    """
    fractions = [round(0.05 * step, 2) for step in range(2, 20)]  # 0.1 to 0.95
    early = num_stages // 2
    found = []
    for name, strides in (('bsm_hq', (2, 4)), ('bsm_fast', (4, 4))):
        for where, stages in (
            ('all stages', range(num_stages)),
            (f'stages 1 to {early}', range(early)),
            (f'stages {early + 1} to {num_stages}', range(early, num_stages)),
        ):
            if name == 'bsm_fast' and stages.start == early:
                continue  # the late stages of both patterns are the same
            settings = [
                as_reduction([stage_settings(stage, early, strides, r, stages) for stage in range(num_stages)])
                for r in fractions
                if stages.start or strides[0] > 2 or r <= 0.75
            ]  # a 2x2 block holds 3 sources of 4
            found.append(Ladder(f'SegFormer++, pattern of {name}, {where}', tuple(settings)))
    fixed = [name for name in ('n2d_2x2', 'downsample') if len(PRESETS[name] or [{}] * num_stages) == num_stages]
    return [*found, *(Ladder(f'SegFormer++, {name}', (as_reduction(name),)) for name in fixed)]


def stage_settings(stage: int, early: int, strides: tuple[int, int], r: float, stages: range) -> dict[str, Any]:
    """Merge keys and values in early stages, queries in late ones, as in the presets; nothing in other `stages`."""
    if stage not in stages:
        return {}
    side, stride = ('kv', strides[0]) if stage < early else ('q', strides[1])
    return {f'{side}_mode': 'bsm', f'{side}_r': r, f'{side}_sx': stride, f'{side}_sy': stride}
