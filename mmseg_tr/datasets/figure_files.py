"""Scenes of figures as a dataset in COCO's format: annotations, and folders of pictures. Plain numpy and Pillow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_tr.datasets.figure_drawing import draw_figure_scene
from mmseg_tr.datasets.figure_labels import FigureLabel, label_figures
from mmseg_tr.datasets.figure_scenes import make_figure_scene
from mmseg_tr.datasets.scenes import check_scene
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.files import write_atomically


def _pairs(*names: str) -> tuple[str, ...]:
    return tuple(f'{side}_{name}' for name in names for side in ('left', 'right'))


def _sides(side: str, *names: str) -> tuple[str, ...]:
    return tuple(f'{side}_{name}' for name in names)


_BODY = _pairs('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')
_ARM, _LEG = ('shoulder', 'elbow', 'wrist', 'hand'), ('hip', 'knee', 'ankle', 'heel', 'toe')
# the joints of each supported dataset, in its order
JOINTS = {
    'photo_figures': ('head', 'neck', *_BODY),
    'coco': ('nose', *_pairs('eye', 'ear'), *_BODY),
    'jump_broadcast': (
        *('head', 'neck', *_sides('right', *_ARM), *_sides('left', *_ARM)),
        *(*_sides('right', *_LEG), *_sides('left', *_LEG)),
    ),
}


def coco_annotations(
    size: tuple[int, int], seed: int, split: str, length: int, joints: str | Sequence[str] = 'photo_figures'
) -> dict:
    """Return the first `length` scenes as the content of a COCO keypoint file: images, annotations, categories.

    joints: a key of JOINTS, or names of points of a figure. Image `index` is scene `index`, ids count from 1.
    Raises ConfigError as `make_figure_scene` does, for a length below 1 and for joints that figures do not have.
    """
    check_scene(size, seed, split, 'a scene of figures')
    if not isinstance(length, (int, np.integer)) or length < 1:
        raise ConfigError(f'length must be a positive integer, got {length!r}.')
    names = _names(joints)
    images, annotations = [], []
    for index in range(length):
        images.append(dict(id=index + 1, file_name=f'{index:06d}.png', height=int(size[0]), width=int(size[1])))
        for label in label_figures(make_figure_scene(size, seed, split, index), names):
            annotations.append(_annotation(label, index + 1, len(annotations) + 1))
    category = dict(id=1, name='person', supercategory='person', keypoints=list(names), skeleton=[])
    return dict(images=images, annotations=annotations, categories=[category])


def _names(joints: str | Sequence[str]) -> Sequence[str]:
    if not isinstance(joints, str):
        return joints
    if joints not in JOINTS:
        raise ConfigError(f'joints must be one of {", ".join(JOINTS)}, or names of points, got {joints!r}.')
    return JOINTS[joints]


def _annotation(label: FigureLabel, image_id: int, number: int) -> dict:
    return dict(
        id=number,
        image_id=image_id,
        category_id=1,
        iscrowd=0,
        keypoints=np.round(label.keypoints, 2).ravel().tolist(),
        num_keypoints=int((label.keypoints[:, 2] > 0).sum()),
        bbox=np.round(label.box, 2).tolist(),
        area=round(label.area, 2),
    )


def write_figures(
    folder: str | Path,
    split: str,
    length: int,
    *,
    size: tuple[int, int] = (192, 192),
    seed: int = 0,
    joints: str | Sequence[str] = 'photo_figures',
) -> Path:
    """Write scenes as `folder`/images/`split`/*.png and `folder`/annotations/`split`.json; returns the latter's path.

    Arguments as of `coco_annotations`. Raises DatasetError when the annotations are there already.
    """
    path = Path(folder) / 'annotations' / f'{split}.json'
    if path.exists():
        raise DatasetError(f'{path} exists already: name another folder, or remove it.')
    annotations = coco_annotations(size, seed, split, length, joints)
    images = Path(folder) / 'images' / split
    images.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(annotations['images']):
        Image.fromarray(draw_figure_scene(size, seed, split, index)).save(images / image['file_name'])
    write_atomically(json.dumps(annotations), path)  # last: if it exists, the pictures are complete
    return path
