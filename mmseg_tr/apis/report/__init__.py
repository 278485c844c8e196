"""What the interactive report shows: pictures under several methods, and a comparison. See report_page for the page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from mmseg_tr.analysis.network import network_of
from mmseg_tr.apis.compare.models import (
    PLAIN,
    check_alike,
    names_of,
    settings_of,
    share_weights,
    with_plain,
)
from mmseg_tr.apis.config import load_config, require_sections
from mmseg_tr.apis.images import Failure, find_pictures
from mmseg_tr.apis.meta import metainfos, palette_of
from mmseg_tr.apis.preprocess import PictureReader, shown
from mmseg_tr.apis.show.view import RANDOM, View, open_view
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.reduction.observe import Merged

HEADS = 4  # of ACT's heads, which cluster alike


@dataclass(frozen=True)
class Seen:
    """What one method makes of a picture. prediction: (H, W) uint8 class numbers; merged: as merging.watch() tells."""

    prediction: np.ndarray
    merged: list[Merged]


@dataclass(frozen=True)
class Shown:
    """A picture as the networks see it, whole. image: (H, W, 3) uint8; label: (H, W) uint8, 255 ignored, or None."""

    name: str
    image: np.ndarray
    label: np.ndarray | None
    seen: Mapping[str, Seen]


@dataclass(frozen=True)
class Report:
    """All that the page tells.

    methods: settings of every method by its name, the plain model (no settings) first. rows: of a comparison, as
    compare.json has them, the plain model first; about: its circumstances. facts: sentences for the foot of the page.
    """

    title: str
    summary: str
    methods: Mapping[str, Mapping[str, Any]]
    pictures: Sequence[Shown]
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    rows: Sequence[Mapping[str, Any]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    facts: Sequence[str] = ()


def build_report(
    configs: Sequence[str],
    checkpoint: str,
    inputs: Sequence[str] = (),
    *,
    comparison: str | None = None,
    scenes: int = 5,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    report: Callable[[Failure], None] = lambda failure: None,
) -> Report:
    """Every config, and their plain model, on the same pictures with the same weights.

    inputs: image files and folders; without any, `scenes` pictures spread over the test set of the plain config, with
    their labels. checkpoint='none' gives random weights. comparison: a compare.json of tools/compare.py.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError.
    """
    if scenes < 1:
        raise ConfigError(f'--scenes {scenes} is too few: give 1 or more.')
    rows, about = read_comparison(comparison) if comparison else ((), {})
    loaded = [load_config(path, cfg_options) for path in configs]
    for config in loaded:
        require_sections(config, 'model')
    named = with_plain(dict(zip(names_of(configs), loaded)))
    views: dict[str, View] = {}
    for name, config in named.items():
        progress(f'building {name}')
        views[name] = open_view(config, checkpoint, device=device)
    models = {name: view.model for name, view in views.items()}
    check_alike(models)
    share_weights(models)
    first = next(iter(views.values()))
    palette = palette_of(first.config, first.model)
    pictures = []
    for name, pixels, label in (
        own_pictures(first.config, inputs, report) if inputs else test_pictures(first.config, scenes)
    ):
        progress(f'looking at {name}')
        pictures.append(look(views, name, pixels, label))
    if not pictures:
        raise DatasetError('none of the pictures can be read: name others.')
    weights = 'The weights are random.' if checkpoint == RANDOM else f'Weights: {Path(checkpoint).name}.'
    return Report(
        title='Token reduction, picture by picture',
        summary=f'{len(views)} models over one checkpoint, {len(pictures)} pictures.',
        methods={name: settings_of(config) for name, config in named.items()},
        pictures=pictures,
        classes=class_names(first, len(palette)),
        palette=palette,
        rows=rows,
        about=about,
        facts=[f'{weights} Every picture enters whole, its short side {first.side} pixels.'],
    )


def own_pictures(config: Config, inputs: Sequence[str], report: Callable[[Failure], None]):
    """Name, pixels and no label of every file that can be read; what cannot is reported."""
    (found, failures), reader = find_pictures(inputs), PictureReader.of(config)
    for failure in failures:
        report(failure)
    for picture in found:
        try:
            yield picture.name.as_posix(), shown(reader.load(picture.path)['img']), None
        except DatasetError as error:
            report(Failure(picture.path, str(error)))


def test_pictures(config: Config, count: int):
    """Name, pixels (H, W, 3) and label (H, W) of pictures spread over the test set of a config."""
    require_sections(config, 'test_dataloader')
    dataset = build_dataset(config.test_dataloader.dataset)
    for index in range(0, len(dataset), -(-len(dataset) // count)):
        yield (f'scene {index}', *pixels_and_label(dataset[index]))


def pixels_and_label(item: dict) -> tuple[np.ndarray, np.ndarray]:
    """RGB (H, W, 3) uint8 and classes (H, W) uint8 of one item of a dataset of mmseg."""
    pixels = item['inputs'].flip(0).permute(1, 2, 0).numpy()
    label = item['data_samples'].gt_sem_seg.data[0].numpy().astype(np.uint8)
    return pixels, np.asarray(resized(label, pixels.shape[:2]))


def resized(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class numbers at another size (h, w), each pixel the nearest one's."""
    if label.shape == tuple(size):
        return label
    return np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))


