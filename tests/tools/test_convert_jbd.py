"""tools/convert_jbd.py on tables as they are published, with two athletes drawn for them."""

import json

import numpy as np
import pytest
from PIL import Image

from mmseg_tr.registry import DATASETS  # isort: skip (makes the OpenMMLab packages import)

from mmseg_tr.datasets.figure_drawing import draw_figure_scene
from mmseg_tr.datasets.figure_files import coco_annotations
from mmseg_tr.datasets.jump_csv import JOINTS
from tests.tools.command import call, mistake

SIZE = (64, 80)
FRAMES = {'train': [('0', '17'), ('12', '345')], 'val': [('3', '99999')]}
IDS = {'train': [17, 1200345], 'val': [399999]}
NAMES = {17: '0/0_(00017).jpg', 1200345: '12/12_(00345).jpg', 399999: '3/3_(99999).jpg'}


@pytest.fixture
def published(tmp_path):
    """Tables, frames, and the labels that were put into them, by picture."""
    labels = {}
    boxes = ['image_id,min_x,min_y,width,height']
    for split, frames in FRAMES.items():
        content = coco_annotations(SIZE, 0, split, len(frames), 'jump_broadcast')
        lines = ['event;frame_num;' + ';'.join(f'{joint}_{part}' for joint in JOINTS for part in 'xys')]
        for index, ((event, frame), number) in enumerate(zip(frames, IDS[split])):
            label = next(entry for entry in content['annotations'] if entry['image_id'] == index + 1)
            labels[number] = label
            lines.append(';'.join(map(str, [event, frame, *label['keypoints']])))
            boxes.append(','.join(map(str, [number, *label['bbox']])))
            path = tmp_path / 'frames' / NAMES[number]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_figure_scene(SIZE, 0, split, index)).save(path, quality=95)
        (tmp_path / f'{split}.csv').write_text('\n'.join(lines) + '\n')
    (tmp_path / 'boxes.csv').write_text('\n'.join(boxes) + '\n')
    return labels


def arguments(folder, *more):
    tables = [part for split in ('train', 'val') for part in (f'--{split}', folder / f'{split}.csv')]
    return [folder / 'out', *tables, '--boxes', folder / 'boxes.csv', '--frames', folder / 'frames', *more]


def read(folder, split):
    return json.loads((folder / 'out/annotations' / f'{split}_jump.json').read_text())


@pytest.mark.parametrize('copy', [False, True])
def test_annotations_have_the_published_ids_and_are_read_by_the_dataset(published, tmp_path, copy):
    assert call('convert_jbd', *arguments(tmp_path, *(['--copy'] if copy else []))) == 0
    for split, numbers in IDS.items():
        content = read(tmp_path, split)
        assert [image['id'] for image in content['images']] == numbers
        assert [entry['id'] for entry in content['annotations']] == numbers
        dataset = DATASETS.build(
            dict(
                type='mmseg_tr.JumpBroadcast',
                data_root=str(tmp_path / 'out'),
                ann_file=f'annotations/{split}_jump.json',
                data_prefix=dict(img=f'images/{split}/'),
                pipeline=[dict(type='mmpose.LoadImage')],
            )
        )
        assert len(dataset) == len(numbers)
        for number, item in zip(numbers, dataset):
            truth = np.array(published[number]['keypoints']).reshape(-1, 3)
            np.testing.assert_allclose(item['keypoints'][0], truth[:, :2], rtol=1e-6)
            np.testing.assert_array_equal(item['keypoints_visible'][0], truth[:, 2] > 0)
            x, y, width, height = published[number]['bbox']
            np.testing.assert_allclose(item['bbox'][0], [x, y, x + width, y + height], rtol=1e-5)
            assert item['img'].shape == (*SIZE, 3)
    link = tmp_path / 'out/images/train' / NAMES[17]
    assert link.is_file() and link.is_symlink() != copy


def test_a_line_before_the_header_is_skipped(published, tmp_path):
    table = tmp_path / 'train.csv'
    table.write_text('joints of the training frames\n' + table.read_text())
    assert call('convert_jbd', *arguments(tmp_path)) == 0
    assert len(read(tmp_path, 'train')['annotations']) == 2


