"""Convert the published tables of the jump broadcast dataset (JBD) to COCO's format. Plain Python and Pillow.

Tables of joints are separated by semicolons: event, frame_num, and x, y, s of every joint, s being 0 where a joint is
not labelled. The table of boxes is separated by commas: image_id, min_x, min_y, width, height. Either may have a line
before its header. Frames are `<event>/<event>_(<frame, five digits>).jpg`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mmseg_tr.datasets.metainfo.jump_broadcast import dataset_info
from mmseg_tr.errors import DatasetError
from mmseg_tr.files import write_atomically

JOINTS = tuple(entry['name'] for entry in dataset_info['keypoint_info'].values())
BOX = ('min_x', 'min_y', 'width', 'height')
FRAME = re.compile(r'(\d+)_\((\d{1,5})\)(\.jpg)?')

Box = tuple[float, float, float, float]
Values = dict[str, str]


@dataclass
class AnnotatedSplit:
    """A split: the content of its annotation file, how many rows had no box, and which frames are missing."""

    annotations: dict
    without_box: int = 0
    missing: list[str] = field(default_factory=list)


def image_id(event: str, frame: str) -> int:
    """Return the published number of a picture: the event's digits before the frame's five."""
    return int(f'{int(event)}{int(frame):05d}')


def frame_name(event: str, frame: str) -> str:
    """Return the path of a picture in the folder of frames."""
    return f'{int(event)}/{int(event)}_({int(frame):05d}).jpg'


def read_boxes(path: str | Path) -> dict[int, Box]:
    """Read boxes (x, y, width, height) in pixels by picture; image_id is the number or the name of a frame.

    Raises DatasetError for a table that is missing, or has no such columns, or numbers that are none.
    """
    boxes = {}
    for line, row in _rows(Path(path), ('image_id', *BOX)):
        name = row['image_id'].strip().rpartition('/')[2]
        match = FRAME.fullmatch(name)
        if match is None and not _is_count(name):
            raise DatasetError(f'{path}, line {line}: image_id {row["image_id"]!r} is neither a number nor a frame.')
        number = int(name) if match is None else image_id(match[1], match[2])
        boxes[number] = tuple(_number(row, key, path, line) for key in BOX)
        if boxes[number][2] < 0 or boxes[number][3] < 0:
            width, height = row['width'], row['height']
            raise DatasetError(
                f'{path}, line {line}: a box of {width} x {height} pixels; its sides must not be negative.'
            )
    return boxes


def convert_table(table: str | Path, boxes: Mapping[int, Box], frames: str | Path) -> AnnotatedSplit:
    """Read a table of joints as COCO annotations; pictures and athletes both have the published number as their id.

    frames: the folder of frames, from which the pictures' sizes are read.
    Raises DatasetError for a table that is missing or damaged, and for a picture that is there twice or unreadable.
    """
    images, annotations, seen = [], [], set()
    converted = AnnotatedSplit(dict(images=images, annotations=annotations, categories=[_category()]))
    columns = ['event', 'frame_num', *(f'{joint}_{part}' for joint in JOINTS for part in 'xys')]
    for line, row in _rows(Path(table), columns):
        event, frame = (_whole(row, key, table, line) for key in ('event', 'frame_num'))
        number, name = image_id(event, frame), frame_name(event, frame)
        if number in seen:
            raise DatasetError(f'{table}, line {line}: frame {name} occurs twice; remove one of its lines.')
        seen.add(number)
        box = boxes.get(number)
        if box is None:
            converted.without_box += 1
            continue
        path = Path(frames) / name
        if not path.is_file():
            converted.missing.append(name)
            continue
        width, height = _size(path)
        images.append(dict(id=number, file_name=name, width=width, height=height))
        keypoints = [value for joint in JOINTS for value in _joint(row, joint, table, line)]
        labelled = sum(flag > 0 for flag in keypoints[2::3])
        entry = dict(id=number, image_id=number, category_id=1, iscrowd=0, bbox=list(box), keypoints=keypoints)
        annotations.append(dict(entry, num_keypoints=labelled))
    if not seen:
        raise DatasetError(f'{table} has no rows after its header.')
    return converted


def write_split(converted: AnnotatedSplit, folder: str | Path, split: str, frames: str | Path, *, copy: bool) -> Path:
    """Write `folder`/annotations/`split`_jump.json, and the frames as links or copies into `folder`/images/`split`.

    Pictures that are there are left alone. Returns the path of the annotations.
    """
    for image in converted.annotations['images']:
        source = (Path(frames) / image['file_name']).resolve()
        target = Path(folder) / 'images' / split / image['file_name']
        if os.path.lexists(target):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target) if copy else target.symlink_to(source)
    path = annotation_path(folder, split)
    write_atomically(json.dumps(converted.annotations), path)
    return path


def annotation_path(folder: str | Path, split: str) -> Path:
    """Return the path of a split's annotations."""
    return Path(folder) / 'annotations' / f'{split}_jump.json'


