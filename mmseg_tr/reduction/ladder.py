"""Ladders of settings in ascending order of reduction, which tune searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any] | Sequence[Mapping[str, Any]] | str
Grid = tuple[int, int]


@dataclass(frozen=True)
class Ladder:
    """Settings of one method from the mildest to the strongest; along them work falls and quality should.

    name: what all of its settings share. rungs: the config's reduction, one entry per setting.
    """

    name: str
    rungs: tuple[Settings, ...]


@dataclass(frozen=True)
class Dial:
    """A continuous setting that controls how much a method saves: `mild` saves little, `strong` saves much.

    geometric: whether halving the interval goes by the geometric mean, for settings that span orders of magnitude.
    """

    key: str
    mild: float
    strong: float
    geometric: bool = False


def rungs(own: Mapping[str, Any], key: str, steps: Sequence[Any], **shared: Any) -> tuple[dict[str, Any], ...]:
    """Return the settings with each value of `key`."""
    return tuple({**own, **shared, key: step} for step in steps)


def scaled_layer(share: float, depth: int, least: int = 1) -> int:
    """Return the layer at a share of the depth, rounded half up, so that published places move with it."""
    return min(max(int(share * depth + 0.5), least), depth)


def distinct(*lists: Sequence[Any]) -> list[Any]:
    """Return all entries in order, each once."""
    return list(dict.fromkeys(entry for entries in lists for entry in entries))


def listed(layers: Sequence[int]) -> str:
    """Return '1, 5' for a ladder's name."""
    return ', '.join(map(str, layers))
