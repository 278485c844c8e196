"""Options of compare and tune: which pictures are tested, timed and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmseg_tr.errors import ConfigError
from mmseg_tr.options import Options

BATCH = 8  # of the throughput, where the pictures are enough


@dataclass(frozen=True)
class MeasuringOptions(Options):
    """fraction: share of the dataset that is tested on, evenly spread. batch_size: of the throughput; None:
    BATCH, or as many pictures as there are. images: how many are timed and counted. repeats: rounds over these.
    amp: precision of everything, tests included.
    """

    fraction: float = 1.0
    batch_size: int | None = None
    images: int = 32
    repeats: int = 5
    device: str | torch.device | None = None
    amp: str | None = None
    cfg_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers out of range, before anything is built."""
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ConfigError(f'fraction must be above 0 and at most 1, got {self.fraction}.', parameters=['fraction'])
        for name in ('batch_size', 'images', 'repeats'):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ConfigError(f'{name} must be a positive integer, got {number}.', parameters=[name])
        if self.batch_size is not None and self.images < self.batch_size:
            raise ConfigError(
                f'batch_size must be at most images, as many different pictures as are timed: {self.images}, got '
                f'{self.batch_size}.',
                parameters=['batch_size', 'images'],
            )

    def batch_for(self, size: int) -> int:
        """Return the batch of the throughput where `size` pictures are tested on.

        Raises ConfigError for a batch_size above that number.
        """
        if self.batch_size is None:
            return min(BATCH, self.images, size)
        if size < self.batch_size:
            raise ConfigError(
                f'batch_size must be at most the number of pictures that are tested on, {size}, got {self.batch_size}: '
                'take a smaller batch or a larger fraction of the dataset.',
                parameters=['batch_size', 'fraction'],
            )
        return self.batch_size


@dataclass(frozen=True)
class CompareOptions(MeasuringOptions):
    """As MeasuringOptions. methods, reductions: further methods over the first config, see models.with_methods().

    work: shares of the plain network's multiply-adds, such as (0.85, 0.7): every method is compared at each of them,
    with settings that are chosen for it, see equal_work. fixed: of adaptive methods also the fixed form with the same
    work, calibrated on batch_size windows. compiled: also time every network under torch.compile.
    rivals: also what a user would pick instead of a method, see rivals.build_rivals(): the plain network at a smaller
    input, with larger patches, compiled. smaller: (config, checkpoint) of smaller plain networks, as further rivals.
    """

    methods: Sequence[str] = ()
    reductions: Sequence[str] = ()
    work: Sequence[float] = ()
    fixed: bool = False
    compiled: bool = False
    rivals: bool = False
    smaller: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for share in self.work:
            if not 0 < share < 1:
                raise ConfigError(
                    f'work must be shares above 0 and below 1, such as 0.7, got {share:g}.', parameters=['work']
                )
        if self.fixed and not self.work:
            raise ConfigError('fixed needs work, the shares at which forms are compared.', parameters=['fixed', 'work'])
        if len(set(self.work)) < len(self.work):
            raise ConfigError(
                f'work must name each share once, got {" ".join(map(str, self.work))}.', parameters=['work']
            )
