"""Labels of superpatches for CTS's policy network, against a loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.datasets.policy_labels import policy_labels
from mmseg_tr.errors import DatasetError

SIDE = 2


def by_loop(labels, zero_is_ignore, share_ignored, ignore_mixed, ignore_mixed_border):
    height, width = labels.shape
    rows = []
    for y in range(0, height, SIDE):
        row = []
        for x in range(0, width, SIDE):
            values = {int(v) for v in labels[y : y + SIDE, x : x + SIDE].flatten()}
            values = {255 if v == 0 and zero_is_ignore else v for v in values}
            border = y in (0, height - SIDE) or x in (0, width - SIDE)
            if values == {255}:
                row.append(1 if share_ignored else 255)
            elif len(values) == 1:
                row.append(1)
            elif len(values) == 2 and 255 in values and (ignore_mixed or (ignore_mixed_border and border)):
                row.append(255)
            else:
                row.append(0)
        rows.append(row)
    return rows


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    h=st.integers(1, 4), w=st.integers(1, 4), seed=st.integers(0, 999),
    rules=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
)  # fmt: skip
def test_labels_are_those_of_the_loop(h, w, seed, rules):
    values = torch.tensor([0, 1, 255])
    random = torch.randint(0, 3, (2, h * SIDE, w * SIDE), generator=torch.Generator().manual_seed(seed))
    labels = values[random].to(torch.uint8)
    names = ('zero_is_ignore', 'share_ignored', 'ignore_mixed', 'ignore_mixed_border')
    found = policy_labels(labels, SIDE, **dict(zip(names, rules)))
    assert found.dtype == torch.int64
    assert found.tolist() == [by_loop(label, *rules) for label in labels]


def test_the_label_map_is_left_as_it_is():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    policy_labels(labels, SIDE, zero_is_ignore=True)
    assert not labels.any()


def test_maps_that_superpatches_do_not_tile_are_refused():
    with pytest.raises(DatasetError, match='70 x 64 pixels does not divide into superpatches of 32'):
        policy_labels(torch.zeros(1, 70, 64))
