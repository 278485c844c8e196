"""SegFormer++ (Kienzle et al., 2024): merging of queries, and of keys with values, inside the attention of MiT."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.checks import check_integer, check_precision
from mmseg_tr.reduction.ladder import Grid, Ladder
from mmseg_tr.reduction.observe import Merged
from mmseg_tr.reduction.segformerpp.ladders import ladders
from mmseg_tr.reduction.segformerpp.mergers import (
    Bipartite,
    Neighbours1D,
    Neighbours2D,
    StageMerging,
    grid_matching,
    grid_partition,
)
from mmseg_tr.reduction.segformerpp.settings import parse_stages, preset_name, preset_stages
from mmseg_tr.reduction.segformerpp.watch import WatchedStage


@dataclass(frozen=True, eq=False)
class SegFormerPP(Reduction):
    """Merge queries, or keys with values, in the attention of every stage of a MiT; results return to every token.

    preset: 'bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample' or 'original', with - or _. After a name, _share4 lets four
        blocks in a row use one matching, and _shared all blocks of a stage.
    stages: in place of a preset, one dict per stage: q_mode 'bsm' (q_r, q_sx, q_sy), 'n1d' (q_s, a number) or 'n2d'
        (q_s, (sy, sx)); kv_mode 'bsm' (kv_r, kv_sx, kv_sy) or 'n2d' (kv_s). q_r and kv_r are the fractions of tokens
        removed. share, with 'bsm': this many consecutive blocks use the matching of the first, 'stage' for the whole
        stage; 1, where every block has its own, is published.
    precision: of similarities and other decisions, 'float32' or 'float64', see docs/methods/index.md.
    match_every: in all stages, so many consecutive blocks use one matching, over preset and stages.
    The default is the preset 'bsm_hq'. No weights are added. Raises ConfigError for settings that do not exist; warns
    of settings that merge nothing.
    """

    preset: str | None = None
    stages: Sequence[dict[str, Any] | None] | None = None
    precision: str = 'float32'
    merging: tuple[StageMerging, ...] = field(default=(), init=False, repr=False)
    downsample: bool = field(default=False, init=False, repr=False)
    match_every: int | None = None

    name: ClassVar[str] = 'SegFormer++'
    count_rule: ClassVar[str] = 'conv-matmul'
    backbone: ClassVar[str] = 'MiT'

    def __post_init__(self) -> None:
        preset, stages = self.preset, self.stages
        if preset is not None and stages is not None:
            raise ConfigError(
                f'{self.name} takes preset or stages, got both {preset!r} and {stages!r}: set one to None.'
            )
        if stages is None:
            preset = 'bsm_hq' if preset is None else preset
            stages = preset_stages(preset)
        # empty: nothing merges, for any number of stages
        empty = isinstance(stages, Sequence) and not len(stages)
        merging = parse_stages(() if stages is None or empty else stages, check_precision(self.precision))
        if self.match_every is not None:
            check_integer('match_every', self.match_every, 1, hint='or None for what preset or stages say')
            merging = tuple(replace(stage, share=self.match_every) for stage in merging)
        downsample = preset is not None and preset_name(preset) == 'downsample'
        self._settle(preset=preset, merging=merging, downsample=downsample)
        idle = [stage for stage, asked in enumerate(merging, 1) if asked.idle]
        if idle:
            warnings.warn(
                f'{self.name} removes no token in stage {idle[0]}: its fraction is 0 or its stride 1.', stacklevel=3
            )

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        return dict(preset='bsm_hq')

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """depth: number of stages of the MiT."""
        return ladders(depth)

    def settings(self) -> dict[str, Any]:
        """Return type and arguments that build this strategy again."""
        asked: dict[str, Any] = dict(preset=self.preset) if self.stages is None else dict(stages=self.stages)
        if self.match_every is not None:
            asked['match_every'] = self.match_every
        if self.precision != 'float32':  # the default stays out of written configs
            asked['precision'] = self.precision
        return dict(type=type(self).__name__, **asked)

    @property
    def active(self) -> bool:
        """Whether it does less work than the plain network."""
        return self.downsample or any(stage.queries or stage.keys for stage in self.merging)

    def bind_stages(self, depths: Sequence[int]) -> SegFormerPP:
        """Return the strategy fitted to a MiT with these numbers of blocks per stage.

        Raises ConfigError where the settings are for another number of stages.
        """
        if self.merging and len(self.merging) != len(depths):
            raise ConfigError(
                f'{self.name} has settings for {len(self.merging)} stages, and the network has {len(depths)}: give one '
                'dict per stage.'
            )
        return self if self.merging else self.with_merging([StageMerging()] * len(depths))

    def with_merging(self, merging: Sequence[StageMerging]) -> SegFormerPP:
        """Return the strategy with other stages, for observers; settings() stays the same."""
        return self._with(merging=tuple(merging))

    def watched(self, found: list[Merged], depths: Sequence[int], device: torch.device) -> SegFormerPP:
        """Return the strategy for one forward of a single image that appends what every block merges to `found`."""
        stages = [
            WatchedStage(stage.queries, stage.keys, stage.share, found, number, sum(depths[: number - 1]), device)
            for number, stage in enumerate(self.bind_stages(depths).merging, 1)
        ]
        return self.with_merging(stages)


__all__ = [
    'Bipartite',
    'Neighbours1D',
    'Neighbours2D',
    'SegFormerPP',
    'StageMerging',
    'grid_matching',
    'grid_partition',
]
