"""Predict poses of people: pictures drawn by mmpose's visualiser, and keypoints as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.speed import mixed_precision
from mmseg_tr.apis.infer.task import Request
from mmseg_tr.apis.meta import metainfos
from mmseg_tr.engine.preprocess import Picturelike, PictureReader, preprocess, shown
from mmseg_tr.errors import ConfigError, require_extra

Boxes = Mapping[str, list[list[float]]]


@dataclass(frozen=True)
class Posing:
    """A task of infer: keypoints of the person in each box.

    info: the dataset's description, as mmpose parses it. boxes: (x1, y1, x2, y2) in pixels by the name of a picture; a
    picture without an entry is one box.
    """

    folders: ClassVar[dict[str, str]] = dict(blend='.png', keypoints='.json')
    per_frame: ClassVar[bool] = False

    model: nn.Module
    reader: PictureReader
    info: Mapping[str, Any]
    boxes: Boxes
    amp: torch.dtype | None = None

    def read(self, picture: Picturelike, name: str = '') -> Request:
        loaded = self.reader.load(picture)
        boxes = self.boxes.get(name, [None])
        items = tuple(self.reader.pack({**self.info, **loaded}, box=box) for box in boxes)
        return Request(name, shown(loaded['img']), items)

    @torch.inference_mode()
    def predict(self, requests: Sequence[Request]) -> list[list[Any]]:
        """Return mmpose samples per picture, one for each of its boxes."""
        found: list[list[Any]] = [[] for _ in requests]
        owners = [number for number, request in enumerate(requests) for _ in request.items]
        if owners:
            data = preprocess(self.model, [item for request in requests for item in request.items])
            with mixed_precision(data['inputs'].device, self.amp):
                samples = self.model(**data, mode='predict')
            for number, sample in zip(owners, samples):
                found[number].append(sample)
        return found

    @cached_property
    def visualizer(self) -> Any:
        """Return mmpose's visualiser, which draws skeletons."""
        from mmpose.visualization import PoseLocalVisualizer

        visualizer = PoseLocalVisualizer(name='mmseg_tr_infer', vis_backends=[])
        visualizer.set_dataset_meta(self.info)
        return visualizer

    def draw(self, request: Request, result: list[Any]) -> np.ndarray:
        """Draw skeletons and boxes over the picture."""
        from mmpose.structures import merge_data_samples

        if not result:
            return request.pixels
        drawn = request.pixels.copy()
        self.visualizer.add_datasample('', drawn, merge_data_samples(result), draw_gt=False, draw_bbox=True)
        return self.visualizer.get_image()

    def encode(self, result: list[Any]) -> bytes:
        """Encode the samples of one picture, or of every frame, as JSON."""
        content: dict[str, Any] = dict(keypoint_names=list(self.info['keypoint_id2name'].values()))
        if result and isinstance(result[0], list):
            content['frames'] = [people_of(samples) for samples in result]
        else:
            content['people'] = people_of(result)
        return (json.dumps(content) + '\n').encode()


def people_of(samples: Sequence[Any]) -> list[dict[str, Any]]:
    """Return each person's box, and x, y (pixels of the picture) and score of every keypoint."""
    people = []
    for sample in samples:
        found = sample.pred_instances
        for box, places, scores in zip(found.bboxes, found.keypoints, found.keypoint_scores):
            keypoints = np.concatenate([places, scores[:, None]], 1).astype(float)
            people.append(dict(box=box.astype(float).round(2).tolist(), keypoints=keypoints.round(4).tolist()))
    return people


def posing(config: Config, model: nn.Module, amp: torch.dtype | None, boxes: Boxes | None = None) -> Posing:
    """Build the task of a pose config. Raises ConfigError for a config without a dataset that names the keypoints."""
    require_extra('pose', 'mmpose', 'to find poses')
    info = next((info for info in metainfos(config) if info.get('keypoint_id2name')), None)
    if info is None:
        raise ConfigError(f'the config {config.filename} names no dataset with keypoints: add a test_dataloader.')
    return Posing(model, PictureReader.of(config), info, boxes or {}, amp)


def read_boxes(path: Path, names: Sequence[str]) -> Boxes:
    """{"a.jpg": [[x1, y1, x2, y2], ...], ...}, in pixels; for a video they apply to every frame.

    names: paths of the pictures below the inputs. Raises ConfigError for other content.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f'boxes {path} cannot be read: {error.strerror}.', parameters=['boxes']) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f'boxes {path} is not valid JSON: {error}.', parameters=['boxes']) from error
    form = f'boxes {path} must hold {{"a.jpg": [[x1, y1, x2, y2], ...]}}'
    if not isinstance(content, dict):
        raise ConfigError(f'{form}, got a {type(content).__name__}.', parameters=['boxes'])
    for name, boxes in content.items():
        if name not in names:
            raise ConfigError(
                f'boxes {path} names {name}, which is none of the pictures: {", ".join(names[:3])}, ...',
                parameters=['boxes'],
            )
        if not isinstance(boxes, list) or not all(is_box(box) for box in boxes):
            raise ConfigError(f'{form}, numbers with x1 < x2 and y1 < y2: see {name}.', parameters=['boxes'])
    return content


def is_box(box: Any) -> bool:
    """Return whether a box is four numbers that span an area."""
    numbers = isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    return numbers and box[0] < box[2] and box[1] < box[3]