def _rows(path: Path, columns: tuple[str, ...] | list[str]) -> Iterator[tuple[int, Values]]:
    """Yield number and values of every line after the header, which is the first or the second line."""
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f'there is no table {path}: check the path.') from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'the table {path} cannot be read ({error}).') from error
    headers = [(first, *_names(line)) for first, line in enumerate(lines[:2], 1) if columns[0] in _names(line)[1]]
    if not headers:
        raise DatasetError(f'the table {path} has no column {columns[0]!r} in its first two lines.')
    first, delimiter, header = headers[0]
    absent = [name for name in columns if name not in header]
    if absent:
        raise DatasetError(f'the table {path} has no column {absent[0]!r}; it needs {", ".join(columns[:5])} ...')
    for number, values in enumerate(_cells(path, lines[first:], delimiter), first + 1):
        if len(values) != len(header) and values:
            raise DatasetError(f'{path}, line {number}: {len(values)} values for {len(header)} columns.')
        if values:
            yield number, dict(zip(header, values))


def _cells(path: Path, lines: list[str], delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter=delimiter)
    except csv.Error as error:
        raise DatasetError(f'the table {path} cannot be read ({error}).') from error


def _names(line: str) -> tuple[str, list[str]]:
    """Return a line's delimiter and the column names."""
    delimiter = ';' if line.count(';') >= line.count(',') else ','
    return delimiter, [name.strip() for name in line.split(delimiter)]


def _number(row: Values, key: str, path: str | Path, line: int) -> float:
    try:
        value = float(row[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f'{path}, line {line}: {key} must be a number, got {row[key]!r}.')
    return value


def _is_count(text: str) -> bool:
    """Whether a text is a whole number. str.isdigit() takes '\N{SUPERSCRIPT TWO}' too, and thousands of digits."""
    return text.isascii() and text.isdigit() and len(text) <= 12


def _whole(row: Values, key: str, path: str | Path, line: int) -> str:
    if not _is_count(row[key].strip()):
        raise DatasetError(
            f'{path}, line {line}: {key} is {row[key]!r}, which is not a whole number of at most 12 digits.'
        )
    return row[key].strip()


def _joint(row: Values, joint: str, path: str | Path, line: int) -> tuple[float, float, int]:
    """Return x, y and the published flag of a joint; zeros if it is not labelled."""
    flag = row[f'{joint}_s'].strip()
    if flag in ('', '0', '0.0'):
        return 0.0, 0.0, 0
    value = _number(row, f'{joint}_s', path, line)
    if value not in (1, 2):
        raise DatasetError(f'{path}, line {line}: {joint}_s is {flag!r}; flags are 0, 1 and 2.')
    return _number(row, f'{joint}_x', path, line), _number(row, f'{joint}_y', path, line), int(value)


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise DatasetError(f'the frame {path} cannot be read: repair or remove it.') from error


def _category() -> dict:
    links = [entry['link'] for entry in dataset_info['skeleton_info'].values()]
    skeleton = [[JOINTS.index(name) + 1 for name in link] for link in links]
    return dict(id=1, name='person', supercategory='person', keypoints=list(JOINTS), skeleton=skeleton)
