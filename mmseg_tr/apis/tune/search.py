"""Which points tools/tune.py measures: bisection along ladders, and what is best among the points measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmseg_tr.apis.tune.spaces import Ladder, Settings
from mmseg_tr.errors import ConfigError


@dataclass(frozen=True)
class Point:
    """A setting that was measured, against the plain model on the same images.

    quality: percent of mIoU, or of PCK for poses. loss: points below the plain model's. work: the plain model's
    multiply-adds over its own. time: the same of seconds per image; None where it was not timed.
    """

    ladder: str
    settings: Settings
    quality: float
    loss: float
    gmacs: float
    work: float
    time: float | None = None

    def speed_up(self, by: str) -> float:
        """By 'time' or by 'work'."""
        return self.work if by == 'work' or self.time is None else self.time


@dataclass(frozen=True)
class Budget:
    """What a setting may cost, or has to bring: loss, points of quality, or speed_up, a ratio `by` time or work."""

    loss: float | None = None
    speed_up: float | None = None
    by: str = 'time'

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.speed_up is None):
            raise ConfigError('give one budget: --budget-miou (or --budget-pck) LOSS, or --speed-up X.')
        if self.loss is not None and not 0 <= self.loss < 100:
            raise ConfigError(f'--budget-miou {self.loss:g} is no loss of quality: give points from 0 to below 100.')
        if self.speed_up is not None and not 1 < self.speed_up < 1000:
            raise ConfigError(f'--speed-up {self.speed_up:g} is no speed-up: give a ratio above 1, such as 1.5.')
        if self.by not in ('time', 'work'):
            raise ConfigError(f'--by {self.by} is unknown: give time or work.')

    def holds(self, point: Point, margin: float = 0.0) -> bool:
        """Whether a point keeps to the budget, or to one that is stricter by `margin`."""
        if self.loss is not None:
            return point.loss <= self.loss - margin
        return point.speed_up(self.by) >= self.speed_up + margin

    def missed_by(self, point: Point) -> float:
        """How far a point is outside the budget; 0 or less inside."""
        if self.loss is not None:
            return point.loss - self.loss
        return self.speed_up - point.speed_up(self.by)

    def merit(self, point: Point) -> tuple[float, float]:
        """What is wanted within the budget: the more the better; the second number decides between equals."""
        if self.loss is not None:
            return point.speed_up(self.by), -point.loss
        return -point.loss, point.speed_up(self.by)

    def best(self, points: Iterable[Point], margin: float = 0.0) -> Point | None:
        """The best point within the budget, or None."""
        return max((point for point in points if self.holds(point, margin)), key=self.merit, default=None)

    def closest(self, points: Iterable[Point]) -> Point:
        """The point that misses the budget by least."""
        return min(points, key=self.missed_by)

    def __str__(self) -> str:
        if self.loss is not None:
            return f'at most {self.loss:g} points below the plain model'
        return f'{self.speed_up:g} times the plain model by {self.by}'


Measure = Callable[[str, Settings], Point]


def search(ladders: Sequence[Ladder], budget: Budget, measure: Measure, margin: float = 0.0) -> list[Point]:
    """Bisect every ladder for the rung where the budget turns; returns the points, in the order they were measured.

    For a budget of loss that is the strongest rung within it, for a speed-up the mildest that reaches it. Where a
    quantity does not move in one direction along a ladder, what is found is a turn, not always the last one.
    """
    points: list[Point] = []
    for ladder in ladders:
        points += bisect(ladder, budget, measure, margin)
    return points


def bisect(ladder: Ladder, budget: Budget, measure: Measure, margin: float = 0.0) -> list[Point]:
    """The rungs of one ladder that were measured on the way; both ends only where the way leads there."""
    points = []
    low, high = -1, len(ladder.rungs)  # within (loss) or short of (speed-up) the budget, and the opposite
    while high - low > 1:
        middle = (low + high) // 2
        points.append(measure(ladder.name, ladder.rungs[middle]))
        if budget.holds(points[-1], margin) == (budget.loss is not None):
            low = middle
        else:
            high = middle
    return points
