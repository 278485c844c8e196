"""Figures over photographs as a dataset of mmpose: `mmseg_tr.PhotoFigures` and what loads its pictures.

The scenes have addresses, `figures://val/seed0/192x192/000012.png`, which everything that reads files through mmengine
can open: mmpose's LoadImage, its visualisation hook, its inferencer. `LoadFigures` does the same without the way
through a PNG.
"""

from __future__ import annotations

import re

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.fileio import register_backend
from mmengine.logging import MessageHub
from mmpose.datasets.datasets.base import BaseCocoStyleDataset

from mmseg_tr.analysis.photographs import SPLITS
from mmseg_tr.datasets.addresses import DrawnBackend
from mmseg_tr.datasets.figure_drawing import draw_figure_scene
from mmseg_tr.datasets.figure_files import coco_annotations
from mmseg_tr.datasets.metainfo.photo_figures import dataset_info
from mmseg_tr.errors import ConfigError
from mmseg_tr.registry import DATASETS, TRANSFORMS

LENGTHS = {'train': 2000, 'val': 200}


@register_backend('figures', prefixes='figures', force=True)
class FiguresBackend(DrawnBackend):
    """Read `figures://` addresses: draw the scene and return it as the bytes of a PNG file."""

    what, example = 'scene of figures', 'figures://val/seed0/192x192/000012.png'
    pattern = re.compile(rf'figures://({"|".join(SPLITS)})/seed(\d+)/(\d+)x(\d+)/(\d+)\.png')

    def draw(self, split: str, seed: str, height: str, width: str, index: str) -> np.ndarray:
        return draw_figure_scene((int(height), int(width)), int(seed), split, int(index))


@TRANSFORMS.register_module()
class LoadFigures(BaseTransform):
    """Load the picture of a `PhotoFigures` scene; replaces LoadImage.

    Required keys: scene (arguments of draw_figure_scene); optional: drawn (the picture in memory).
    Added keys: img (h, w, 3) uint8 BGR, img_shape, ori_shape.
    """

    file_loader = 'LoadImage'  # the transform that reads files, where this one draws scenes

    def transform(self, results: dict) -> dict:
        image = results.pop('drawn', None)
        image = draw_figure_scene(**results['scene']) if image is None else image
        # A copy: later transforms change arrays in place, which must not affect a kept scene.
        results['img'] = np.ascontiguousarray(image[:, :, ::-1])
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return 'LoadFigures()'


@DATASETS.register_module()
class PhotoFigures(BaseCocoStyleDataset):
    """People made of limbs, one or two a scene, drawn over real photographs: 14 joints, known exactly.

    Nothing is stored or downloaded; a scene is drawn on request (see `make_figure_scene`) and is the same in every
    process and run. mmpose's CocoMetric evaluates it without an annotation file.

    split: 'train' or 'val'; they show different figures, before different parts of the photographs.
    length: how many scenes; 2000 for training and 200 for validation unless given. Top-down, an item is one figure.
    size: (height, width) of a scene.
    seed: another seed gives other scenes.
    cache: keep pictures in memory once they are drawn, 3 bytes a pixel in each worker process that drew them.
    Further arguments are those of mmpose's BaseCocoStyleDataset (pipeline, data_mode, indices, test_mode ...).
    Raises ConfigError for an unknown split, a size, length or seed out of range, and for files (ann_file, bbox_file),
    of which there are none. Raises MissingExtraError or DatasetError, when the first scene is drawn, where the
    photographs are not installed.
    """

    METAINFO = dataset_info

    def __init__(
        self,
        split: str = 'train',
        length: int | None = None,
        size: tuple[int, int] = (192, 192),
        seed: int = 0,
        cache: bool = False,
        **kwargs,
    ) -> None:
        files = [name for name in ('ann_file', 'bbox_file') if kwargs.get(name)]
        if files:
            raise ConfigError(f'PhotoFigures reads no file: leave {files[0]}={kwargs[files[0]]!r} out.')
        self.scenes = dict(size=tuple(size) if isinstance(size, (list, tuple)) else size, seed=seed, split=split)
        self.length = LENGTHS.get(split) if length is None else length
        self._kept: dict[int, np.ndarray] | None = {} if cache else None
        super().__init__(**kwargs)
        if self.test_mode:  # mmpose puts the annotation file there for CocoMetric; without one it uses the samples
            MessageHub.get_current_instance().update_info(f'{self.metainfo["dataset_name"]}_ann_file', None)

    def load_data_list(self) -> list[dict]:
        """Return the labels of each figure, or of each scene bottom-up; nothing is drawn yet."""
        content = coco_annotations(**self.scenes, length=self.length)
        self._metainfo['CLASSES'] = content['categories']
        height, width = self.scenes['size']
        folder = f'figures://{self.scenes["split"]}/seed{self.scenes["seed"]}/{height}x{width}'
        images = {
            image['id']: dict(image, img_id=image['id'], img_path=f'{folder}/{image["file_name"]}')
            for image in content['images']
        }
        figures = [
            self.parse_data_info(dict(raw_ann_info=annotation, raw_img_info=images[annotation['image_id']]))
            for annotation in content['annotations']
        ]
        if self.data_mode == 'topdown':
            return self._get_topdown_data_infos(figures)
        return self._get_bottomup_data_infos(figures, list(images.values()))

    def get_data_info(self, idx: int) -> dict:
        """Return the labels of an item, and its scene."""
        info = super().get_data_info(idx)
        index = info['img_id'] - 1
        info['scene'] = dict(self.scenes, index=index)
        if self._kept is not None:
            if index not in self._kept:
                self._kept[index] = draw_figure_scene(**info['scene'])
            info['drawn'] = self._kept[index]
        return info
