"""The jump broadcast dataset (JBD): athletes in television pictures, human pose of 20 joints."""

from mmseg_tr.apis.prepare.recipe import CONVERTED, Recipe, Wanted

BY_HAND = (
    'the frames belong to television stations and cannot be downloaded: get them and the CSV files of the labels from '
    'https://www.uni-augsburg.de/en/fakultaet/fai/informatik/prof/mmc/research/datensatze/, put the pictures of each '
    'split into images/train and images/val, then make annotations/*.json with tools/convert_jbd.py'
)

RECIPES = (
    Recipe(
        name='Jump Broadcast',
        root='jump_broadcast',
        terms='for research, on request to its authors',
        archives=(),
        wanted=(
            *(Wanted(f'images/{split}/**/*.*', 1, CONVERTED) for split in ('train', 'val')),
            *(Wanted(f'annotations/{split}_jump.json', 1, CONVERTED) for split in ('train', 'val')),
        ),
        by_hand=BY_HAND,
    ),
)
