"""tools/check_dataset.py reads every file, prints classes and faults, and draws what it read."""

import json

import numpy as np
import pytest
from PIL import Image

from mmseg_tr.visualization.labels import draw_label
from tests.tiny import CLASSES, write_config, write_dataset
from tests.tools.command import call, mistake


@pytest.fixture
def place(tmp_path):
    write_config(tmp_path, write_dataset(tmp_path / 'data', 40))
    return tmp_path


def spoil(place, number, change):
    path = place / f'data/labels/{number:02d}.png'
    pixels = np.asarray(Image.open(path)).copy()
    Image.fromarray(change(pixels)).save(path)
    return path


def test_table_json_and_pictures_of_right_data(place, capsys):
    arguments = ['--json', place / 'found.json', '--out', place / 'drawn', '--samples', 3]
    assert call('check_dataset', place / 'tiny.py', *arguments) == 0
    printed = capsys.readouterr().out
    assert 'no fault' in printed and '32x32 (40)' in printed
    assert all(name in printed for name in CLASSES)
    found = json.loads((place / 'found.json').read_text())
    assert found['faults'] == 0
    (one, two) = found['datasets']  # train and test differ in test_mode; val is test
    assert (one['loop'], two['loop']) == ('train', 'val')
    assert one['decoded'] == one['headers'] == one['pictures'] == 40
    counted = sum(entry['pixels'] for entry in one['classes']) + one['ignored_pixels']
    assert counted == 40 * 32 * 32 and one['ignored_pixels'] == 40 * 32
    drawn = sorted((place / 'drawn/train').iterdir())
    assert len(drawn) == 3 and Image.open(drawn[0]).size == (32 + 4 + 32, 32)


def test_every_fault_of_every_file_is_found(place, capsys):
    for number in (5, 39):
        spoil(place, number, lambda pixels: np.where(pixels == 2, 9, pixels))
    spoil(place, 7, lambda pixels: pixels[:16])
    spoil(place, 9, lambda pixels: pixels[..., None].repeat(3, 2))
    (place / 'data/images/11.png').write_bytes((place / 'data/images/11.png').read_bytes()[:300])
    assert call('check_dataset', place / 'tiny.py', '--json', place / 'found.json') == 1
    faults = json.loads((place / 'found.json').read_text())['datasets'][0]['faults']
    assert {(fault['kind'], fault['file'].rpartition('/')[2]) for fault in faults} == {
        ('values', '05.png'),
        ('values', '39.png'),
        ('size', '07.png'),
        ('dimensions', '09.png'),
        ('file', '11.png'),
    }
    printed = capsys.readouterr().out
    assert all(fault['text'] in printed for fault in faults)


def test_heads_and_batches_are_checked_too(place, capsys):
    options = ['--cfg-options', 'model.decode_head.num_classes=2']
    assert call('check_dataset', place / 'tiny.py', *options) == 1
    assert 'num_classes=3' in capsys.readouterr().out
    for folder, size in (('images', (40, 50, 3)), ('labels', (40, 50))):
        Image.fromarray(np.zeros(size, np.uint8)).save(place / f'data/{folder}/01.png')
    assert call('check_dataset', place / 'tiny.py') == 1
    assert 'several sizes' in capsys.readouterr().out


def test_what_exists_is_not_replaced(place, capsys):
    (place / 'found.json').write_text('mine')
    assert 'exists already' in mistake(capsys, 'check_dataset', place / 'tiny.py', '--json', place / 'found.json')
    assert 'not empty' in mistake(capsys, 'check_dataset', place / 'tiny.py', '--out', place / 'data')
    assert (place / 'found.json').read_text() == 'mine'


@pytest.mark.parametrize('shape', [(30, 50, 3), (30, 50), (30, 50, 1), (30, 50, 5), (2000, 10, 3)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_pictures_of_any_channels_and_depth_are_drawn(shape, dtype):
    picture = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    drawn = draw_label(picture, np.full(shape[:2], 255, np.uint8), None)
    assert drawn.dtype == np.uint8 and max(drawn.shape[:2]) <= 2 * 640 + 4


def test_a_label_is_drawn_in_the_colours_of_its_dataset():
    drawn = draw_label(np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.uint8), [[0, 100, 0], [200, 0, 0]])
    np.testing.assert_array_equal(drawn[0, 8], [120, 0, 0])
    np.testing.assert_array_equal(drawn[0, 9], [0, 60, 0])
