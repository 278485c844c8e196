"""Labels from a few classes at a time: those of the best of all logits, averaged over windows and resized."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.nn.contenders import ScoreMap, Winner, contenders, in_parts
from mmseg_tr.nn.inference import average_windows, window_anchors
from tests.nn.test_labels import DTYPES, KINDS


def found(windows, anchors, size, original, align_corners):
    """Labels (B, H, W) as a segmentor finds them, and the classes that it compared."""
    sizes = [size, windows[0].covered, original]
    classes = contenders(windows, anchors, size, sizes)
    winners = [Winner() for _ in windows[0].scores]
    for part in in_parts(classes, math.prod(original), sizes):
        mean = average_windows([window.logits(part) for window in windows], anchors, size)
        for winner, image in zip(winners, mean):
            winner.add(resized(image[None], original, align_corners)[0], part)
    return torch.stack([winner.label for winner in winners]), classes


def resized(x, size, align_corners):
    return F.interpolate(x, size=size, mode='bilinear', align_corners=align_corners)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 2),
    classes=st.integers(2, 24),
    grid=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    patch=st.integers(8, 16),
    more=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    step=st.integers(20, 40),
    scale=st.floats(0.9, 3),
    align_corners=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_labels_equal_the_best_of_the_mean_logits(
    kind, seed, batch, classes, grid, patch, more, step, scale, align_corners, dtype
):
    """Also where windows overlap off the grid of patches, and with NaN and infinite scores."""
    window = (grid[0] * patch, grid[1] * patch)
    size = tuple(side + further for side, further in zip(window, more))
    anchors = window_anchors(size, window, (step, step))
    original = tuple(round(side * scale) for side in size)
    windows = [
        ScoreMap(
            KINDS[kind](seed + number, batch, classes, grid).to(dtype),
            window,
            lambda part: resized(part, window, align_corners),
            align_corners,
        )
        for number in range(len(anchors))
    ]
    everything = [window.enlarge(window.scores) for window in windows]
    expected = resized(average_windows(everything, anchors, size), original, align_corners).argmax(1)
    labels, _ = found(windows, anchors, size, original, align_corners)
    assert torch.equal(labels, expected)


def test_a_class_that_loses_everywhere_is_left_out_and_one_that_wins_at_a_patch_is_not():
    scores = torch.zeros(1, 20, 8, 8)
    scores[:, 3] = 1
    scores[:, 17, 2, 5], scores[:, 9, 7, 0], scores[:, 11, 0, 7] = 2, 2, 1  # 11 ties with 3
    window = ScoreMap(scores, (96, 96), lambda part: resized(part, (96, 96), False))
    labels, classes = found([window], [(0, 0)], (96, 96), (96, 96), False)
    assert classes.tolist() == [3, 9, 11, 17]
    assert torch.equal(labels, resized(scores, (96, 96), False).argmax(1))


@pytest.mark.parametrize('count', range(1, 30))
def test_parts_hold_every_class_once_and_never_three(count):
    """Torch enlarges three channels by other arithmetic than any other number."""
    for pixels in (1, 10**6, 3 * 10**6, 10**8):
        parts = in_parts(torch.arange(count), pixels, [(500, 500)])
        assert torch.cat(list(parts)).tolist() == list(range(count))
        assert all(len(part) != 3 for part in parts) or count == 3
        assert all(len(part) * pixels <= (1 << 24) + 5 * pixels for part in parts)
