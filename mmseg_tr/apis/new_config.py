"""Write a config for the user's own pictures and labels: the verb of tools/new_config.py."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmseg_tr.datasets.config_template import POLICY, TEMPLATE
from mmseg_tr.datasets.image_folders import Pair, find_label_suffix, pair_files, split_pairs
from mmseg_tr.datasets.metainfo_checks import check_classes
from mmseg_tr.datasets.survey import LabelNumbers, count_numbers, read_numbers, short_side
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import write_together
from mmseg_tr.options import Options

HALF = [127.5, 127.5, 127.5]
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
LARGEST_CROP = 512
FEWEST, MOST = 1000, 40_000  # fewest and most updates of the default
EPOCHS, BATCH = 60, 8


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder: timm's name, patch, width, normalisation and its learning rate with AdamW."""

    arch: str
    patch: int
    width: int
    mean: list[float]
    std: list[float]
    rate: float


ENCODERS = {
    'vit-ti': Encoder('vit_tiny_patch16_384', 16, 192, HALF, HALF, 1e-4),
    'vit-s': Encoder('vit_small_patch16_384', 16, 384, HALF, HALF, 6e-5),
    'vit-b': Encoder('vit_base_patch16_384', 16, 768, HALF, HALF, 3e-5),
    'dinov2-s': Encoder('vit_small_patch14_dinov2', 14, 384, *IMAGENET, 2e-5),
    'dinov2-b': Encoder('vit_base_patch14_dinov2', 14, 768, *IMAGENET, 1e-5),
}


@dataclass(frozen=True)
class NewConfigOptions(Options):
    """The user's data and the options of the training.

    images, labels: folders of pictures and of labels with the same names. classes: names, or a file with one a line.
    val_images, val_labels: folders of their own for validation; else `val_share` of the pictures.
    encoder: a key of ENCODERS. crop: pixels of a training crop; by default what fits the pictures, at most 512.
    updates: of the training; by default about 60 times through the pictures. ignore: the number of pixels without a
    class, where labels do not tell. policy: write a second config that trains the policy network of CTS. out: the file.
    """

    images: str | os.PathLike
    labels: str | os.PathLike
    classes: Sequence[str]
    val_images: str | os.PathLike | None = None
    val_labels: str | os.PathLike | None = None
    val_share: float = 0.2
    encoder: str = 'vit-s'
    crop: int | None = None
    updates: int | None = None
    ignore: int | None = None
    policy: bool = False
    out: str | os.PathLike = 'my_config.py'
    force: bool = False


@dataclass(frozen=True)
class NewConfig:
    """Written configs and notes for the user."""

    path: Path
    policy: Path | None
    notes: tuple[str, ...]


def new_config(options: NewConfigOptions) -> NewConfig:
    """Survey the data and write a config for it.

    Raises ConfigError for invalid options, DatasetError for data that cannot be used.
    """
    classes = read_classes(options.classes)
    encoder = _check(options, classes)
    path = Path(options.out)
    policy = path.with_name(f'{path.stem}_policy.py') if options.policy else None
    for file in (path, policy):
        if file is not None and file.exists() and not options.force:
            raise ConfigError(
                f'{file} exists already: give another name with out, or force.', parameters=['out', 'force']
            )
    suffix = find_label_suffix(options.images, options.labels)
    train, val = _split(options, suffix)
    numbers = read_numbers(count_numbers([label for _, label in (*train, *val)]), classes, options.ignore)
    settings = _settings(options, classes, encoder, short_side([picture for picture, _ in train]), len(train))
    settings.update(_data(options, suffix), from_one=numbers.from_one, map_labels=_mapping(numbers))
    texts = {path: TEMPLATE.format(**settings)}
    if policy is not None:
        texts[policy] = POLICY.format(base=path.name, **settings)
    write_together(texts)
    return NewConfig(path, policy, numbers.notes)


def read_classes(classes: Sequence[str]) -> list[str]:
    """Return the class names: as given, separated by commas, or the lines of a file."""
    names = [classes] if isinstance(classes, str) else list(classes)
    if len(names) == 1 and Path(names[0]).is_file():
        try:
            names = [line.strip() for line in Path(names[0]).read_text(encoding='utf-8').splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f'the file of classes {names[0]} cannot be read: {error}.') from error
    elif len(names) == 1:
        names = [name.strip() for name in names[0].split(',')]
    names = [name for name in names if name]
    check_classes(names)
    return names


