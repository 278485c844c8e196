"""Checks of arguments: each returns the value it was given, or raises ConfigError: "X must be ..., got ..."."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from mmseg_tr.errors import ConfigError

BATCH_RULES = ('per_image', 'joint')
PRECISIONS = ('float32', 'float64')
_WORDS = {0: 'a non-negative integer', 1: 'a positive integer'}


def is_integer(value: Any) -> bool:
    """Whether a value is an int; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite int or float; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_integer(name: str, value: Any, least: int = 0, most: int | None = None, hint: str = '') -> int:
    """Return an integer from `least` to `most`. hint: end of the message, such as 'or None for all'."""
    if is_integer(value) and value >= least and (most is None or value <= most):
        return value
    what = _WORDS.get(least, f'an integer of {least} or more') if most is None else f'an integer from {least} to {most}'
    raise ConfigError(f'{name} must be {what}{hint and f", {hint}"}, got {value!r}.')


def check_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    open_below: bool = False,
    open_above: bool = False,
    hint: str = '',
) -> float:
    """Return a finite number from `least` to `most`; open_below, open_above: the limit itself is not allowed."""
    fits = is_number(value) and least <= value <= most
    if fits and not (open_below and value == least) and not (open_above and value == most):
        return value
    limits = [f'above {least}' if open_below else f'at least {least}'] if least > -math.inf else []
    limits += [f'below {most}' if open_above else f'at most {most}'] if most < math.inf else []
    what = ' '.join(['a number', ' and '.join(limits)]).strip()
    raise ConfigError(f'{name} must be {what}{hint and f", {hint}"}, got {value!r}.')


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Return one of the allowed values."""
    # arrays compare element by element
    if not any(isinstance(value, type(option)) and value == option for option in allowed):
        raise ConfigError(f'{name} must be one of {", ".join(map(repr, allowed))}, got {value!r}.')
    return value


def check_precision(precision: Any) -> str:
    """Return the precision in which a method decides. Raises ConfigError."""
    return check_choice('precision', precision, PRECISIONS)


def check_flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f'{name} must be True or False, got {value!r}.')
    return value


def check_pair(name: str, value: Any, what: str, least: int = 1) -> tuple[int, int]:
    """Return two integers of `least` or more as a tuple. what: the pair in words, '(rows, columns), such as (2, 2)'."""
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(is_integer(side) and side >= least for side in pair):
        raise ConfigError(f'{name} must be {what}, got {value!r}.')
    return pair


def check_layers(layers: Any, depth: int | None = None) -> tuple[int, ...]:
    """Return layer numbers (from 1) in ascending order as a tuple. Each is a layer of the backbone and comes once."""
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise ConfigError(f'layers must be a list of layer numbers such as (1, 5), got {layers!r}.')
    layers = tuple(layers)
    for layer in layers:
        check_layer(f'layers={layers}: a layer', layer, depth)
    if not layers:
        raise ConfigError('layers must name at least one layer, got (): reduction=None is the plain model.')
    if len(set(layers)) < len(layers):
        raise ConfigError(f'layers must name each layer once, got {layers}.')
    if list(layers) != sorted(layers):
        raise ConfigError(f'layers must ascend, such as {tuple(sorted(layers))}, got {layers}.')
    return layers


def check_counts(
    name: str, value: Any, layers: tuple[int, ...], what: str, spread: bool = False
) -> tuple[int, ...] | None:
    """Return a non-negative integer per entry of `layers`, None for None; warn if all are 0.

    what: the numbers in words. spread: a single integer is for every layer.
    """
    if value is None:
        return None
    given = (value,) * len(layers) if spread and is_integer(value) else value
    counts = tuple(given) if isinstance(given, list | tuple) else ()
    if len(counts) != len(layers) or not all(is_integer(count) and count >= 0 for count in counts):
        raise ConfigError(
            f'{name} must hold a non-negative integer for each of layers={layers}, {what}, got {value!r}.'
        )
    if not any(counts):
        warnings.warn(f'{name}={counts}: nothing merges.', stacklevel=4)
    return counts


def check_layer(name: str, layer: Any, depth: int | None = None) -> int:
    """Return the number of a layer, from 1 to the depth of the backbone."""
    return check_integer(name, layer, 1, depth, hint=f'as the backbone has {depth} layers' if depth else '')


def check_tokens(tokens: Any, count: int, most: int, falls: bool = True) -> tuple[int, ...]:
    """Return numbers of patch tokens, one per layer that reduces, each at most `most`.

    falls: each is at most the one before, as tokens that left do not come back.
    """
    numbers = (tokens,) if is_integer(tokens) else tuple(tokens) if isinstance(tokens, list | tuple) else ()
    if len(numbers) != count or not all(is_integer(number) and number >= 1 for number in numbers):
        raise ConfigError(f'tokens must be {count} positive integers, one for each layer that reduces, got {tokens!r}.')
    if max(numbers) > most:
        raise ConfigError(f'tokens must be at most the {most} patches, got {tokens!r}.')
    if falls and any(later > earlier for earlier, later in zip(numbers, numbers[1:])):
        raise ConfigError(f'tokens must not grow from layer to layer, got {tokens!r}.')
    return numbers


def check_left(name: str, left: int, before: int) -> int:
    """Return how many of `before` tokens leave; a merge of pairs leaves at least half. name: of the layer."""
    if before - left > before // 2:
        raise ConfigError(f'tokens must be {before - before // 2} or more after {name}, half of {before}, got {left}.')
    return before - left


def check_rectangle(tokens: Any, grid: tuple[int, int]) -> tuple[int, int]:
    """Return (rows, columns), at least half of a grid's sides, of at most these tokens, nearest to the grid's shape."""
    (asked,) = check_tokens(tokens, 1, math.prod(grid))
    fitting = [
        (abs(rows / grid[0] - columns / grid[1]), (rows, columns))
        for rows in range(grid[0] - grid[0] // 2, grid[0] + 1)
        if (columns := min(asked // rows, grid[1])) >= grid[1] - grid[1] // 2
    ]
    if not fitting:
        least = math.prod(side - side // 2 for side in grid)
        raise ConfigError(f'tokens must be {least} or more, a quarter of the grid {tuple(grid)}, got {asked}.')
    return min(fitting)[1]
