"""Options objects: dataclasses whose values are compared with the types of their fields when they are built."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmseg_tr.errors import ConfigError

_WORDS = {bool: 'True or False', int: 'an integer', float: 'a number', str: 'text', os.PathLike: 'a path'}
_WORDS[NoneType] = 'None'


class Options:
    """Base of the options objects. Subclasses that check more call super().__post_init__() first."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that is not of its field's type."""
        kinds = get_type_hints(type(self))
        for field in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            check_type(field.name, value, kinds[field.name])
            if isinstance(value, Real) and not isinstance(value, int | float):  # numpy's, which JSON does not take
                plain = int(value) if isinstance(value, Integral) else float(value)
                object.__setattr__(self, field.name, plain)


def check_type(name: str, value: Any, kind: Any) -> None:
    """Raise ConfigError for a value that is not of an annotated type."""
    if not fits(value, kind):
        raise ConfigError(f'{name} must be {in_words(kind)}, got {value!r}.', parameters=[name])


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type. Numbers are finite, and no text is a sequence."""
    whole, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if whole in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if whole is tuple and parts[-1] is not ...:
        return isinstance(value, list | tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if whole in (Sequence, tuple):
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return listed and all(fits(part, parts[0]) for part in value)
    if whole is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, parts[0]) and fits(part, parts[1]) for key, part in value.items()
        )
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and (abs(value) <= sys.float_info.max if isinstance(value, int) else math.isfinite(value))
    return isinstance(value, whole or kind)


def in_words(kind: Any) -> str:
    """Return an annotated type in words: 'an integer or None', 'a list of text'."""
    whole, parts = get_origin(kind), get_args(kind)
    if whole in (Union, UnionType):
        return ' or '.join(map(in_words, parts))
    if whole is tuple and parts[-1] is not ...:
        return f'({", ".join(map(in_words, parts))})'
    if whole in (Sequence, tuple):
        return f'a list, each {in_words(parts[0])}'
    if whole is Mapping:
        return 'a dict'
    if whole is Callable:
        return 'a function'
    return _WORDS.get(kind, getattr(kind, '__name__', str(kind)))
