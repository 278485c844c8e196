"""Settings of SegFormer++: the presets by name, or one dict per stage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.checks import check_integer, check_number, is_integer
from mmseg_tr.reduction.segformerpp.mergers import Bipartite, Merger, Neighbours1D, Neighbours2D, StageMerging

HQ = [dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2)] * 2 + [dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4)] * 2
FAST = [dict(kv_mode='bsm', kv_r=0.9, kv_sx=4, kv_sy=4)] * 2 + [dict(q_mode='bsm', q_r=0.9, q_sx=4, q_sy=4)] * 2
# None: nothing is merged in any stage
PRESETS: dict[str, list[dict[str, Any]] | None] = dict(
    original=None, bsm_hq=HQ, bsm_fast=FAST, n2d_2x2=[dict(q_mode='n2d', q_s=(2, 2))] * 4, downsample=None
)
ALIASES = dict(default='original', none='original', hq='bsm_hq', fast='bsm_fast', down_sample='downsample') | {
    '2x2': 'n2d_2x2'
}
# mode -> the settings it needs, after q_ or kv_
QUERY_MODES = dict(bsm=('r', 'sx', 'sy'), n1d=('s',), n2d=('s',))
KEY_MODES = dict(bsm=('r', 'sx', 'sy'), n2d=('s',))


def preset_name(preset: str) -> str | None:
    """Return the name in PRESETS for a preset, ALIASES and a share left out; None if no preset has that name."""
    name = split_share(tidy(preset))[0]
    name = ALIASES.get(name, name)
    return name if name in PRESETS else None


def preset_stages(preset: str) -> list[dict[str, Any]] | None:
    """Return settings of every stage of a preset; None for presets that merge nothing, in any number of stages.

    Raises ConfigError for anything else.
    """
    name = preset_name(preset) if isinstance(preset, str) else None
    if name is None:
        raise ConfigError(f'preset must be one of {", ".join(PRESETS)}, got {preset!r}.')
    share = split_share(tidy(preset))[1]
    stages = PRESETS[name]
    if share is None:
        return stages
    if stages is None:
        raise ConfigError(f"preset {preset!r} compares no tokens, and so takes no 'share'.")
    return [stage | dict(share=share) for stage in stages]


def as_reduction(settings: Any) -> Any:
    """Return a preset's name, or one dict per stage, as the settings of a strategy; None where nothing merges.

    Anything else is returned unchanged.
    """
    if isinstance(settings, str) and preset_name(settings) is not None:
        settings = dict(type='SegFormerPP', preset=settings)
    elif isinstance(settings, list | tuple):
        settings = dict(type='SegFormerPP', stages=list(settings))
    if isinstance(settings, dict):
        preset, stages = settings.get('preset'), settings.get('stages')
        if isinstance(preset, str) and ALIASES.get(tidy(preset), tidy(preset)) == 'original':
            return None
        if preset is None and isinstance(stages, list | tuple) and not any(stages):
            return None
    return settings


def tidy(name: str) -> str:
    return name.lower().replace('-', '_')


def parse_stages(stages: Sequence[dict[str, Any] | None], precision: str = 'float32') -> tuple[StageMerging, ...]:
    """Return what every stage merges. Raises ConfigError for anything but a list of dicts, and for what parse_stage()
    does."""
    listed = isinstance(stages, Sequence) and not isinstance(stages, str)
    if not listed or not all(stage is None or isinstance(stage, dict) for stage in stages):
        raise ConfigError(
            f"stages must be a list of one dict per stage, such as dict(q_mode='n2d', q_s=(2, 2)), got {stages!r}."
        )
    return tuple(parse_stage(stage or {}, number, precision) for number, stage in enumerate(stages, 1))


def parse_stage(settings: dict[str, Any], number: int, precision: str = 'float32') -> StageMerging:
    """Return the mergers of one stage; keys that are None count as not written. Raises ConfigError naming stage
    `number`."""
    settings = {key: value for key, value in settings.items() if value is not None}
    found = {}
    for side, modes in (('q', QUERY_MODES), ('kv', KEY_MODES)):
        mode = settings.pop(f'{side}_mode', None)
        if mode is None:
            continue
        if not isinstance(mode, str) or mode not in modes:
            raise ConfigError(f'stage {number}: {side}_mode must be one of {", ".join(modes)}, or None, got {mode!r}.')
        missing = [f'{side}_{key}' for key in modes[mode] if f'{side}_{key}' not in settings]
        if missing:
            raise ConfigError(f'stage {number}: {side}_mode={mode!r} needs {", ".join(missing)}.')
        found[side] = build_merger(mode, {key: settings.pop(f'{side}_{key}') for key in modes[mode]}, side, number)
    share: int | None = 1
    if any(isinstance(merger, Bipartite) for merger in found.values()):
        share = parse_share(settings.pop('share', 1), number)
    if settings:
        raise ConfigError(
            f'stage {number}: {next(iter(settings))!r} is not a setting of its modes: '
            'q_mode and kv_mode take bsm with _r, _sx, _sy, and n2d (q_mode also n1d) with _s; share goes with bsm.'
        )
    found = {
        side: replace(merger, precision=precision) if isinstance(merger, Bipartite) else merger
        for side, merger in found.items()
    }
    return StageMerging(found.get('q'), found.get('kv'), share)


def split_share(name: str) -> tuple[str, int | str | None]:
    """Split a name: 'bsm_hq_share4' -> ('bsm_hq', 4); 'bsm_hq_shared' -> ('bsm_hq', 'stage'); None for others."""
    found = re.fullmatch(r'(.+)_share(d|[0-9]+)', name)
    if not found:
        return name, None
    return found[1], 'stage' if found[2] == 'd' else int(found[2])


def parse_share(share: Any, number: int) -> int | None:
    """Return how many blocks use one matching; None for all. Raises ConfigError naming stage `number`."""
    if share == 'stage':
        return None
    if not is_integer(share) or share < 1:
        raise ConfigError(f"stage {number}: share must be a positive number of blocks or 'stage', got {share!r}.")
    return share


def build_merger(mode: str, values: dict[str, Any], side: str, number: int) -> Merger:
    """Return a merger from its checked settings. Raises ConfigError for values that are out of range."""
    where = f'stage {number}: {side}_'
    if mode == 'n1d':
        return Neighbours1D(check_integer(f'{where}s', values['s'], 1))
    if mode == 'n2d':
        pair = values['s'] if isinstance(values['s'], Sequence) else (values['s'],) * 2
        if isinstance(pair, str) or len(pair) != 2:
            raise ConfigError(f'{where}s must be a stride (sy, sx) such as (2, 2), got {values["s"]!r}.')
        rows, columns = (check_integer(f'{where}s', stride, 1) for stride in pair)
        return Neighbours2D((rows, columns))
    ratio = values['r']
    check_number(f'{where}r', ratio, 0, 1, hint='the fraction of tokens to remove')
    rows, columns = (check_integer(f'{where}{key}', values[key], 1) for key in ('sy', 'sx'))
    return Bipartite(float(ratio), (rows, columns))
