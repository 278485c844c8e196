"""Image files that a user names: below folders, linked ones too, without what editors leave behind; and batches."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_tr.apis.images import files_below, find_pictures
from mmseg_tr.errors import DatasetError


def write(path, height: int = 20, width: int = 20, seed: int = 0, mode: str = 'RGB'):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def test_linked_folders_are_followed_and_hidden_files_are_not_taken(tmp_path):
    folder, elsewhere = tmp_path / 'pictures', tmp_path / 'elsewhere'
    for path in ('b.png', 'a/0.PNG', '.hidden/x.png', '.ipynb_checkpoints/b.png', '._b.png'):
        write(folder / path.lower())
    write(elsewhere / 'c.jpg')
    os.symlink(elsewhere, folder / 'linked')
    os.symlink(folder, folder / 'back')
    (folder / 'labels.txt').write_text('not an image')
    names = [file.relative_to(folder).as_posix() for file in files_below(folder)]
    assert names == ['a/0.png', 'b.png', 'linked/c.jpg']


def test_pictures_keep_their_path_below_the_folder(tmp_path):
    for name in ('a/0.png', 'b/0.png'):
        write(tmp_path / name)
    pictures, failures = find_pictures([tmp_path])
    assert [picture.name.as_posix() for picture in pictures] == ['a/0.png', 'b/0.png'] and not failures
    with pytest.raises(DatasetError, match='would both be written to 0.png'):
        find_pictures([tmp_path / 'a', tmp_path / 'b'])


class TestBatch:
    """Batches for measurements."""

    @pytest.fixture(scope='class')
    def load(self, tmp_path_factory):
        pytest.importorskip('mmseg')
        from mmseg_tr.apis.build import build_model, load_batch
        from mmseg_tr.apis.config import load_config
        from tests.tiny import write_config

        config = load_config(write_config(tmp_path_factory.mktemp('config'), 'nowhere'))
        model = build_model(config, None)

        def load(folder, shape, count, needed=1):
            return load_batch(config, model, None if folder is None else str(folder), shape, count, needed)

        return load

    def test_the_bundled_photographs_are_all_different(self, load):
        pytest.importorskip('skimage')
        images = load(None, (48, 64), 8)
        assert images.shape == (8, 3, 48, 64) and images.dtype == torch.float32
        assert len({image.numpy().tobytes() for image in images}) == 8

    def test_a_folder_is_read_in_order_with_any_sizes_and_modes(self, load, tmp_path):
        write(tmp_path / 'b.png', 30, 90, 1, 'L')
        write(tmp_path / 'a.png', 50, 40, 2, 'RGBA')
        write(tmp_path / 'c.jpg', 200, 300, 3)
        images = load(tmp_path, (48, 64), 2)
        assert images.shape == (2, 3, 48, 64)
        assert torch.equal(images[1, 0], images[1, 1])  # the grey one comes second

    def test_a_picture_that_is_there_twice_counts_once(self, load, tmp_path):
        for name, seed in (('a.png', 1), ('b.png', 1), ('c.png', 2)):
            write(tmp_path / name, seed=seed)
        assert len(load(tmp_path, (20, 20), 8)) == 2
        with pytest.raises(DatasetError, match='holds 2'):
            load(tmp_path, (20, 20), 8, needed=3)

    def test_a_folder_that_is_missing_or_empty_is_refused(self, load, tmp_path):
        with pytest.raises(DatasetError, match=r'there is no folder .*nowhere'):
            load(tmp_path / 'nowhere', (8, 8), 1)
        (tmp_path / 'notes.txt').write_text('')
        with pytest.raises(DatasetError, match='holds no image'):
            load(tmp_path, (8, 8), 1)
