"""Which settings of a method tools/tune.py looks through: ladders that reduce more from step to step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.segformerpp.settings import PRESETS

Settings = Mapping[str, Any] | Sequence[Mapping[str, Any]] | str
Grid = tuple[int, int]


@dataclass(frozen=True)
class Ladder:
    """Settings of one method from the mildest to the strongest; along them work falls and quality should.

    name: what all of its settings share. rungs: what the config would say, one entry a setting.
    """

    name: str
    rungs: tuple[Settings, ...]


def space(own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
    """The ladders of a ViT method. The first holds the layers (or form) that `own` names.

    own: settings of the method, type included; what is not looked through is kept. depth: layers of the backbone.
    grid: its patches, (h, w). Raises ConfigError for a method or settings that have nothing to look through.
    """
    kind = own.get('type')
    if kind not in SPACES:
        raise ConfigError(f'the method {kind!r} cannot be tuned: those that can are {", ".join(SPACES)}.')
    found = [ladder for ladder in SPACES[kind](dict(own), depth, grid) if ladder.rungs]
    if not found:
        raise ConfigError(f'{kind} has no setting to try on {depth} layers and {grid[0]}x{grid[1]} patches.')
    return found


def algm(own: dict, depth: int, grid: Grid) -> list[Ladder]:
    """Threshold from 0.99 down to 0.3, for several layers of the global merge."""
    steps = [round(0.99 - 0.01 * step, 2) for step in range(70)]
    pairs = [(1, scaled(share, depth, least=2)) for share in (3 / 12, 5 / 12, 7 / 12) if depth > 1]
    layers = distinct([tuple(own['layers'])] if 'layers' in own else [], pairs or [(1,)])
    return [
        Ladder(f'ALGM, layers {", ".join(map(str, chosen))}', rungs(own, 'threshold', steps, layers=chosen))
        for chosen in layers
    ]


def tome(own: dict, depth: int, grid: Grid) -> list[Ladder]:
    """Tokens to merge per layer: a number where the config has one (or a schedule's mean), else a fraction."""
    form, r = own.get('form', 'original'), own.get('r')
    name = f'ToMe, {form} form'
    if own.get('matching') == 'kth':
        return [Ladder(f'{name}, one of k remains', rungs(own, 'k', range(2, 17)))]
    most = max(7 * math.prod(grid) // (8 * depth), 1)  # an eighth of the tokens is left at the end
    if isinstance(r, Mapping):
        steps = [dict(r, mean=mean) for mean in range(1, most + 1)]
    elif isinstance(r, Sequence):
        raise ConfigError(f'r={r!r} is a number for every layer: tune looks for one, say --reduction r=8.')
    elif isinstance(r, float) or (r is None and form == 'dense'):
        steps = [round(0.02 * step, 2) for step in range(1, 26)]
    else:
        steps = range(1, most + 1)
    return [Ladder(name, rungs(own, 'r', steps))]


def evit(own: dict, depth: int, grid: Grid) -> list[Ladder]:
    """Keep rate from 0.98 down to 0.3, dropping early, at the published places, or late."""
    steps = [round(0.98 - 0.02 * step, 2) for step in range(35)]
    steps = [rate for rate in steps if (1 - rate) * math.prod(grid) >= 2]  # one dropped token is fused into one
    places = [(4, 10, 16), (8, 14, 20), (12, 16, 20)]
    spread = [tuple(sorted({scaled(layer / 24, depth) for layer in chosen})) for chosen in places]
    layers = distinct([tuple(own['layers'])] if 'layers' in own else [], spread)
    return [
        Ladder(f'EViT, layers {", ".join(map(str, chosen))}', rungs(own, 'keep_rate', steps, layers=chosen))
        for chosen in layers
    ]


def expedite(own: dict, depth: int, grid: Grid) -> list[Ladder]:
    """Clusters in the shape of the grid down to a quarter of its sides, behind several layers."""
    side, k = max(grid), own.get('k', 20)
    sizes = [(max(round(grid[0] * n / side), 1), max(round(grid[1] * n / side), 1)) for n in range(side - 1, 0, -1)]
    sizes = [size for size in sizes if math.prod(size) >= k and 4 * max(size) >= side]
    alphas = [scaled(share, depth) for share in (1 / 6, 1 / 3, 1 / 2, 2 / 3)]
    last = own.get('reconstruct') if isinstance(own.get('reconstruct'), int) else depth
    layers = [layer for layer in distinct([own['layer']] if 'layer' in own else [], alphas) if layer < last]
    return [Ladder(f'Expedite, layer {layer}', rungs(own, 'clusters', sizes, layer=layer)) for layer in layers]


def cts(own: dict, depth: int, grid: Grid) -> list[Ladder]:
    """How many superpatches share a token, as a number where the config gives one, else as the fraction saved."""
    if own.get('policy') == 'none':
        raise ConfigError("CTS with policy='none' shares nothing: leave policy out, or say 'random'.")
    if own.get('shared') is not None:
        steps = range(1, (grid[0] // 2) * (grid[1] // 2) + 1)
        return [Ladder('CTS', rungs(own, 'shared', steps))]
    return [Ladder('CTS', rungs(own, 'share', [round(0.025 * step, 3) for step in range(1, 31)]))]


def act(own: dict, depth: int, grid: Grid) -> list[Ladder]:
    """Hashes per query, from 32 down to 1."""
    return [Ladder('ACT', rungs(own, 'q_hashes', range(32, 0, -1)))]


SPACES = dict(ALGM=algm, ToMe=tome, EViT=evit, Expedite=expedite, CTS=cts, ACT=act)


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


def rungs(own: Mapping[str, Any], key: str, steps: Sequence[Any], **shared: Any) -> tuple[dict[str, Any], ...]:
    """The settings with other values of `key`, one a step."""
    return tuple({**own, **shared, key: step} for step in steps)


def scaled(share: float, depth: int, least: int = 1) -> int:
    """The layer at a share of the depth, rounded half up, so that published places move with it."""
    return min(max(int(share * depth + 0.5), least), depth)


def distinct(*lists: Sequence[Any]) -> list[Any]:
    """All entries in order, each once."""
    return list(dict.fromkeys(entry for entries in lists for entry in entries))
