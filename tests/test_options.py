"""Options objects hold values of their fields' types."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from mmseg_tr.errors import ConfigError
from mmseg_tr.options import Options


@dataclass(frozen=True)
class Some(Options):
    count: int | None = None
    share: float = 0.5
    flag: bool = False
    folder: str | os.PathLike = '.'
    sizes: Sequence[tuple[int, int]] = ()
    names: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = None
    tell: Callable[[str], None] = print


@pytest.mark.parametrize(
    ('field', 'value', 'wanted'),
    [
        ('count', '3', 'count must be an integer or None'),
        ('count', True, 'count must be an integer or None'),
        ('share', float('nan'), 'share must be a number'),
        ('share', 10**400, 'share must be a number'),
        ('flag', 1, 'flag must be True or False'),
        ('folder', 5, 'folder must be text or a path'),
        ('sizes', [(1, 2, 3)], 'sizes must be a list'),
        ('names', 'abc', 'names must be a list'),
        ('settings', {1: 2}, 'settings must be a dict or None'),
        ('tell', 'print', 'tell must be a function'),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(field, value, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        replace(Some(), **{field: value})
    assert caught.value.parameters == (field,)


def test_what_fits_is_kept_and_numbers_of_numpy_become_plain_ones(tmp_path):
    some = Some(np.int64(3), np.float32(0.5), folder=tmp_path, sizes=[[1, 2]], names=['a'], settings={'a': 1})
    assert (type(some.count), type(some.share)) == (int, float) and some.folder is tmp_path
    assert Some(share=1) == Some(share=1.0)