def test_boxes_may_name_frames(published, tmp_path):
    table = tmp_path / 'boxes.csv'
    table.write_text(table.read_text().replace('1200345,', '12/12_(00345).jpg,'))
    assert call('convert_jbd', *arguments(tmp_path)) == 0
    assert len(read(tmp_path, 'train')['annotations']) == 2


def test_rows_without_a_box_are_dropped_and_counted(published, tmp_path, capsys):
    table = tmp_path / 'boxes.csv'
    table.write_text('\n'.join(line for line in table.read_text().splitlines() if not line.startswith('17,')))
    assert call('convert_jbd', *arguments(tmp_path)) == 0
    assert 'train    1 athletes, 1 rows without a box dropped' in capsys.readouterr().out
    assert [entry['id'] for entry in read(tmp_path, 'train')['annotations']] == [1200345]


def test_check_lists_missing_frames_and_writes_nothing(published, tmp_path, capsys):
    assert call('convert_jbd', *arguments(tmp_path, '--check')) == 0
    (tmp_path / 'frames' / NAMES[17]).unlink()
    assert 'frames are not in' in mistake(capsys, 'convert_jbd', *arguments(tmp_path))
    assert call('convert_jbd', *arguments(tmp_path, '--check')) == 2
    assert f'missing  {NAMES[17]}' in capsys.readouterr().out
    assert not (tmp_path / 'out').exists()


def test_nothing_is_replaced_without_force(published, tmp_path, capsys):
    assert call('convert_jbd', *arguments(tmp_path)) == 0
    before = read(tmp_path, 'train')
    (tmp_path / 'boxes.csv').write_text('image_id,min_x,min_y,width,height\n17,1,2,3,4\n399999,1,2,3,4\n')
    assert 'exists already' in mistake(capsys, 'convert_jbd', *arguments(tmp_path))
    assert read(tmp_path, 'train') == before
    assert call('convert_jbd', *arguments(tmp_path, '--force')) == 0
    assert [entry['bbox'] for entry in read(tmp_path, 'train')['annotations']] == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ('file', 'old', 'new', 'message'),
    [
        ('train.csv', 'head_x', 'crown_x', "train.csv has no column 'head_x'"),
        ('train.csv', 'event;', 'game;', "no column 'event' in its first two lines"),
        ('train.csv', '12;345;', '0;17;', r'line 3: frame 0/0_(00017).jpg occurs twice'),
        ('train.csv', '12;345;', '12;x;', "line 3: frame_num is 'x'"),
        ('train.csv', '12;345;', '12;345;1;', '63 values for 62 columns'),
        ('boxes.csv', '17,', 'first,', "line 2: image_id 'first'"),
        ('boxes.csv', 'min_y', 'top', "boxes.csv has no column 'min_y'"),
        ('train.csv', '12;345;', '12;3²;', "frame_num is '3²'"),
        ('train.csv', '12;345;', f'12;{"3" * 5000};', 'frame_num is'),
        ('train.csv', '12;345;', f'12;"{"3" * 140_000};', 'cannot be read'),
        ('boxes.csv', '17,', '1²,', "image_id '1²'"),
        ('boxes.csv', '17,', '17,nan', 'min_x must be a number'),
        ('boxes.csv', '17,', '17,-1,0,0,-5\n18,', 'must not be negative'),
    ],
)
def test_damaged_tables_are_named(published, tmp_path, capsys, file, old, new, message):
    table = tmp_path / file
    table.write_text(table.read_text().replace(old, new, 1))
    assert message in mistake(capsys, 'convert_jbd', *arguments(tmp_path))


def test_what_is_missing_is_named(published, tmp_path, capsys):
    (tmp_path / 'val.csv').unlink()
    assert 'there is no table' in mistake(capsys, 'convert_jbd', *arguments(tmp_path))
    (tmp_path / 'frames').rename(tmp_path / 'elsewhere')
    assert 'there is no folder' in mistake(capsys, 'convert_jbd', *arguments(tmp_path))


def test_annotations_of_other_joints_are_refused(tmp_path):
    from mmseg_tr.datasets.figure_files import write_figures
    from mmseg_tr.errors import DatasetError

    path = write_figures(tmp_path, 'val', 1, size=(32, 32), joints='coco')
    with pytest.raises(DatasetError, match='17 keypoints, and the metainfo names 20'):
        DATASETS.build(dict(type='mmseg_tr.JumpBroadcast', ann_file=str(path)))
