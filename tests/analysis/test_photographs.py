"""The photographs inside scikit-image and scikit-learn, their two parts, and batches of them."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.analysis import photographs
from mmseg_tr.analysis.photographs import (
    NAMES,
    Photograph,
    load_photographs,
    mirror_crop,
    part_window,
    photograph_batch,
    photograph_part,
    photograph_path,
)
from mmseg_tr.errors import ConfigError, DatasetError, MissingExtraError
from tests.photographs import keep_only


def test_all_eleven_are_there_in_rgb():
    loaded = load_photographs()
    assert tuple(loaded) == NAMES and len(NAMES) == 11
    for pixels in loaded.values():
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        assert min(pixels.shape[:2]) >= 190


def test_a_caller_cannot_change_them():
    with pytest.raises(ValueError):
        load_photographs()['cat'][0, 0] = 0
    load_photographs().clear()
    assert len(load_photographs()) == 11


def test_needs_no_framework_and_does_not_import_what_could_download():
    code = (
        'import sys; from mmseg_tr.analysis.photographs import photograph_batch; photograph_batch(3, (8, 8)); '
        "names = 'mmengine mmcv mmseg torch skimage sklearn pooch'.split(); "
        'sys.exit(str([name for name in names if name in sys.modules]) if any(map(sys.modules.get, names)) else 0)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', NAMES)
def test_the_two_parts_share_no_pixel_and_leave_none_out(name):
    taken = np.zeros(load_photographs()[name].shape[:2], int)
    taken[part_window(name, 'train')] += 1
    assert 0.57 < taken.mean() < 0.65
    taken[part_window(name, 'val')] += 1
    assert (taken == 1).all()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_resizing_a_part_takes_nothing_from_the_other(split, monkeypatch):
    before = [photograph_part.__wrapped__(name, split, 0.6) for name in NAMES]
    keep_only(split, monkeypatch)
    for name, expected in zip(NAMES, before):
        np.testing.assert_array_equal(photograph_part.__wrapped__(name, split, 0.6), expected)


def test_unknown_part_is_refused():
    with pytest.raises(ConfigError, match="brick.*'dog'"):
        part_window('dog', 'train')
    with pytest.raises(ConfigError, match="'train' or 'val', got 'test'"):
        part_window('cat', 'test')


def test_a_file_that_is_missing_is_named():
    with pytest.raises(DatasetError, match="scikit-image has no file 'data/dog.png'.*'dog'"):
        photograph_path(Photograph('dog', 'skimage', 'data/dog.png'))


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(MissingExtraError, match=r'skimage is needed.*mmseg_tr\[demo\]'):
        photograph_path(photographs.PHOTOGRAPHS[0])


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    damaged = tmp_path / 'cat.png'
    damaged.write_bytes(photograph_path(photographs.PHOTOGRAPHS[5]).read_bytes()[:5000])
    monkeypatch.setattr(photographs, 'photograph_path', lambda photograph: damaged)
    with pytest.raises(DatasetError, match=r'cat\.png'):
        photographs._read(photographs.PHOTOGRAPHS[5])


@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    corner=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_mirroring_continues_a_picture_as_numpy_would(sides, corner, size):
    pixels = np.arange(sides[0] * sides[1] * 3, dtype=np.uint8).reshape(*sides, 3)
    endless = np.pad(pixels, ((0, 26), (0, 26), (0, 0)), mode='symmetric')
    expected = endless[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    np.testing.assert_array_equal(mirror_crop(pixels, corner, size), expected)


@pytest.mark.parametrize(
    ('n', 'shape'), [(1, (64, 64)), (11, (48, 80)), (50, (33, 17)), (4, (512, 512)), (2, (300, 900))]
)
def test_a_batch_holds_different_crops(n, shape):
    batch = photograph_batch(n, shape)
    assert batch.shape == (n, 3, *shape) and batch.dtype == np.uint8
    assert len({crop.tobytes() for crop in batch}) == n
    assert all(crop.std() > 5 for crop in batch)


def test_a_batch_is_the_same_every_time_and_grows_at_its_end():
    np.testing.assert_array_equal(photograph_batch(14, (40, 40))[:5], photograph_batch(5, (40, 40)))


def test_a_small_batch_is_colourful():
    batch = photograph_batch(4, (64, 64)).astype(int)
    assert all((crop.max(0) - crop.min(0)).mean() > 15 for crop in batch)


@pytest.mark.parametrize(('n', 'shape'), [(0, (8, 8)), (2, (0, 8)), (2, (8, -1)), (2, (8,))])
def test_an_impossible_batch_is_refused(n, shape):
    with pytest.raises(ConfigError, match='1 or more'):
        photograph_batch(n, shape)


def test_more_crops_than_can_differ_are_refused():
    with pytest.raises(ConfigError, match='use larger images'):
        photograph_batch(5000, (1, 1))
