"""The settings that tools/tune.py searches: ladders that reduce more with every step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction import find_method
from mmseg_tr.reduction.ladder import Grid, Ladder, Settings


def space(own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
    """Return the ladders of a method. The first holds the layers (or form) that `own` names.

    own: settings of the method, type included; what is not searched is kept. depth: layers of the backbone.
    grid: its patches, (h, w). Raises ConfigError for a method or settings without anything to search.
    """
    method = find_method(own.get('type'))
    found = [ladder for ladder in method.ladder(dict(own), depth, grid) if ladder.rungs]
    if not found:
        raise ConfigError(f'{method.name} has no setting to try on {depth} layers and {grid[0]}x{grid[1]} patches.')
    return found


def identity(settings: Settings | None) -> str:
    """Return a key that is the same for equal settings; tuples count as lists."""
    return json.dumps(settings, sort_keys=True)
