"""What goes into a checkpoint is plain, and comes back as it was."""

import io
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmseg_tr.engine.plain import history_from_plain, to_plain


def saved_and_read(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_numbers_containers_and_paths_become_python_s_own():
    value = {
        'score': np.float64(0.5),
        'count': np.int64(3),
        'flag': np.bool_(True),
        'palette': np.arange(6).reshape(2, 3),
        'classes': ('a', 'b'),
        'names': {'x'},
        'path': Path('a/b'),
        'config': ConfigDict(type='A', parts=[ConfigDict(type='B')]),
        'tensor': torch.arange(3),
        'nothing': None,
    }
    dropped = []
    plain = saved_and_read(to_plain(value, dropped))
    assert dropped == []
    assert torch.equal(plain.pop('tensor'), torch.arange(3))
    assert plain == {
        'score': 0.5,
        'count': 3,
        'flag': True,
        'palette': [[0, 1, 2], [3, 4, 5]],
        'classes': ('a', 'b'),
        'names': ['x'],
        'path': 'a/b',
        'config': {'type': 'A', 'parts': [{'type': 'B'}]},
        'nothing': None,
    }
    assert type(plain['score']) is float


def test_what_has_no_plain_form_is_left_out_and_named():
    dropped = []
    assert to_plain({'keep': 1, 'inner': {'call': print, 'list': [object(), 2]}}, dropped, 'hub') == {
        'keep': 1,
        'inner': {'list': [2]},
    }
    assert dropped == ['hub.inner.call', 'hub.inner.list[0]']


def test_a_history_keeps_every_digit_and_its_limit():
    history = HistoryBuffer(max_length=3)
    for value in (0.1, 1 / 3, 2.0, 5e-300):
        history.update(value, 2)
    back = history_from_plain(saved_and_read(to_plain(history, [])))
    assert isinstance(back, HistoryBuffer)
    assert back.max_length == 3
    for old, new in zip(history.data, back.data):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)
    back.update(1.0)
    assert back.current() == 1.0


def test_other_values_pass_unchanged():
    assert history_from_plain({'log_history': 1}) == {'log_history': 1}