@torch.inference_mode()
def look(views: Mapping[str, View], name: str, pixels: np.ndarray, label: np.ndarray | None) -> Shown:
    """One picture under every method, each in one forward of the whole picture."""
    image = next(iter(views.values())).fit(pixels)
    seen = {}
    for method, view in views.items():
        batch, network = view.prepared(image), network_of(view.model)
        prediction = network.labels(network.scores(batch), batch)[0].cpu().numpy().astype(np.uint8)
        merged = [entry for entry in view.network.watch(batch) if _shown_part(entry.part)]
        seen[method] = Seen(prediction, merged)
    return Shown(name, image, None if label is None else resized(label, image.shape[:2]), seen)


def _shown_part(part: str) -> bool:
    kind, _, number = part.partition(' ')
    return kind != 'head' or int(number) <= HEADS


def class_names(view: View, count: int) -> list[str]:
    """Names of the classes, of the config's dataset, or their numbers."""
    for info in metainfos(view.config):
        if info.get('classes') and len(info['classes']) >= count:
            return list(info['classes'])
    return [f'class {number}' for number in range(count)]


def read_comparison(path: str) -> tuple[list[dict], dict]:
    """Rows and circumstances from a compare.json. Raises ConfigError."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f'there is no comparison {path}: give the compare.json that tools/compare.py wrote.')
    try:
        content = json.loads(file.read_text())
        rows, about = list(content['rows']), dict(content['about'])
        usable = rows and all({'name', 'method', 'miou', 'gmacs'} <= set(row) for row in rows)
    except (ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        raise ConfigError(f'{path} is no comparison: give the compare.json that tools/compare.py wrote.')
    return rows, about


def labels_of(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What people call every method: its type, told from others of the type by a setting of its own."""
    kinds = {name: str(settings.get('type', PLAIN)) for name, settings in methods.items()}
    labels = {}
    for name, settings in methods.items():
        alike = [other for other in methods if other != name and kinds[other] == kinds[name]]
        own = [
            key
            for key in settings
            if key != 'type' and all(methods[other].get(key) != settings[key] for other in alike)
        ]
        if alike and own:
            value = settings[own[0]]
            labels[name] = f'{kinds[name]}, {value if isinstance(value, str) else f"{own[0]}={value}"}'
        else:
            labels[name] = f'{kinds[name]}, {name}' if alike else kinds[name]
    return labels if max(Counter(labels.values()).values()) == 1 else {name: name for name in methods}
