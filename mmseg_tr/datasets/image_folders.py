"""A folder of pictures of any format and a folder of labels as a dataset of mmseg: `mmseg_tr.ImageFolders`."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import mmseg_tr.registry  # noqa: F401 (first: it makes mmseg importable)

# isort: split

from mmseg.datasets import BaseSegDataset

from mmseg_tr.datasets.picture_files import files_below
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.registry import DATASETS

PARTS = ('all', 'train', 'val')
LABELS = ('.png', '.bmp', '.tif', '.tiff', '.pgm')

Pair = tuple[Path, Path | None]  # a picture and its label


def pair_files(images: str | os.PathLike, labels: str | os.PathLike | None, label_suffix: str = '') -> list[Pair]:
    """Pair pictures below a folder with the labels of the same relative path, except for the ending.

    Linked folders are followed, hidden files are skipped. label_suffix: what label names append to the picture's, such
    as '_L' of 0001_L.png for 0001.jpg. Labels without a picture are left out.
    Raises DatasetError when a folder does not exist or is empty, a picture has no label, or a name is not unique.
    """
    pictures = _by_stem(images, None)
    if labels is None:
        return [(path, None) for path in pictures.values()]
    known = _by_stem(labels, LABELS)
    missing = [path for stem, path in pictures.items() if f'{stem}{label_suffix}' not in known]
    if missing:
        expected = Path(labels, missing[0].relative_to(images)).with_suffix('')
        raise DatasetError(
            f'{len(missing)} of {len(pictures)} pictures below {images} have no label below {labels}, such as '
            f'{missing[0]}: it should be {expected}{label_suffix}.png.'
        )
    return [(path, known[f'{stem}{label_suffix}']) for stem, path in pictures.items()]


def find_label_suffix(images: str | os.PathLike, labels: str | os.PathLike) -> str:
    """Return the most common suffix that label names append to their pictures': '' or, for example, '_L'."""
    pictures, known = _by_stem(images, None), _by_stem(labels, LABELS)
    names = defaultdict(list)
    for stem in known:
        folder, _, name = stem.rpartition('/')
        names[folder].append(name)
    found: Counter = Counter()
    for stem in pictures:
        folder, _, name = stem.rpartition('/')
        found.update(label.removeprefix(name) for label in names[folder] if label.startswith(name))
    exact = sum(stem in known for stem in pictures)
    return '' if exact == len(pictures) or not found else max(found, key=lambda suffix: (found[suffix], -len(suffix)))


def _by_stem(folder: str | os.PathLike, suffixes: Sequence[str] | None) -> dict[str, Path]:
    """Return files by relative path without ending. Raises DatasetError when two have the same."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f'there is no folder {folder}: check the path.')
    found: dict[str, Path] = {}
    for path in files_below(folder, *([suffixes] if suffixes else [])):
        other = found.setdefault(path.relative_to(folder).with_suffix('').as_posix(), path)
        if other != path:
            raise DatasetError(f'{other} and {path} differ in their ending only: give them different names.')
    if not found:
        raise DatasetError(f'the folder {folder} holds no image.')
    return found


def split_pairs(pairs: Sequence[Pair], part: str, val_share: float) -> list[Pair]:
    """Return the pairs of a part: a hash of the names chooses a share of the pictures for validation.

    At least one pair is in either part.
    """
    if part == 'all':
        return list(pairs)
    if len(pairs) < 2:
        raise DatasetError(f'{pairs[0][0]} is the only picture: two or more can be split into train and val.')
    count = min(max(1, round(val_share * len(pairs))), len(pairs) - 1)
    root = os.path.commonpath([path.parent for path, _ in pairs])
    order = sorted(
        pairs, key=lambda pair: hashlib.sha1(os.path.relpath(pair[0], root).encode('utf-8', 'surrogateescape')).digest()
    )
    chosen = {path for path, _ in order[:count]}
    return [pair for pair in pairs if (pair[0] in chosen) == (part == 'val')]


@DATASETS.register_module()
class ImageFolders(BaseSegDataset):
    """Pictures below one folder, of any format and size, and labels of the same names below another.

    images, labels: the folders; labels=None for pictures without labels. label_suffix: see `pair_files`.
    part: 'all' pictures, or 'train' or 'val': a share of `val_share` is for validation, always the same pictures.
    Further arguments are those of mmseg's BaseSegDataset (metainfo, pipeline, reduce_zero_label, test_mode ...).
    Raises ConfigError for an unknown part or a share outside 0 to 1, and DatasetError as `pair_files` does.
    """

    def __init__(
        self,
        images: str,
        labels: str | None = None,
        part: str = 'all',
        val_share: float = 0.2,
        label_suffix: str = '',
        **kwargs,
    ) -> None:
        if part not in PARTS:
            raise ConfigError(f'ImageFolders: part must be one of {", ".join(PARTS)}, got {part!r}.')
        if not (isinstance(val_share, (int, float)) and 0 < val_share < 1):
            raise ConfigError(f'ImageFolders: val_share must be between 0 and 1, got {val_share!r}.')
        self.images, self.labels, self.part = images, labels, part
        self.val_share, self.label_suffix = float(val_share), label_suffix
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one entry per picture, in the order of their names."""
        pairs = split_pairs(pair_files(self.images, self.labels, self.label_suffix), self.part, self.val_share)
        return [self._entry(picture, label) for picture, label in pairs]

    def _entry(self, picture: Path, label: Path | None) -> dict:
        entry = dict(
            img_path=str(picture), label_map=self.label_map, reduce_zero_label=self.reduce_zero_label, seg_fields=[]
        )
        return entry if label is None else dict(entry, seg_map_path=str(label))
