"""Windows, small images, flips and scales."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.inference import (
    average_windows,
    enlarge_to_window,
    pad_to_multiple,
    predict_views,
    slide,
    view_probabilities,
    window_anchors,
    window_size_of_image,
)
from tests.nn.networks import image

few = settings(derandomize=True, deadline=None, max_examples=40)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def pixelwise(crops: torch.Tensor) -> torch.Tensor:
    """Logits that depend on the pixel alone: every window agrees on them."""
    return torch.cat([crops, crops.square()], 1)


@few
@given(size=sizes, window=st.integers(1, 20), data=st.data())
def test_windows_that_agree_give_the_whole_image(size, window, data):
    stride, batch = data.draw(st.integers(1, window)), data.draw(st.integers(1, 5))
    x = image(2, 3, *size)
    found = slide(pixelwise, x, (window, window), (stride, stride), batch)
    torch.testing.assert_close(found, pixelwise(x))


@few
@given(size=sizes, window=st.integers(1, 20), data=st.data())
def test_every_pixel_is_covered_and_every_window_lies_inside(size, window, data):
    window = min(window, *size)
    stride = data.draw(st.integers(1, window))
    covered = torch.zeros(size)
    for y, x in window_anchors(size, (window, window), (stride, stride)):
        assert y + window <= size[0] and x + window <= size[1]
        covered[y : y + window, x : x + window] += 1
    assert covered.min() >= 1


def test_number_of_windows_in_a_batch_changes_nothing():
    x = image(1, 3, 30, 50)
    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    one, many = (slide(conv, x, (16, 16), (12, 12), batch) for batch in (1, 100))
    torch.testing.assert_close(one, many)


def test_overlapping_windows_are_averaged_by_pixel():
    windows = [torch.full((1, 1, 2, 2), value) for value in (1.0, 3.0)]
    found = average_windows(windows, [(0, 0), (0, 1)], (2, 3))
    assert found[0, 0].tolist() == [[1, 2, 3], [1, 2, 3]]


def test_window_shrinks_to_an_image_that_is_smaller():
    seen = []
    slide(lambda crops: seen.append(tuple(crops.shape)) or crops, image(1, 3, 10, 40), (16, 16), (12, 12))
    assert set(seen) == {(1, 3, 10, 16)}


@pytest.mark.parametrize('stride', [(17, 16), (16, 0), (-1, 4)])
def test_strides_that_leave_gaps_are_refused(stride):
    with pytest.raises(ConfigError, match='must be between 1 and the window'):
        slide(pixelwise, image(1, 3, 40, 40), (16, 16), stride)


@few
@given(size=sizes, window=st.integers(1, 60))
def test_images_are_only_ever_enlarged(size, window):
    new = window_size_of_image(*size, window)
    assert min(new) == max(min(size), window)
    if min(size) >= window:
        assert new == size
    ratio = max(size) / min(size)
    assert abs(max(new) / min(new) - ratio) <= 1 / min(new) + 1e-6


def test_images_as_large_as_the_window_are_handed_on():
    x = image(1, 3, 16, 20)
    assert enlarge_to_window(x, 16) is x and pad_to_multiple(x, (4, 4)) is x
    assert enlarge_to_window(image(1, 3, 8, 20), 16).shape == (1, 3, 16, 40)


def test_padding_is_zero_and_at_the_bottom_right():
    padded = pad_to_multiple(torch.ones(1, 1, 3, 5), (4, 2))
    assert padded.shape == (1, 1, 4, 6) and padded[..., :3, :5].eq(1).all() and padded.sum() == 15


def test_flipped_views_are_flipped_back():
    x = image(1, 3, 32, 48)
    single, both = (
        predict_views(pixelwise, views, (32, 48), 16, 12) for views in ([(x, False)], [(x, False), (x.flip(-1), True)])
    )
    torch.testing.assert_close(single, both)
    torch.testing.assert_close(both.sum(1), torch.ones(1, 32, 48))


def test_probabilities_are_taken_after_resizing():
    logits = image(1, 3, 4, 4) * 5
    resized = torch.nn.functional.interpolate(logits, size=(9, 7), mode='bilinear', align_corners=False)
    torch.testing.assert_close(view_probabilities(logits, (9, 7)), resized.softmax(1))