def _check(options: NewConfigOptions, classes: Sequence[str]) -> Encoder:
    if options.encoder not in ENCODERS:
        known = ', '.join(ENCODERS)
        raise ConfigError(f'encoder must be one of {known}, got {options.encoder!r}.', parameters=['encoder'])
    if len(classes) < 2:
        raise ConfigError(
            f'classes must be two or more, got {classes}: name the background too.', parameters=['classes']
        )
    if (options.val_images is None) != (options.val_labels is None):
        raise ConfigError('val_images and val_labels belong together.', parameters=['val_images', 'val_labels'])
    if not 0 < options.val_share < 1:
        raise ConfigError(f'val_share must be between 0 and 1, got {options.val_share}.', parameters=['val_share'])
    for name, value, least in (('crop', options.crop, 32), ('updates', options.updates, 1)):
        if value is not None and value < least:
            raise ConfigError(f'{name} must be {least} or more, got {value}.', parameters=[name])
    if options.ignore is not None and not 0 <= options.ignore <= 255:
        raise ConfigError(f'ignore must be from 0 to 255, got {options.ignore}.', parameters=['ignore'])
    if Path(options.out).suffix != '.py':
        raise ConfigError(f'out must end in .py, got {options.out}.', parameters=['out'])
    return ENCODERS[options.encoder]


def _split(options: NewConfigOptions, suffix: str) -> tuple[list[Pair], list[Pair]]:
    pairs = pair_files(options.images, options.labels, suffix)
    if options.val_images is not None:
        return pairs, pair_files(options.val_images, options.val_labels, suffix)
    return tuple(split_pairs(pairs, part, options.val_share) for part in ('train', 'val'))


def _settings(
    options: NewConfigOptions, classes: Sequence[str], encoder: Encoder, side: int, count: int
) -> dict[str, object]:
    """Return the template's values, except the data."""
    unit = 2 * encoder.patch  # crops divide into 2 x 2 patches, as CTS requires
    crop = max(unit, (options.crop or min(side, LARGEST_CROP)) // unit * unit)
    batch = max(1, min(BATCH, count))
    updates = options.updates or min(max(FEWEST, round(EPOCHS * count / batch)), MOST)
    return dict(
        classes=list(classes),
        palette=colours(len(classes)),
        crop=crop,
        policy_crop=max(32, crop // 32 * 32),
        stride=crop - crop // 4 // encoder.patch * encoder.patch,
        batch=batch,
        updates=updates,
        interval=max(1, updates // 10),
        warmup=min(500, updates // 10),
        workers=max(1, min(4, os.cpu_count() or 1)),
        **vars(encoder),
    )


def _data(options: NewConfigOptions, suffix: str) -> dict[str, object]:
    """Return the arguments of the two datasets, as text."""
    folders = dict(images=os.path.abspath(options.images), labels=os.path.abspath(options.labels), label_suffix=suffix)
    if options.val_images is None:
        train, val = (dict(folders, part=part, val_share=options.val_share) for part in ('train', 'val'))
    else:
        train, val = (
            folders,
            dict(folders, images=os.path.abspath(options.val_images), labels=os.path.abspath(options.val_labels)),
        )
    return dict(train=_arguments(train), val=_arguments(val))


def _arguments(settings: dict[str, object]) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in settings.items() if value != '')


def _mapping(numbers: LabelNumbers) -> str:
    """Return the pipeline step that remaps label numbers."""
    if not numbers.mapping:
        return '[]'
    return f"[dict(type='mmseg_tr.MapLabels', mapping={dict(numbers.mapping)!r})]"


def colours(count: int) -> list[list[int]]:
    """Return distinct colours: hues by the golden ratio, three brightnesses."""
    found = []
    for number in range(count):
        rgb = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.55 + 0.4 * (number % 2), (0.95, 0.75, 0.55)[number % 3])
        found.append([round(255 * value) for value in rgb])
    return found
