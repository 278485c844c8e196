"""Images for measurements: all different, cut to shape, and refused by name when they cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_tr.apis.images import normalise, read_images
from mmseg_tr.errors import DatasetError


def write(path, height: int, width: int, seed: int, mode: str = 'RGB'):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def test_the_bundled_photographs_are_all_different():
    images = read_images(None, (48, 64), 8)
    assert images.shape == (8, 3, 48, 64)
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_a_folder_is_read_in_order_whatever_sizes_and_modes_its_images_have(tmp_path):
    write(tmp_path / 'b.png', 30, 90, 1, 'L')
    write(tmp_path / 'a.PNG', 50, 40, 2, 'RGBA')
    write(tmp_path / 'c.jpg', 200, 300, 3)
    (tmp_path / 'labels.txt').write_text('not an image')
    images = read_images(tmp_path, (48, 64), 2)
    assert images.shape == (2, 3, 48, 64)
    assert images.dtype == torch.uint8
    assert torch.equal(images[1, 0], images[1, 1])  # the grey one comes second


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path):
    write(tmp_path / 'a.png', 48, 64, 1)
    pixels = np.asarray(Image.open(tmp_path / 'a.png'))
    assert np.array_equal(read_images(tmp_path, (48, 64), 1)[0].permute(1, 2, 0), pixels)


def test_a_picture_that_is_there_twice_counts_once(tmp_path):
    for name, seed in (('a.png', 1), ('b.png', 1), ('c.png', 2)):
        write(tmp_path / name, 20, 20, seed)
    assert len(read_images(tmp_path, (20, 20), 8)) == 2


def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r'there is no folder .*nowhere'):
        read_images(tmp_path / 'nowhere', (8, 8), 1)
    (tmp_path / 'notes.txt').write_text('')
    with pytest.raises(DatasetError, match='holds no image'):
        read_images(tmp_path, (8, 8), 1)


@pytest.mark.parametrize('damage', ['truncated', 'foreign', 'empty'])
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage):
    write(tmp_path / 'good.png', 64, 64, 1)
    content = (tmp_path / 'good.png').read_bytes()
    damaged = dict(truncated=content[: len(content) // 2], foreign=b'no image at all', empty=b'')[damage]
    (tmp_path / 'bad.png').write_bytes(damaged)
    with pytest.raises(DatasetError, match=r'the image .*bad\.png cannot be read .*: repair or remove it'):
        read_images(tmp_path, (16, 16), 4)


def test_images_are_normalised_in_the_order_of_the_networks_channels():
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    assert normalise(images, mean, std).flatten().tolist() == [9.0, 9.0, 9.0]
    assert normalise(images, mean, std, bgr=True).flatten().tolist() == pytest.approx([29.0, 9.0, 7 / 3])
