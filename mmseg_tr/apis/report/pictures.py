"""Pictures of a report: what every method predicts, as measured by test, and what it merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmseg_tr.apis.images import Failure, find_pictures
from mmseg_tr.apis.show.layers import CELLS, MergedLayer, merged_layers
from mmseg_tr.apis.show.view import View
from mmseg_tr.engine.preprocess import PictureReader, preprocess, shown
from mmseg_tr.errors import DatasetError
from mmseg_tr.visualization.pixels import resized

HEADS = 4  # of ACT's heads, whose clusters are similar
LONGEST = 2048  # pixels of a side, beyond which a page shows less of a picture


@dataclass(frozen=True)
class Seen:
    """Result of one method on a picture. prediction: (H, W) uint8 class numbers; merged: what merges, by layer."""

    prediction: np.ndarray
    merged: Sequence[MergedLayer]


@dataclass(frozen=True)
class Shown:
    """A picture at its own size. image: (H, W, 3) uint8; label: (H, W) uint8, 255 ignored, or None.

    scale: a readable text of the size at which it entered the networks.
    """

    name: str
    image: np.ndarray
    label: np.ndarray | None
    seen: Mapping[str, Seen]
    scale: str = ''


@dataclass(frozen=True)
class Example:
    """A picture before any network. item: what the test pipeline packs; pixels: (H, W, 3) uint8 RGB."""

    name: str
    pixels: np.ndarray
    item: Mapping[str, Any]
    label: np.ndarray | None = None


def own_examples(reader: PictureReader, inputs: Sequence[str], failures: list[Failure]) -> Iterator[Example]:
    """Yield every readable image file; add the others to `failures`."""
    found, missing = find_pictures(inputs)
    failures += missing
    for picture in found:
        try:
            loaded = reader.load(picture.path)
            item = reader.pack(loaded)
        except DatasetError as error:
            failures.append(Failure(picture.path, str(error)))
            continue
        yield Example(picture.name.as_posix(), shown(loaded['img']), item)


def test_examples(reader: PictureReader, dataset: Any, count: int) -> Iterator[Example]:
    """Yield `count` pictures spread over a dataset, with their labels."""
    for index in range(0, len(dataset), -(-len(dataset) // count)):
        yield test_example(reader, dataset, index)


def test_example(reader: PictureReader, dataset: Any, index: int) -> Example:
    """Return one item of an mmseg dataset as test loads it."""
    item = dataset[index]
    sample = item['data_samples']
    pixels, size = item['inputs'].permute(1, 2, 0).numpy(), tuple(sample.ori_shape[:2])
    if pixels.shape[:2] != size:  # resized by the pipeline: what the page shows is the file
        try:
            pixels = reader.load(sample.img_path)['img']
        except DatasetError:
            pixels = resized(shown(pixels), size)[..., ::-1]
    label = sample.gt_sem_seg.data[0].numpy().astype(np.uint8) if 'gt_sem_seg' in sample else None
    return Example(f'scene {index}', shown(pixels), item, label)


@torch.inference_mode()
def look(views: Mapping[str, View], example: Example) -> Shown:
    """Run every method on a picture: the classes that test predicts, and what merges.

    Raises DatasetError for a picture that a network does not take or that enters too large.
    """
    size, seen, scale = example.pixels.shape[:2], {}, ''
    for method, view in views.items():
        entered = view.enter_item(example.item, size)
        item = dict(example.item, data_samples=example.item['data_samples'].clone())
        (sample,) = view.model(**preprocess(view.model, [item]), mode='predict')
        prediction = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        merged = [layer for layer in merged_layers(view, entered, CELLS) if _shown_part(layer.part)]
        seen[method] = Seen(prediction, merged)
        scale = scale or entered.scale
    size = page_size(next(iter(seen.values())).prediction.shape)
    seen = {method: Seen(resized(one.prediction, size), one.merged) for method, one in seen.items()}
    label = None if example.label is None else resized(example.label, size)
    return Shown(example.name, resized(example.pixels, size), label, seen, scale)


def page_size(size: Sequence[int]) -> tuple[int, int]:
    """Return the size at which a page shows a picture of this size."""
    zoom = min(LONGEST / max(size), 1)
    return tuple(max(round(side * zoom), 1) for side in size)


def _shown_part(part: str) -> bool:
    kind, _, number = part.partition(' ')
    return kind != 'head' or int(number) <= HEADS
