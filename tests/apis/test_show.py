"""What merges over a whole picture: groups of all windows on one grid, thin pictures, files of odd kinds."""

import struct

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from PIL import Image

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.show.layers import cell_of, merged_layers
from mmseg_tr.apis.show.merging import enlarged, show_merging
from mmseg_tr.apis.show.view import LARGEST, View
from mmseg_tr.errors import DatasetError
from tests.pictures import PIPELINES, folder, settings

TOME = dict(
    type='mmseg_tr.ViT',
    arch=dict(embed_dim=16, depth=2, num_heads=2, patch_size=8),
    img_size=32,
    out='tokens',
    reduction=dict(type='ToMe', r=[4, 3]),
)


@pytest.fixture(scope='module')
def view(tmp_path_factory):
    config = settings(folder(tmp_path_factory.mktemp('data')), backbone=TOME)
    torch.manual_seed(0)
    return View.of(config, build_model(config, None).eval())


def entered(view, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return view.enter(view.reader.load(pixels))


def test_one_window_shows_its_own_groups(view):
    picture = entered(view, 32, 32)
    with torch.inference_mode():
        (first, last), found = merged_layers(view, picture), view.network.watch(picture.windows.crop(0))
    assert np.array_equal(first.groups, found[0].groups) and np.array_equal(last.groups, found[1].groups)
    assert (first.tokens, first.patches, last.tokens) == (12, 16, 9)


def test_windows_are_put_together_where_their_centre_is_nearest(view):
    picture = entered(view, 32, 77)
    anchors = picture.windows.anchors
    assert anchors == ((0, 0), (0, 24), (0, 45))
    with torch.inference_mode():
        (layer, _), found = (
            merged_layers(view, picture),
            [view.network.watch(picture.windows.crop(number))[0] for number in range(3)],
        )
    assert layer.groups.shape == (4, 77)  # 45 is no multiple of a patch, so columns are single pixels
    for number, (_, left) in enumerate(anchors):
        own = [x for x in range(77) if np.argmin([abs(x + 0.5 - (start + 16)) for _, start in anchors]) == number]
        drawn = layer.groups[:, own].reshape(-1)
        merged = found[number].groups[:, [(x - left) // 8 for x in own]].reshape(-1)
        assert np.array_equal(drawn[:, None] == drawn, merged[:, None] == merged)
    assert layer.tokens == sum(entry.tokens for entry in found) and layer.patches == 48
    ids = [set(np.unique(layer.groups[:, left:right])) for left, right in ((0, 27), (29, 50), (52, 77))]
    assert not (ids[0] & ids[1]) and not (ids[1] & ids[2])  # windows do not share groups


@pytest.mark.parametrize(('height', 'width'), [(33, 41), (40, 56), (20, 30), (7, 9)])
def test_groups_lie_evenly_over_pictures_of_any_size(view, height, width):
    picture = entered(view, height, width)
    with torch.inference_mode():
        for layer in merged_layers(view, picture):
            assert all(side % cells == 0 for side, cells in zip(picture.pixels.shape, layer.groups.shape))
            assert layer.groups.min() >= 0
        coarse = merged_layers(view, picture, limit=50)[0]
    assert coarse.groups.size <= 80


def test_cells_of_later_stages_are_powers_of_two():
    assert [cell_of(96, cells, 32) for cells in (24, 12, 6, 3)] == [4, 8, 16, 32]
    assert cell_of(100, 8, 14) == 14


def test_thin_pictures_end_in_pictures_or_in_a_sentence(view, tmp_path):
    Image.fromarray(np.zeros((1, 100, 3), np.uint8)).save(tmp_path / 'thin.png')
    Image.fromarray(np.zeros((3, 60000, 3), np.uint8)).save(tmp_path / 'long.png')
    done, failures = show_merging(view, [tmp_path / 'thin.png', tmp_path / 'long.png'], tmp_path / 'out', layers=[1])
    assert done == 1 and [failure.path.name for failure in failures] == ['long.png']
    assert '60000x3' in failures[0].reason and str(LARGEST) in failures[0].reason
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['thin']


def test_small_pictures_are_enlarged_but_never_beyond_what_a_sheet_needs():
    assert enlarged(np.zeros((32, 48, 3), np.uint8)).shape == (512, 768, 3)
    assert enlarged(np.zeros((8, 64000, 3), np.uint8)).shape[0] <= 24


def test_results_keep_their_path_below_the_folder(view, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / 'in' / name).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / 'in' / name / '0.png')
    assert show_merging(view, [tmp_path / 'in'], tmp_path / 'out', layers=[2])[0] == 2
    assert sorted(path.parent.parent.name for path in (tmp_path / 'out').rglob('sheet.png')) == ['a', 'b']


@pytest.mark.parametrize('kind', ['tiff float', 'tiff header', 'tiff tag', 'gif', 'huge'])
def test_files_of_odd_kinds_are_read_or_refused_in_a_sentence(kind, view, tmp_path):
    path = tmp_path / ('a.gif' if kind == 'gif' else 'a.tif')
    if kind == 'tiff float':
        Image.fromarray(np.random.default_rng(0).random((32, 32), np.float32)).save(path)
    elif kind == 'tiff header':
        path.write_bytes(b'II*\0' + struct.pack('<I', 8) + b'\xff' * 40)
    elif kind == 'tiff tag':
        path.write_bytes(b'II*\0' + struct.pack('<IHHHII', 8, 1, 256, 13, 2**31, 0) + bytes(8))
    elif kind == 'gif':
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    else:
        path.write_bytes(
            b'II*\0' + struct.pack('<IHHHIIHHII', 8, 2, 256, 4, 1, 2**31 - 1, 257, 4, 1, 2**31 - 1) + bytes(8)
        )
    try:
        loaded = view.reader.load(path)
    except DatasetError as error:
        assert str(path) in str(error)
    else:
        assert view.enter(loaded).pixels.dtype == np.uint8


def test_the_side_shows_a_picture_whole(view, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    picture = view.enter(view.reader.load(pixels), side=16)
    assert picture.windows.size == (16, 32) and picture.windows.anchors == ((0, 0),)
    assert picture.scale == '80x40 pixels enter whole as 32x16'


def test_a_resize_of_the_pipeline_counts(tmp_path):
    config = settings(folder(tmp_path), backbone=TOME, pipeline=PIPELINES['resized'])
    view = View.of(config, build_model(config, None).eval())
    picture = view.enter(view.reader.load(tmp_path / 'images' / '0.png'))
    assert picture.scale == '56x40 pixels enter as 67x48, in 6 windows of 32x32'
    assert picture.pixels.shape == (48, 67, 3)
