"""COCO-Stuff, 171 classes: the 10k set (labels in MATLAB files) and the 164k set (labels as images)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

import numpy as np

from mmseg_tr.datasets.prepare.coco import TRAIN, VAL
from mmseg_tr.datasets.prepare.download import Archive, Progress
from mmseg_tr.datasets.prepare.labels import convert_labels, read_numbers, table
from mmseg_tr.datasets.prepare.recipe import CONVERTED, Recipe, Wanted
from mmseg_tr.errors import DatasetError, require_extra

# unused numbers among the 182 labels of COCO and COCO-Stuff, which count from 1
UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
USED = tuple(label for label in range(1, 183) if label not in UNUSED)
# 10k: 0 is unlabelled and stays 0, classes count from 1 (reduce_zero_label=True in the configs)
TABLE_10K = table({label: number for number, label in enumerate(USED, 1)}, others=0)
# 164k: the files hold label - 1, and 255 for unlabelled; classes count from 0
TABLE_164K = table({label - 1: number for number, label in enumerate(USED)}, others=255)

_CALVIN = 'http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset'
TEN_K = Archive(f'{_CALVIN}/cocostuff-10k-v1.1.zip')
MAPS = Archive(f'{_CALVIN}/stuffthingmaps_trainval2017.zip')
TERMS = 'annotations under CC BY 4.0, images under the terms of Flickr, see https://github.com/nightrome/cocostuff'
SPLITS_10K = {'train': 9000, 'test': 1000}
SPLITS_164K = {'train2017': 118287, 'val2017': 5000}


def read_mat(path: Path) -> np.ndarray:
    """Read the labels of a MATLAB file of the 10k set, (H, W) uint8, in training numbers."""
    from scipy.io import loadmat

    return TABLE_10K[loadmat(path)['S']]


def convert_10k(root: Path, archives: Path, progress: Progress) -> None:
    """Write images/SPLIT2014/*.jpg and annotations/SPLIT2014/*_labelTrainIds.png as in imageLists/SPLIT.txt."""
    require_extra('data', 'scipy', 'to read the labels of COCO-Stuff 10k')
    for split in SPLITS_10K:
        listed = root / 'imageLists' / f'{split}.txt'
        if not listed.is_file():
            raise DatasetError(f'there is no {listed}: unpack {TEN_K.name} again.')
        names = listed.read_text().split()
        outside = [name for name in names if '/' in name or '\\' in name or name.startswith('.')]
        if outside:
            raise DatasetError(f'{listed} names {outside[0]!r}, which is not the name of an image: unpack it again.')
        for name in names:
            _link(root / 'images' / f'{name}.jpg', root / 'images' / f'{split}2014' / f'{name}.jpg')
        jobs = [
            (
                root / 'annotations' / f'{name}.mat',
                root / 'annotations' / f'{split}2014' / f'{name}_labelTrainIds.png',
            )
            for name in names
        ]
        convert_labels(jobs, read_mat, progress, f'labels of COCO-Stuff 10k, {split}')


def place_164k(archive: str, member: PurePosixPath) -> PurePosixPath | None:
    return ('annotations' if archive == MAPS.name else 'images') / member


def convert_164k(root: Path, archives: Path, progress: Progress) -> None:
    """Write annotations/SPLIT2017/*_labelTrainIds.png from the published *.png."""
    for split in SPLITS_164K:
        sources = sorted((root / 'annotations' / split).glob('*.png'))
        sources = [path for path in sources if not path.stem.endswith('_labelTrainIds')]
        jobs = [(path, path.with_name(f'{path.stem}_labelTrainIds.png')) for path in sources]
        convert_labels(
            jobs, lambda path: TABLE_164K[read_numbers(path)], progress, f'labels of COCO-Stuff 164k, {split}'
        )


def _link(source: Path, target: Path) -> None:
    """Link a file under another name; copy it if the disk does not support links."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise DatasetError(f'there is no {source}, which the list of images names: unpack it again.') from error
    except OSError:
        shutil.copyfile(source, target)


RECIPES = (
    Recipe(
        name='COCO-Stuff 10k',
        root='coco_stuff10k',
        terms=TERMS,
        archives=(TEN_K,),
        wanted=(
            Wanted('imageLists/*.txt', 2, TEN_K.name),
            Wanted('annotations/*.mat', sum(SPLITS_10K.values()), TEN_K.name),
            *(Wanted(f'images/{split}2014/*.jpg', count, CONVERTED) for split, count in SPLITS_10K.items()),
            *(
                Wanted(f'annotations/{split}2014/*_labelTrainIds.png', count, CONVERTED)
                for split, count in SPLITS_10K.items()
            ),
        ),
        convert=convert_10k,
    ),
    Recipe(
        name='COCO-Stuff 164k',
        root='coco_stuff164k',
        terms=TERMS,
        archives=(MAPS, VAL, TRAIN),
        wanted=(
            Wanted('images/train2017/*.jpg', SPLITS_164K['train2017'], TRAIN.name),
            Wanted('images/val2017/*.jpg', SPLITS_164K['val2017'], VAL.name),
            *(
                Wanted(f'annotations/{split}/{"[0-9]" * 12}.png', count, MAPS.name)
                for split, count in SPLITS_164K.items()
            ),
            *(
                Wanted(f'annotations/{split}/*_labelTrainIds.png', count, CONVERTED)
                for split, count in SPLITS_164K.items()
            ),
        ),
        place=place_164k,
        convert=convert_164k,
    ),
)
