"""Cityscapes: street scenes, 19 classes in training numbers."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from mmseg_tr.datasets.prepare.download import Archive, Progress
from mmseg_tr.datasets.prepare.labels import convert_labels, read_numbers, table
from mmseg_tr.datasets.prepare.login import CITYSCAPES
from mmseg_tr.datasets.prepare.recipe import CONVERTED, Recipe, Wanted

# evaluated classes, by their id in the label files, in the benchmark's order; all others are ignored
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_IDS = table({old: new for new, old in enumerate(IDS)}, others=255)
SPLITS = {'train': 2975, 'val': 500, 'test': 1525}
LABELS = Archive(
    f'{CITYSCAPES}/file-handling/?packageID=1',
    'md5:4237c19de34c8a376e9ba46b495d6f66',
    login='cityscapes',
    file='gtFine_trainvaltest.zip',
)
IMAGES = Archive(
    f'{CITYSCAPES}/file-handling/?packageID=3',
    'md5:0a6e97e94b616a514066c9e2adb0c97f',
    login='cityscapes',
    file='leftImg8bit_trainvaltest.zip',
)


def place(archive: str, member: PurePosixPath) -> PurePosixPath | None:
    """Extract the folders only: both archives have a README and a licence of the same name at the top."""
    return member if len(member.parts) > 1 else None


def convert(root: Path, archives: Path, progress: Progress) -> None:
    """Write gtFine/SPLIT/CITY/*_labelTrainIds.png from *_labelIds.png."""
    sources = sorted((root / 'gtFine').glob('*/*/*_labelIds.png'))
    jobs = [(path, path.with_name(path.name.replace('_labelIds', '_labelTrainIds'))) for path in sources]
    convert_labels(jobs, lambda path: TRAIN_IDS[read_numbers(path)], progress, 'labels of Cityscapes')


RECIPES = (
    Recipe(
        name='Cityscapes',
        root='cityscapes',
        terms=f'for registered users and non-commercial purposes, see {CITYSCAPES}/license/',
        archives=(LABELS, IMAGES),
        wanted=(
            *(Wanted(f'leftImg8bit/{split}/*/*_leftImg8bit.png', n, IMAGES.name) for split, n in SPLITS.items()),
            *(Wanted(f'gtFine/{split}/*/*_gtFine_labelIds.png', n, LABELS.name) for split, n in SPLITS.items()),
            *(Wanted(f'gtFine/{split}/*/*_gtFine_labelTrainIds.png', n, CONVERTED) for split, n in SPLITS.items()),
        ),
        place=place,
        convert=convert,
    ),
)
