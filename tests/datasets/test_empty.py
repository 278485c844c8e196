"""An empty dataset says what is empty: the folder of its images or its annotation file, and why."""

import json

import numpy as np
import pytest
from PIL import Image

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)

from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.errors import ConfigError, DatasetError

WHOLE = dict(
    id=1, image_id=1, category_id=1, iscrowd=0, bbox=[2, 2, 20, 20], keypoints=[9, 9, 2] * 17, num_keypoints=17
)
CONTENTS = {
    'holds 1 images and no annotations': [],
    '2 without a visible keypoint': [dict(WHOLE, keypoints=[0, 0, 0] * 17, num_keypoints=0)] * 2,
    '1 without a box': [{key: value for key, value in WHOLE.items() if key != 'bbox'}],
    '1 without keypoints': [{key: value for key, value in WHOLE.items() if key != 'keypoints'}],
    '1 with an empty box': [dict(WHOLE, bbox=[2, 2, 0, 0])],
    '1 of crowds': [dict(WHOLE, iscrowd=1)],
}


def config(root, **more):
    return dict(
        type='mmpose.CocoDataset',
        data_root=str(root),
        ann_file='annotations.json',
        data_prefix=dict(img='pictures/'),
        data_mode='topdown',
        serialize_data=False,
        **more,
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'pictures').mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / 'pictures/1.png')
    return tmp_path


def annotate(root, annotations):
    images = [dict(id=1, file_name='1.png', height=40, width=40)]
    categories = [dict(id=1, name='person')]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations.json').write_text(json.dumps(content))


@pytest.mark.parametrize('reason', CONTENTS)
@pytest.mark.parametrize('wrapped', [False, True])
def test_annotations_that_give_nothing_are_named_with_the_reason(reason, wrapped, root):
    pytest.importorskip('mmpose')
    annotate(root, [dict(entry, id=number) for number, entry in enumerate(CONTENTS[reason], 1)])
    built = dict(type='RepeatDataset', times=2, dataset=config(root)) if wrapped else config(root)
    with pytest.raises(DatasetError, match=reason) as error:
        build_dataset(built)
    assert str(root / 'annotations.json') in str(error.value)
    assert 'there is no image' not in str(error.value)


def test_annotations_that_give_something_are_built(root):
    pytest.importorskip('mmpose')
    annotate(root, [WHOLE, dict(WHOLE, id=2, keypoints=[0] * 51, num_keypoints=0)])
    assert len(build_dataset(config(root))) == 1


def test_a_folder_without_images_is_named(root):
    folders = dict(type='mmseg.BaseSegDataset', data_root=str(root), img_suffix='.jpg', serialize_data=False)
    with pytest.raises(DatasetError, match=rf'ends in .jpg in {root}/pictures'):
        build_dataset(dict(folders, data_prefix=dict(img_path='pictures')))
    (root / 'names.txt').write_text('')
    with pytest.raises(DatasetError, match='names.txt names no image'):
        build_dataset(dict(folders, data_prefix=dict(img_path='pictures'), ann_file='names.txt'))


def test_classes_that_a_dataset_does_not_have_are_refused(root):
    city = dict(type='mmseg.CityscapesDataset', data_root=str(root), data_prefix=dict(img_path='pictures'))
    with pytest.raises(ConfigError, match='aeroplane'):
        build_dataset(dict(city, metainfo=dict(classes=('car', 'aeroplane'))))
