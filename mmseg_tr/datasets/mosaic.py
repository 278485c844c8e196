"""Photo mosaics as a dataset of mmseg: `mmseg_tr.PhotoMosaic` and what loads its scenes.

The scenes have addresses, `mosaic://val/seed0/128x128/000012.png` and `..._label.png`, which everything that reads
files through mmengine can open: mmseg's LoadImageFromFile and LoadAnnotations, its visualisation hook, its inferencer.
`LoadMosaic` does the work of the first two without the way through a PNG.
"""

from __future__ import annotations

import re

import mmseg_tr.registry  # noqa: F401 (first: it makes mmseg importable)

# isort: split

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.fileio import register_backend
from mmseg.datasets import BaseSegDataset

from mmseg_tr.analysis.photographs import NAMES, SPLITS
from mmseg_tr.datasets.addresses import DrawnBackend
from mmseg_tr.datasets.scenes import check_scene, make_scene
from mmseg_tr.errors import ConfigError
from mmseg_tr.registry import DATASETS, TRANSFORMS

LENGTHS = {'train': 2000, 'val': 200}


def scene_address(size: tuple[int, int], seed: int, split: str, index: int, suffix: str = '') -> str:
    """Return the address of a scene's image, or of its label map with `suffix` '_label'."""
    return f'mosaic://{split}/seed{seed}/{size[0]}x{size[1]}/{index:06d}{suffix}.png'


@register_backend('mosaic', prefixes='mosaic', force=True)
class MosaicBackend(DrawnBackend):
    """Read `mosaic://` addresses: draw the scene and return its image, or label map, as the bytes of a PNG."""

    what = 'photo mosaic'
    example = 'mosaic://val/seed0/128x128/000012.png, for the label map mosaic://val/seed0/128x128/000012_label.png'
    pattern = re.compile(rf'mosaic://({"|".join(SPLITS)})/seed(\d+)/(\d+)x(\d+)/(\d+)(_label)?\.png')

    def draw(self, split: str, seed: str, height: str, width: str, index: str, is_label: str | None) -> np.ndarray:
        image, label = make_scene((int(height), int(width)), int(seed), split, int(index))
        return label if is_label else image


@TRANSFORMS.register_module()
class LoadMosaic(BaseTransform):
    """Load image and label map of a `PhotoMosaic` scene; replaces LoadImageFromFile and LoadAnnotations.

    Required keys: scene (arguments of make_scene), seg_fields, label_map; optional: drawn (image and label in memory).
    Added keys: img (h, w, 3) uint8 BGR, img_shape, ori_shape, gt_seg_map (h, w) uint8; seg_fields grows by gt_seg_map.
    """

    file_loader = 'LoadImageFromFile'  # the transform that reads files, where this one draws scenes

    def transform(self, results: dict) -> dict:
        image, label = results.pop('drawn', None) or make_scene(**results['scene'])
        # Copies: later transforms change arrays in place, which must not affect a kept scene.
        results['img'] = np.ascontiguousarray(image[:, :, ::-1])
        results['img_shape'] = results['ori_shape'] = label.shape
        results['gt_seg_map'] = _relabel(label, results['label_map'])
        results['seg_fields'].append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        return 'LoadMosaic()'


def _relabel(label: np.ndarray, label_map: dict[int, int] | None) -> np.ndarray:
    """Return a copy of a label map with the class numbers of `metainfo=dict(classes=...)`."""
    if label_map is None:
        return label.copy()
    return np.array([label_map[number] for number in range(len(NAMES))], np.uint8)[label]


@DATASETS.register_module()
class PhotoMosaic(BaseSegDataset):
    """Scenes cut into regions, each filled with a crop of one of 11 real photographs: the class is the photograph.

    Nothing is stored or downloaded; a scene is drawn on request (see `make_scene`) and is the same in every
    process and run.

    split: 'train' or 'val'; they show different parts of the photographs.
    length: how many scenes; 2000 for training and 200 for validation unless given.
    size: (height, width) of a scene.
    seed: another seed gives other scenes.
    cache: keep scenes in memory once they are drawn, 4 bytes a pixel in each worker process that drew them.
    Further arguments are those of mmseg's BaseSegDataset (pipeline, metainfo, indices, test_mode, lazy_init ...).
    Raises ConfigError for an unknown split, a size, length or seed out of range, and for reduce_zero_label: the
    photograph numbered zero is a class like the others. Raises MissingExtraError or DatasetError, when the first scene
    is drawn, where the photographs are not installed.
    """

    METAINFO = dict(
        classes=NAMES,
        palette=[
            [178, 84, 60],  # brick
            [96, 168, 48],  # grass
            [128, 128, 136],  # gravel
            [232, 196, 60],  # coins
            [240, 240, 228],  # page
            [244, 152, 184],  # cat
            [108, 60, 28],  # coffee
            [255, 120, 0],  # astronaut
            [40, 60, 160],  # rocket
            [64, 196, 208],  # china
            [160, 40, 176],  # flower
        ],
    )

    def __init__(
        self,
        split: str = 'train',
        length: int | None = None,
        size: tuple[int, int] = (128, 128),
        seed: int = 0,
        cache: bool = False,
        **kwargs,
    ) -> None:
        check_scene(size, seed, split)
        length = LENGTHS[split] if length is None else length
        if not isinstance(length, (int, np.integer)) or length < 1:
            raise ConfigError(f'PhotoMosaic: length must be a positive integer, got {length!r}.')
        if kwargs.get('reduce_zero_label'):
            raise ConfigError('PhotoMosaic: reduce_zero_label must be False: class 0 is not a background.')
        self.split, self.length, self.size, self.seed = split, int(length), tuple(map(int, size)), int(seed)
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] | None = {} if cache else None
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Return what identifies each scene; nothing is drawn yet."""
        return [self._data_info(index) for index in range(self.length)]

    def _data_info(self, index: int) -> dict:
        scene = dict(size=self.size, seed=self.seed, split=self.split, index=index)
        return dict(
            scene=scene,
            img_path=scene_address(**scene),
            seg_map_path=scene_address(**scene, suffix='_label'),
            label_map=self.label_map,
            reduce_zero_label=False,
            seg_fields=[],
        )

    def prepare_data(self, idx: int) -> dict:
        """Return scene `idx` after the pipeline, drawn once if scenes are kept."""
        info = self.get_data_info(idx)
        if self._kept is not None:
            index = info['scene']['index']
            if index not in self._kept:
                self._kept[index] = make_scene(**info['scene'])
            info['drawn'] = self._kept[index]
        return self.pipeline(info)
