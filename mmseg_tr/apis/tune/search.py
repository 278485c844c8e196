"""Choose the points that tune measures: bisection along ladders, and the best of the measured points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmseg_tr.apis.tune.spaces import Ladder, Settings, identity
from mmseg_tr.errors import ConfigError
from mmseg_tr.options import Options


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
        """Return the speed-up by 'time' or by 'work'."""
        return self.work if by == 'work' or self.time is None else self.time


@dataclass(frozen=True)
class Budget(Options):
    """The allowed loss in points of quality, or the required speed_up, a ratio `by` time or work."""

    loss: float | None = None
    speed_up: float | None = None
    by: str = 'time'

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.loss is None) == (self.speed_up is None):
            raise ConfigError('give one budget, loss or speed_up.', parameters=['loss', 'speed_up'])
        if self.loss is not None and not 0 <= self.loss < 100:
            raise ConfigError(f'loss must be at least 0 and below 100 points, got {self.loss:g}.', parameters=['loss'])
        if self.speed_up is not None and not 1 < self.speed_up < 1000:
            raise ConfigError(
                f'speed_up must be a ratio above 1 and below 1000, such as 1.5, got {self.speed_up:g}.',
                parameters=['speed_up'],
            )
        if self.by not in ('time', 'work'):
            raise ConfigError(f'by must be time or work, got {self.by!r}.', parameters=['by'])

    def holds(self, point: Point, margin: float = 0.0) -> bool:
        """Return whether a point meets the budget tightened by `margin`."""
        if self.loss is not None:
            return point.loss <= self.loss - margin
        return point.speed_up(self.by) >= self.speed_up + margin

    def missed_by(self, point: Point) -> float:
        """Return how far a point is outside the budget; 0 or less inside."""
        if self.loss is not None:
            return point.loss - self.loss
        return self.speed_up - point.speed_up(self.by)

    def merit(self, point: Point) -> tuple[float, float]:
        """Return a point's rank within the budget: more is better; the second number breaks ties."""
        if self.loss is not None:
            return point.speed_up(self.by), -point.loss
        return -point.loss, point.speed_up(self.by)

    def best(self, points: Iterable[Point], margin: float = 0.0) -> Point | None:
        """Return the best point within the budget, or None."""
        return max((point for point in points if self.holds(point, margin)), key=self.merit, default=None)

    def closest(self, points: Iterable[Point]) -> Point:
        """Return the point that misses the budget by least."""
        return min(points, key=self.missed_by)

    def __str__(self) -> str:
        if self.loss is not None:
            return f'at most {self.loss:g} points below the plain model'
        return f'{self.speed_up:g} times the plain model by {self.by}'


Measure = Callable[[str, Settings], Point]
CONFIRMATIONS = 5  # most settings tried on the full set


def search(ladders: Sequence[Ladder], budget: Budget, measure: Measure, margin: float = 0.0) -> list[Point]:
    """Bisect every ladder for the rung at the budget's limit; returns the points, in the order they were measured.

    For a budget of loss that is the strongest rung within it, for a speed-up the mildest that reaches it. Where a
    quantity does not move in one direction along a ladder, what is found is a turn, not always the last one.
    """
    points: list[Point] = []
    for ladder in ladders:
        points += bisect(ladder, budget, measure, margin)
    return points


def bisect(ladder: Ladder, budget: Budget, measure: Measure, margin: float = 0.0) -> list[Point]:
    """Yield the measured rungs of one ladder; the ends only if the bisection reaches them."""
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


def find(
    ladders: Sequence[Ladder], budget: Budget, subset: Measure, full: Measure
) -> tuple[tuple[Point, ...], tuple[Point, ...], Point | None]:
    """Return the points of the subset and of the full set, and the one that meets the budget on the full set.

    When a setting fails on the full set, the search continues with the budget tightened by the gap between subset and
    full set. When nothing is left, the setting farthest inside the budget is tried last.
    """
    seen: dict[str, Point] = {}
    confirmed: list[Point] = []
    margin = 0.0
    for turn in range(CONFIRMATIONS):
        for point in search(ladders, budget, subset, margin):
            seen[identity(point.settings)] = point
        best = budget.best(seen.values(), margin)
        last = best is None or turn == CONFIRMATIONS - 1
        if last:
            tried = [identity(point.settings) for point in confirmed]
            left = [point for key, point in seen.items() if key not in tried and budget.holds(point)]
            best = budget.closest(left) if left else None
        if best is None:
            break
        confirmed.append(full(best.ladder, best.settings))
        if budget.holds(confirmed[-1]):
            return tuple(seen.values()), tuple(confirmed), confirmed[-1]
        if last:
            break
        margin = budget.missed_by(confirmed[-1]) - budget.missed_by(best)
    return tuple(seen.values()), tuple(confirmed), None
