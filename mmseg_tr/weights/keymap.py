"""Tables of renamed keys that read in both directions."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Prefixes = tuple[tuple[str, str], ...]  # (name on the left, name on the right), tried in this order
Value = TypeVar('Value')

# a plain Segmenter and its registered form: the same modules under different names
SEGMENTER_TO_SEGMENTOR: Prefixes = (('encoder.', 'backbone.'), ('decoder.', 'decode_head.decoder.'))


def rename(state: Mapping[str, Value], table: Prefixes) -> dict[str, Value]:
    """Exchange the prefix of every key by `table`; keys without any of its prefixes stay unchanged."""

    def new_name(key: str) -> str:
        for old, new in table:
            if key.startswith(old):
                return new + key[len(old) :]
        return key

    return {new_name(key): value for key, value in state.items()}


def backwards(table: Prefixes) -> Prefixes:
    """Return the same table read from right to left."""
    return tuple((new, old) for old, new in table)


def split(state: Mapping[str, Value], prefixes: Iterable[str]) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Split `state` into the entries without any of `prefixes` and the names of those with one."""
    prefixes = tuple(prefixes)
    kept = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    return kept, tuple(key for key in state if key.startswith(prefixes))


def count_layers(state: Iterable[str], layers: str) -> int:
    """Return the number of layers by the keys, '<layers>.<number>.'."""
    numbers = (re.match(rf'{re.escape(layers)}\.(\d+)\.', key) for key in state)
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)
