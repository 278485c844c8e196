"""The jump broadcast dataset (JBD): athletes in television pictures, human pose of 20 joints."""

from __future__ import annotations

from pathlib import Path

from mmseg_tr.datasets.jump_csv import annotation_path, convert_table, read_boxes, write_split
from mmseg_tr.datasets.prepare.download import Progress
from mmseg_tr.datasets.prepare.recipe import CONVERTED, Recipe, Wanted
from mmseg_tr.errors import DatasetError

SPLITS = ('train', 'val')
SOURCE = 'source'  # below the dataset: train.csv, val.csv, boxes.csv and the folder frames
BY_HAND = (
    'its frames belong to television stations and cannot be downloaded: get them and the tables of the labels from its '
    f'authors, put train.csv, val.csv, boxes.csv and frames/EVENT/EVENT_(FRAME).jpg into jump_broadcast/{SOURCE}, and '
    'run the same command again'
)


def ready(root: Path) -> bool:
    """Return whether all inputs of the conversion exist."""
    source = root / SOURCE
    return (source / 'frames').is_dir() and all((source / f'{name}.csv').is_file() for name in (*SPLITS, 'boxes'))


def convert(root: Path, archives: Path, progress: Progress) -> None:
    """Write annotations/*_jump.json from the tables, and link images/SPLIT to the frames, like tools/convert_jbd.py."""
    source = root / SOURCE
    frames, boxes = source / 'frames', read_boxes(source / 'boxes.csv')
    for number, split in enumerate(SPLITS, 1):
        if not annotation_path(root, split).exists():
            converted = convert_table(source / f'{split}.csv', boxes, frames)
            if converted.missing:
                lacking = f'{len(converted.missing)} frames are not in {frames}, such as {converted.missing[0]}'
                raise DatasetError(f'{lacking}: get them first.')
            write_split(converted, root, split, frames, copy=False)
        progress('convert labels of Jump Broadcast', number, len(SPLITS))


RECIPES = (
    Recipe(
        name='Jump Broadcast',
        root='jump_broadcast',
        terms='for research, on request to its authors',
        archives=(),
        wanted=(
            *(Wanted(f'images/{split}/**/*.jpg', 1, CONVERTED) for split in SPLITS),
            *(Wanted(f'annotations/{split}_jump.json', 1, CONVERTED) for split in SPLITS),
        ),
        convert=convert,
        by_hand=BY_HAND,
        ready=ready,
    ),
)
