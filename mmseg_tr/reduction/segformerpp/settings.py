"""Settings of SegFormer++: the presets by name, or one dict per stage."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.segformerpp import Bipartite, Merger, Neighbours1D, Neighbours2D, StageMerging


@dataclass(frozen=True)
class Merging:
    """Settings of a whole MiT: one StageMerging per stage; downsample: every second pixel of the image only."""

    stages: tuple[StageMerging, ...]
    downsample: bool = False

    @property
    def active(self) -> bool:
        """Whether there is less to do than in the plain model."""
        return self.downsample or any(stage.queries or stage.keys for stage in self.stages)

    def nothing(self) -> Merging:
        """Settings of the plain model."""
        return Merging(tuple(StageMerging() for _ in self.stages))


HQ = [dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2)] * 2 + [dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4)] * 2
FAST = [dict(kv_mode='bsm', kv_r=0.9, kv_sx=4, kv_sy=4)] * 2 + [dict(q_mode='bsm', q_r=0.9, q_sx=4, q_sy=4)] * 2
# None: nothing is merged in any stage
PRESETS: dict[str, list[dict] | None] = dict(
    original=None, bsm_hq=HQ, bsm_fast=FAST, n2d_2x2=[dict(q_mode='n2d', q_s=(2, 2))] * 4, downsample=None
)
ALIASES = dict(default='original', none='original', hq='bsm_hq', fast='bsm_fast', down_sample='downsample') | {
    '2x2': 'n2d_2x2'
}
# mode -> the settings it needs, behind q_ or kv_
QUERY_MODES = dict(bsm=('r', 'sx', 'sy'), n1d=('s',), n2d=('s',))
KEY_MODES = dict(bsm=('r', 'sx', 'sy'), n2d=('s',))


def parse_merging(merging: str | Sequence[dict | None] | None, num_stages: int) -> Merging:
    """Settings of a MiT from a preset's name, one dict per stage, or None for the plain model.

    Names: those of PRESETS and ALIASES, with - or _. Dicts: q_mode 'bsm' (q_r, q_sx, q_sy), 'n1d' (q_s, a number) or
    'n2d' (q_s, (sy, sx)); kv_mode 'bsm' (kv_r, kv_sx, kv_sy) or 'n2d' (kv_s). q_r and kv_r are the fractions of tokens
    removed. share, beside 'bsm': so many blocks of the stage use the matching of the first of them, 'stage' for all of
    them; 1, where every block has its own, is published. Behind a name, _share4 says the same for every stage, and
    _shared stands for 'stage'. Raises ConfigError for whatever else is written; warns of settings that merge nothing.
    """
    name = 'original' if merging is None else merging
    if isinstance(name, str):
        preset, share = split_share(name.lower().replace('-', '_'))
        preset = ALIASES.get(preset, preset)
        if preset not in PRESETS:
            raise ConfigError(
                f'merging={merging!r} is unknown: it is one of {", ".join(PRESETS)}, or a dict per stage.'
            )
        stages = PRESETS[preset] or [{}] * num_stages
        if share is not None:
            stages = [stage | dict(share=share) for stage in stages]
    else:
        preset, stages = None, merging
    if not isinstance(stages, Sequence) or not all(stage is None or isinstance(stage, dict) for stage in stages):
        raise ConfigError(f"merging={merging!r} is neither a name nor a list of dicts: write for example 'bsm_hq'.")
    if len(stages) != num_stages:
        raise ConfigError(f'merging has settings of {len(stages)} stages: give a dict for each of the {num_stages}.')
    parsed = tuple(parse_stage(stage or {}, number) for number, stage in enumerate(stages, 1))
    idle = [
        number for number, stage in enumerate(parsed, 1) for part in (stage.queries, stage.keys) if part and part.idle
    ]
    if idle:
        warnings.warn(f'merging of stage {idle[0]} removes no token: its fraction is 0 or its stride 1.', stacklevel=2)
    return Merging(parsed, downsample=preset == 'downsample')


def parse_stage(settings: dict, number: int) -> StageMerging:
    """Mergers of one stage; keys that are None count as not written. Raises ConfigError naming stage `number`."""
    settings = {key: value for key, value in settings.items() if value is not None}
    found = {}
    for side, modes in (('q', QUERY_MODES), ('kv', KEY_MODES)):
        mode = settings.pop(f'{side}_mode', None)
        if mode is None:
            continue
        if not isinstance(mode, str) or mode not in modes:
            raise ConfigError(
                f'stage {number}: {side}_mode={mode!r} is unknown: it is one of {", ".join(modes)}, or None.'
            )
        missing = [f'{side}_{key}' for key in modes[mode] if f'{side}_{key}' not in settings]
        if missing:
            raise ConfigError(f'stage {number}: {side}_mode={mode!r} needs {", ".join(missing)}.')
        found[side] = build_merger(mode, {key: settings.pop(f'{side}_{key}') for key in modes[mode]}, side, number)
    share = 1
    if any(isinstance(merger, Bipartite) for merger in found.values()):
        share = parse_share(settings.pop('share', 1), number)
    if settings:
        raise ConfigError(
            f'stage {number}: {next(iter(settings))!r} is no setting of the modes named there: '
            'q_mode and kv_mode take bsm with _r, _sx, _sy, and n2d (q_mode also n1d) with _s; share goes with bsm.'
        )
    return StageMerging(found.get('q'), found.get('kv'), share)


def split_share(name: str) -> tuple[str, int | str | None]:
    """'bsm_hq_share4' -> ('bsm_hq', 4); 'bsm_hq_shared' -> ('bsm_hq', 'stage'); None where the name says neither."""
    found = re.fullmatch(r'(.+)_share(d|[0-9]+)', name)
    if not found:
        return name, None
    return found[1], 'stage' if found[2] == 'd' else int(found[2])


def parse_share(share: int | str, number: int) -> int | None:
    """How many blocks use one matching; None for all. Raises ConfigError naming stage `number`."""
    if share == 'stage':
        return None
    if isinstance(share, bool) or not isinstance(share, int) or share < 1:
        raise ConfigError(f"stage {number}: share={share!r} is no number of blocks: give one from 1 on, or 'stage'.")
    return share


def build_merger(mode: str, values: dict, side: str, number: int) -> Merger:
    """A merger from its checked settings. Raises ConfigError for values that are out of range."""
    where = f'stage {number}: {side}_'
    if mode == 'n1d':
        return Neighbours1D(whole(values['s'], f'{where}s'))
    if mode == 'n2d':
        pair = values['s'] if isinstance(values['s'], Sequence) else (values['s'],) * 2
        if isinstance(pair, str) or len(pair) != 2:
            raise ConfigError(f'{where}s={values["s"]!r} is no stride: write (sy, sx), for example (2, 2).')
        return Neighbours2D((whole(pair[0], f'{where}s'), whole(pair[1], f'{where}s')))
    ratio = values['r']
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        raise ConfigError(f'{where}r={ratio!r} is no fraction of tokens to remove: give a number from 0 to 1.')
    return Bipartite(float(ratio), (whole(values['sy'], f'{where}sy'), whole(values['sx'], f'{where}sx')))


def whole(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f'{name}={value!r} is no stride: give a whole number from 1 on.')
    return value
