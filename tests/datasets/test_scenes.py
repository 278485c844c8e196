"""Photo mosaics as plain arrays: the same everywhere, real pixels, exact labels, regions of many kinds."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.analysis import photographs
from mmseg_tr.analysis.photographs import NAMES, load_photographs, photograph_part
from mmseg_tr.datasets.scenes import cut_regions, make_scene, zoom_for
from mmseg_tr.errors import ConfigError
from tests.photographs import keep_only

DIGEST = """
import hashlib, sys
from mmseg_tr.datasets.scenes import make_scene
for index in reversed(range(4)):
    make_scene((24, 56), 9, 'train', index)
for index in range(4):
    print(*(hashlib.sha256(array.tobytes()).hexdigest() for array in make_scene((40, 56), 3, 'val', index)))
"""


@pytest.mark.parametrize('hash_seed', ['0', '77'])
def test_another_process_draws_the_same_scenes(hash_seed):
    environment = dict(os.environ, PYTHONHASHSEED=hash_seed)
    done = subprocess.run([sys.executable, '-c', DIGEST], capture_output=True, text=True, env=environment, check=True)
    here = [
        hashlib.sha256(a.tobytes()).hexdigest() for index in range(4) for a in make_scene((40, 56), 3, 'val', index)
    ]
    assert done.stdout.split() == here


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 2**40),
    split=st.sampled_from(['train', 'val']),
    index=st.integers(0, 10**9),
)
def test_any_scene_of_any_size_is_complete_and_repeats(size, seed, split, index):
    image, label = make_scene(size, seed, split, index)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert label.shape == size and label.dtype == np.uint8 and label.max() < len(NAMES)
    again = make_scene(size, seed, split, index)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])


def test_seed_split_and_index_each_give_another_scene():
    which = [(0, 'train', 0), (1, 'train', 0), (0, 'val', 0), (0, 'train', 1)]
    assert len({make_scene((32, 32), *one)[0].tobytes() for one in which}) == 4


@pytest.mark.parametrize('split', ['train', 'val'])
def test_scenes_show_nothing_of_the_other_split(split, monkeypatch):
    sizes = [(64, 64), (40, 300)]
    before = [make_scene(size, 0, split, index)[0] for size in sizes for index in range(10)]
    keep_only(split, monkeypatch)
    photograph_part.cache_clear()
    after = [make_scene(size, 0, split, index)[0] for size in sizes for index in range(10)]
    photograph_part.cache_clear()
    for expected, image in zip(before, after):
        np.testing.assert_array_equal(image, expected)


def test_labels_tell_which_photograph_a_pixel_is_from(monkeypatch):
    grey = [np.full_like(pixels, 20 * (place + 1)) for place, pixels in enumerate(load_photographs().values())]
    monkeypatch.setattr(photographs, '_photographs', lambda: tuple(grey))
    monkeypatch.setattr('mmseg_tr.datasets.scenes.BRIGHTNESS', (1.0, 1.0))
    monkeypatch.setattr('mmseg_tr.datasets.scenes.TINT', 0.0)
    photograph_part.cache_clear()
    scenes = [make_scene((50, 70), 5, 'train', index) for index in range(5)]
    photograph_part.cache_clear()
    for image, label in scenes:
        np.testing.assert_array_equal(image, np.repeat(20 * (label[..., None] + 1), 3, axis=2))


def test_regions_are_large_and_small_and_some_are_thin():
    shares, thin = [], 0
    for seed in range(60):
        regions = cut_regions((128, 128), np.random.default_rng(seed))
        areas = np.bincount(regions.ravel())
        shares += list(areas[areas > 0] / regions.size)
        for number in np.flatnonzero(areas):
            mask = np.pad(regions == number, 1)
            # A region without any pixel 6 steps inside its border is nowhere wider than 12 pixels.
            for _ in range(6):
                mask[1:-1, 1:-1] &= mask[2:, 1:-1] & mask[:-2, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2]
            thin += areas[number] > 300 and not mask.any()
    shares = np.array(shares)
    assert (shares > 0.3).sum() > 60 and (shares < 0.05).sum() > 15 and thin > 15


def test_every_class_appears_about_as_often():
    counts = np.zeros(len(NAMES))
    for index in range(150):
        counts[np.unique(make_scene((32, 32), 0, 'train', index)[1])] += 1
    assert counts.min() > 35


def test_shapes_do_not_depend_on_the_scale():
    small = make_scene((64, 96), 0, 'train', 4)[1]
    large = make_scene((192, 288), 0, 'train', 4)[1]
    assert (large[1::3, 1::3] == small).mean() > 0.97


def test_photographs_grow_with_the_scene_but_not_without_end():
    assert [zoom_for(size) for size in [(16, 16), (128, 256), (288, 512), (4096, 2048)]] == [1.0, 1.0, 1.5, 1.5]


@pytest.mark.parametrize('size', [(0, 8), (8, -1), (8,), (8, 8, 3), 8, (8.5, 8), None])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ConfigError, match=r'size .*\(height, width\)'):
        make_scene(size, 0, 'train', 0)


def test_unknown_split_seed_and_index_are_refused():
    with pytest.raises(ConfigError, match="'train' or 'val', got 'test'"):
        make_scene((8, 8), 0, 'test', 0)
    with pytest.raises(ConfigError, match='seed .*-1'):
        make_scene((8, 8), -1, 'train', 0)
    with pytest.raises(ConfigError, match='index .*-3'):
        make_scene((8, 8), 0, 'train', -3)
