"""Pictures of merged groups; the published style is compared with golden pictures in tests/parity/test_algm.py."""

import numpy as np
import pytest

from mmseg_tr.visualization.merging import draw_groups, outline_groups, show_groups

IMAGE = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
GROUPS = np.array([[0, 0, 1], [2, 0, 1]])


def test_outlines_stand_where_groups_end_and_nowhere_else():
    drawn = outline_groups(IMAGE, GROUPS)
    white = (drawn == 255).all(-1)
    assert white[:, 8].all()  # between columns of patches 1 and 2, in both rows
    assert white[4:, 4].all() and not white[:4, 4].any()
    assert white[4, :4].all() and not white[4, 5:8].any()
    assert np.array_equal(drawn[1, 1], IMAGE[1, 1])
    assert np.array_equal(outline_groups(IMAGE, np.zeros((2, 3), int)), IMAGE)


def test_the_picture_itself_is_left_alone():
    before = IMAGE.copy()
    for style in ('mean', 'outline'):
        show_groups(IMAGE, GROUPS, style)
    assert np.array_equal(IMAGE, before)


def test_patches_without_a_token_are_dark_in_both_styles():
    groups = np.array([[0, 0, 1], [-1, 0, 1]])
    for style in ('mean', 'outline'):
        assert np.array_equal(show_groups(IMAGE, groups, style)[4:, :4], IMAGE[4:, :4] // 4)


def test_a_picture_that_is_no_multiple_of_the_grid_is_refused():
    for draw in (draw_groups, outline_groups):
        with pytest.raises(ValueError, match='does not hold a patch grid'):
            draw(IMAGE, np.zeros((3, 3), int))
