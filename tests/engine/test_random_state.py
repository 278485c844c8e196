"""Random states are plain values, and setting them repeats what was drawn."""

import io
import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.engine.random_state import RestoredIterator, random_state, set_random_state

DRAWS = {
    'python': random.random,
    'gauss': lambda: random.gauss(0, 1),
    'numpy': lambda: float(np.random.rand()),
    'normal': lambda: float(np.random.standard_normal()),
    'torch': lambda: float(torch.rand(())),
    'dropout': lambda: float(torch.nn.functional.dropout(torch.ones(9)).sum()),
}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(DRAWS)), max_size=6),
    st.lists(st.sampled_from(sorted(DRAWS)), min_size=1, max_size=6),
)
def test_a_state_that_went_through_a_file_repeats_every_draw(before, after):
    for name in before:
        DRAWS[name]()
    file = io.BytesIO()
    torch.save(random_state(), file)
    drawn = [DRAWS[name]() for name in after]
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert [DRAWS[name]() for name in after] == drawn


def test_batches_that_were_trained_are_passed_over_before_the_state_is_set():
    state = random_state()
    wanted = DRAWS['torch']()
    for whole in (False, True):  # one by one, as mmengine, or at once, as onedl-mmengine
        batches = RestoredIterator(iter([DRAWS['torch'] for _ in range(5)]), 3, state)
        if whole:
            batches.skip_iter(3)
        else:
            assert [next(batches)() for _ in range(3)] != [wanted] * 3
        assert next(batches)() == wanted
        assert next(batches)() != wanted
