"""Compare the labels of a segmentation dataset with its pictures and classes before a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from mmseg_tr.datasets.image_headers import ImageHeader, read_header
from mmseg_tr.datasets.label_loading import LabelLoader, LoadedLabel, has_labels, kept_random_state
from mmseg_tr.datasets.label_report import LabelReport, conclude

HEADERS = 10_000  # files whose headers are read; more are sampled evenly
DECODED = 32  # labels that are decoded
SUSPECTS = 32  # further labels to decode, whose headers differ from their pictures' or the others'
WORKERS = 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LabelledFile:
    """An item of a dataset with the headers of its two files; None for a remote or missing one."""

    index: int
    picture_path: str
    label_path: str | None
    picture: ImageHeader | None
    label: ImageHeader | None
    is_unread: bool = False  # whether a header cannot be read; the dataset's loader may still read the file


def check_labels(
    dataset: Any,
    ignore_index: int = 255,
    *,
    decode: int | None = DECODED,
    headers: int | None = HEADERS,
    progress: Progress = lambda done, total: None,
) -> LabelReport:
    """Check one dataset that holds files (see `leaf_datasets`); returns a report and raises nothing.

    ignore_index: the number that marks pixels without a class, after the dataset's transforms.
    decode, headers: how many labels are decoded and how many headers are read at most; None for all of them.
    """
    classes = dataset.metainfo.get('classes')
    report = LabelReport(type(dataset).__name__, classes, len(dataset))
    checks = _LabelChecks(report, dataset, ignore_index)
    with kept_random_state():
        files = list(checks.read_headers(_spread(len(dataset), headers)))
        labelled = [file for file in files if file.label_path is not None]
        chosen = [labelled[place] for place in _spread(len(labelled), decode)]
        suspects = checks.suspects(labelled)
        decoded = {file.index for file in chosen}
        chosen += [file for file in islice(suspects, SUSPECTS) if file.index not in decoded]
        for done, _ in enumerate(checks.decode(chosen), 1):
            progress(done, len(chosen))
        checks.compare_headers(file for file in suspects if file.index not in {one.index for one in chosen})
    conclude(report, ignore_index, [file.label_path for file in labelled])
    return report


def _spread(total: int, count: int | None) -> list[int]:
    """Return at most `count` evenly spread numbers of range(total)."""
    count = total if count is None else min(count, total)
    return [place * total // count for place in range(count)]


class _LabelChecks:
    """The steps of `check_labels`, which add to one report."""

    def __init__(self, report: LabelReport, dataset: Any, ignore_index: int):
        self.report, self.dataset, self.ignore = report, dataset, ignore_index
        self.load = LabelLoader(dataset.pipeline)
        self.turned: dict[bool, bool] = {}  # whether pictures with a sideways orientation are loaded turned
        self.sizes_are_stored = True  # whether loaded sizes are those of the headers
        length = len(report.classes or ())
        report.pixels, report.pictures = np.zeros(length, np.int64), np.zeros(length, np.int64)

    # -- headers ------------------------------------------------------------------------------------------------------
    def read_headers(self, places: Sequence[int]) -> Iterator[LabelledFile]:
        """Return the readable items at these places; the others become faults."""
        self.report.headers = len(places)
        with ThreadPoolExecutor(WORKERS) as pool:
            for portion in _portions(places, 256 * WORKERS):
                infos = [self.dataset.get_data_info(place) for place in portion]
                paths = [path for info in infos for path in (info.get('img_path'), info.get('seg_map_path'))]
                headers = [header for part in pool.map(_headers, _portions(paths, 256)) for header in part]
                for place, info, picture, label in zip(portion, infos, headers[::2], headers[1::2]):
                    file = self._readable(place, info, picture, label)
                    if file is not None:
                        yield file

    def _readable(self, place: int, info: dict, picture: Any, label: Any) -> LabelledFile | None:
        paths, found = (info.get('img_path'), info.get('seg_map_path')), (picture, label)
        for path, header in zip(paths, found):
            if isinstance(header, FileNotFoundError):
                self.report.add('file', str(path), 'does not exist.')
                return None
        if isinstance(picture, ImageHeader):
            self.report.add_size(picture.size, place)
        unread = any(isinstance(header, Exception) for header in found)
        headers = (header if isinstance(header, ImageHeader) else None for header in found)
        return LabelledFile(place, str(paths[0]), paths[1] if has_labels(info) else None, *headers, unread)

    def suspects(self, files: Sequence[LabelledFile]) -> list[LabelledFile]:
        """Return files whose headers alone do not show that they are correct."""
        known = [file for file in files if file.picture is not None and file.label is not None]
        usual = Counter((file.label.channels, file.label.bits) for file in known).most_common(1)
        odd = [
            file
            for file in known
            if file.picture.size != file.label.size
            or file.picture.orientation > 4
            or (file.label.channels, file.label.bits) != usual[0][0]
        ]
        return [file for file in files if file.is_unread] + odd

    def compare_headers(self, files: Iterable[LabelledFile]) -> None:
        """Judge the suspects that were not decoded by their headers, as the decoded ones were loaded."""
        if not self.sizes_are_stored:
            return
        for file in files:
            if file.picture is None or file.label is None:
                continue
            turned = self.turned.get(file.picture.orientation > 4, False)
            size = file.picture.shown_size if turned else file.picture.size
            if size != file.label.size:
                self._wrong_size(file, file.label.size, size)

    # -- decoded labels -----------------------------------------------------------------------------------------------
    def decode(self, files: Sequence[LabelledFile]) -> Iterator[LabelledFile]:
        """Load labels through the dataset's transforms and check each; yields each file after its check."""
        workers = WORKERS if self.load.is_thread_safe else 1
        with ThreadPoolExecutor(workers) as pool:
            for portion in _portions(files, 4 * workers):
                for file, loaded in zip(portion, pool.map(self._loaded, portion)):
                    if isinstance(loaded, LoadedLabel):
                        self._check(file, loaded)
                    elif loaded is not None:
                        self.report.add('file', file.label_path, f'or its picture {file.picture_path} {loaded}')
                    yield file

    def _loaded(self, file: LabelledFile) -> LoadedLabel | str | None:
        try:
            return self.load(self.dataset.get_data_info(file.index))
        except Exception as error:  # a damaged file or a user's transform may raise almost anything
            return f'cannot be loaded: {type(error).__name__}: {error}.'

    def _check(self, file: LabelledFile, loaded: LoadedLabel) -> None:
        self.report.decoded += 1
        if file.picture is None and loaded.picture_size is not None:
            self.report.add_size(loaded.picture_size, file.index)
        self._check_size(file, loaded)
        if loaded.label.ndim != 2:
            self.report.add(
                'dimensions',
                file.label_path,
                f'has shape {loaded.label.shape}: a label must be (height, width), one class number per pixel; convert '
                'its colours to class numbers.',
            )
            return
        if self._depth_is_kept(file, loaded.label):
            self._count(file, loaded.label)

    def _check_size(self, file: LabelledFile, loaded: LoadedLabel) -> None:
        size = loaded.picture_size
        if size is not None and size != loaded.label_size:
            self._wrong_size(file, loaded.label_size, size)
        if size is None or file.picture is None or file.label is None:
            return
        stored, sideways = file.picture.size, file.picture.orientation > 4
        if sideways and stored[0] != stored[1]:
            self.turned[True] = size == file.picture.shown_size
        self.sizes_are_stored &= loaded.label_size == file.label.size and size in (stored, file.picture.shown_size)

    def _wrong_size(self, file: LabelledFile, label: tuple[int, int], picture: tuple[int, int]) -> None:
        turned = ' once its EXIF orientation is applied' if file.picture and picture != file.picture.size else ''
        self.report.add(
            'size',
            file.label_path,
            f'has {label[0]} x {label[1]} pixels and its picture {file.picture_path} has {picture[0]} x {picture[1]}'
            f'{turned}: both must have the same height and width.',
        )

    def _depth_is_kept(self, file: LabelledFile, label: np.ndarray) -> bool:
        """Check that loading kept the numbers of a file: loaders that return 8 bits wrap or cut larger ones."""
        if file.label is None or file.label.bits <= 8 or label.dtype != np.uint8:
            return True
        with Image.open(file.label_path) as image:
            stored = np.asarray(image)
        outside = stored[~((stored >= 0) & (stored <= 255) & (stored == np.floor(stored)))]
        if outside.size:
            self.report.add(
                'depth',
                file.label_path,
                f'holds {outside.flat[0]:g} in {file.label.bits} bits, which loading turns into another number: labels '
                'must hold whole numbers from 0 to 255; write them as 8-bit PNG.',
            )
        return not outside.size

    def _count(self, file: LabelledFile, label: np.ndarray) -> None:
        numbers, counts = _numbers(label)
        length = len(self.report.pixels)
        is_class = (numbers >= 0) & (numbers < length) & (numbers == np.floor(numbers))
        places = numbers[is_class].astype(np.int64)
        self.report.pixels[places] += counts[is_class]
        self.report.pictures[places] += 1
        self.report.ignored += int(counts[numbers == self.ignore].sum())
        self.report.values.update(dict(zip(numbers.tolist(), counts.tolist())))
        strange = numbers[~is_class & (numbers != self.ignore)]
        if strange.size and self.report.classes:
            self.report.strange[file.label_path] = strange.tolist()


def _portions(items: Sequence[Any], length: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + length] for start in range(0, len(items), length))


def _headers(paths: Sequence[Any]) -> list[ImageHeader | Exception | None]:
    """Read the headers of local files; None for a remote or missing one."""
    found: list[ImageHeader | Exception | None] = []
    for path in paths:
        if not isinstance(path, str) or '://' in path:
            found.append(None)
            continue
        try:
            found.append(read_header(path))
        except (OSError, ValueError) as error:
            found.append(error)
    return found


def _numbers(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a label and how many pixels have each."""
    if label.dtype == np.uint8:
        counts = np.bincount(label.ravel(), minlength=256)
        numbers = np.flatnonzero(counts)
        return numbers, counts[numbers]
    return np.unique(label, return_counts=True)
