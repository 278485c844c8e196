"""Pascal Context: the pictures of VOC 2010 with labels of whole scenes, 59 classes and background."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mmseg_tr.datasets.prepare.download import Archive, Progress
from mmseg_tr.datasets.prepare.labels import convert_labels, table
from mmseg_tr.datasets.prepare.recipe import CONVERTED, Recipe, Wanted
from mmseg_tr.datasets.prepare.unpack import unpack
from mmseg_tr.errors import DatasetError, require_extra
from mmseg_tr.files import write_atomically

# The 59 frequent of the 459 annotated categories, ascending: the label order of the published weights.
CATEGORIES = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159),
    *(162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368),
    *(397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
TABLE = table({category: number for number, category in enumerate(CATEGORIES, 1)}, others=0, size=1 << 16)
VOC = Archive(
    'http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar',
    'md5:da459979d0c395079b5c75ee67908abb',
)
CONTEXT = Archive(
    'https://codalabuser.blob.core.windows.net/public/trainval_merged.json',
    'md5:3c2d0c0656b7be9eb61928ffe885d8ce',
    by_hand='or put the older trainval.tar.gz of https://cs.stanford.edu/~roozbeh/pascal-context/ next to it',
)
MATLAB = 'trainval.tar.gz'  # the same labels as one MATLAB file per picture
VOC2010 = 'VOCdevkit/VOC2010'
LONGEST = 10_000  # pixels of a side; VOC's have 500
SPLITS = {'train': 4998, 'val': 5105}


def place(archive: str, member: PurePosixPath) -> PurePosixPath | None:
    """Extract only the pictures and the lists of VOC 2010."""
    return member if {'JPEGImages', 'ImageSets'} & set(member.parts) else None


def convert(root: Path, archives: Path, progress: Progress) -> None:
    """Write SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt."""
    voc = root / VOC2010
    if (archives / CONTEXT.name).exists():
        names = _convert_json(voc, archives / CONTEXT.name, progress)
    elif (archives / MATLAB).exists():
        names = _convert_mat(voc, archives / MATLAB, progress)
    else:
        raise DatasetError(f'there is neither {CONTEXT.name} nor {MATLAB} in {archives}: put one of them there.')
    for split, listed in names.items():
        path = voc / 'ImageSets/SegmentationContext' / f'{split}.txt'
        if not path.exists():
            write_atomically('\n'.join(listed) + '\n', path)


def _convert_json(voc: Path, source: Path, progress: Progress) -> dict[str, list[str]]:
    """Convert the merged annotations; returns the names of each split."""
    require_extra('data', 'pycocotools', 'to read the labels of Pascal Context')
    from pycocotools import mask

    try:
        content = json.loads(source.read_bytes())
        pictures = {picture['image_id']: picture for picture in content['images']}
        regions: dict[int, list[dict]] = {number: [] for number in pictures}
        for region in content['annos_segmentation']:
            regions.setdefault(region['image_id'], []).append(region)
        stems = [(picture['phase'], _check_picture(picture).stem) for picture in pictures.values()]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f'{source} is damaged ({error}): remove it, and run the same command again.') from error
    of_file = {voc / 'JPEGImages' / picture['file_name']: picture for picture in pictures.values()}

    def drawn(path: Path) -> np.ndarray:
        picture = of_file[path]
        categories = np.zeros((picture['height'], picture['width']), np.uint16)
        for region in regions[picture['image_id']]:  # later ones are on top
            size = region['segmentation'].get('size')
            if size != list(categories.shape):  # pycocotools would write beyond its memory
                raise DatasetError(f'{source} is damaged: a mask of {size} over an image of {categories.shape} pixels.')
            categories[mask.decode(region['segmentation']).astype(bool)] = region['category_id']
        return TABLE[categories]

    convert_labels(_jobs(voc, of_file), drawn, progress, 'labels of Pascal Context')
    return {split: sorted(name for phase, name in stems if phase == split) for split in SPLITS}


def _check_picture(picture: Mapping[str, Any]) -> Path:
    """Return the file name of a picture. Raises ValueError for one that cannot be of VOC 2010."""
    name, sides = picture['file_name'], (picture['height'], picture['width'])
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f'file_name {name!r}')
    if not all(isinstance(side, int) and 0 < side <= LONGEST for side in sides):
        raise ValueError(f'{name} of {sides} pixels')
    return Path(name)


def _convert_mat(voc: Path, source: Path, progress: Progress) -> dict[str, list[str]]:
    """Convert one MATLAB file per picture; the splits are those of VOC."""
    require_extra('data', 'scipy', 'to read the labels of Pascal Context')
    from scipy.io import loadmat

    folder = voc / 'ContextMatlab'
    unpack(source, folder, lambda member: PurePosixPath(member.name) if member.suffix == '.mat' else None, progress)
    names = {}
    for split in SPLITS:
        listed = voc / 'ImageSets/Main' / f'{split}.txt'
        stems = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
        names[split] = [stem for stem in stems if (folder / f'{stem}.mat').exists()]
    of_file = {voc / 'JPEGImages' / f'{stem}.jpg': folder / f'{stem}.mat' for part in names.values() for stem in part}
    read = lambda path: TABLE[loadmat(of_file[path])['LabelMap'].astype(np.uint16)]  # noqa: E731
    convert_labels(_jobs(voc, of_file), read, progress, 'labels of Pascal Context')
    return names


def _jobs(voc: Path, pictures) -> list[tuple[Path, Path]]:
    return [(path, voc / 'SegmentationClassContext' / f'{path.stem}.png') for path in pictures]


RECIPES = (
    Recipe(
        name='Pascal Context',
        root='pcontext',
        terms='pictures under the terms of Flickr, see http://host.robots.ox.ac.uk/pascal/VOC/voc2010/',
        archives=(VOC, CONTEXT),
        wanted=(
            Wanted(f'{VOC2010}/JPEGImages/*.jpg', sum(SPLITS.values()), VOC.name),
            Wanted(f'{VOC2010}/SegmentationClassContext/*.png', sum(SPLITS.values()), CONVERTED),
            *(Wanted(f'{VOC2010}/ImageSets/SegmentationContext/{split}.txt', 1, CONVERTED) for split in SPLITS),
        ),
        place=place,
        convert=convert,
    ),
)
