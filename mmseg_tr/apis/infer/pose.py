"""Poses of people in pictures: drawn by mmpose's visualiser, and keypoints as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import nn

from mmseg_tr.analysis.speed import mixed_precision
from mmseg_tr.apis.config import require_sections
from mmseg_tr.apis.infer.segment import dataset_infos
from mmseg_tr.errors import ConfigError, require_extra

Boxes = Mapping[str, list[list[float]]]


@dataclass(frozen=True)
class Posing:
    """A task of apis.infer: keypoints of the person in each box.

    pipeline: of the config's test set, from a picture at hand. info: the dataset's description, as mmpose parses it.
    boxes: (x1, y1, x2, y2) in pixels by the name of a picture; a picture that is not there is one box.
    """

    folders: ClassVar[dict[str, str]] = dict(blend='.png', keypoints='.json')
    per_frame: ClassVar[bool] = False

    model: nn.Module
    pipeline: Compose
    info: Mapping[str, Any]
    visualizer: Any
    boxes: Boxes
    amp: torch.dtype | None = None

    @torch.inference_mode()
    def predict(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[list[Any]]:
        """Per picture a mmpose sample for each of its boxes."""
        packed, owner = [], []
        for number, (image, name) in enumerate(zip(images, names)):
            whole = [[0, 0, image.shape[1], image.shape[0]]]
            for box in self.boxes.get(name, whole):
                packed.append(self.pipeline(self._request(image, box)))
                owner.append(number)
        found: list[list[Any]] = [[] for _ in images]
        if packed:
            device = next(self.model.parameters()).device
            with mixed_precision(device, self.amp):
                samples = self.model.test_step(pseudo_collate(packed))
            for number, sample in zip(owner, samples):
                found[number].append(sample)
        return found

    def _request(self, image: np.ndarray, box: Sequence[float]) -> dict[str, Any]:
        return dict(
            self.info,
            img=np.ascontiguousarray(image[..., ::-1]),  # as mmpose's loader would: BGR
            bbox=np.array([box], np.float32),
            bbox_score=np.ones(1, np.float32),
        )

    def draw(self, image: np.ndarray, samples: list[Any]) -> np.ndarray:
        """Skeletons and boxes over the picture."""
        from mmpose.structures import merge_data_samples

        if not samples:
            return image
        drawn = image.copy()
        self.visualizer.add_datasample('', drawn, merge_data_samples(samples), draw_gt=False, draw_bbox=True)
        return self.visualizer.get_image()

    def encode(self, found: list[Any]) -> bytes:
        """JSON of one picture's samples, or of those of every frame."""
        content: dict[str, Any] = dict(keypoint_names=list(self.info['keypoint_id2name'].values()))
        if found and isinstance(found[0], list):
            content['frames'] = [people_of(samples) for samples in found]
        else:
            content['people'] = people_of(found)
        return (json.dumps(content) + '\n').encode()


def people_of(samples: Sequence[Any]) -> list[dict[str, Any]]:
    """Box, and x, y (pixels of the picture) and score of every keypoint, as plain numbers."""
    people = []
    for sample in samples:
        found = sample.pred_instances
        for box, places, scores in zip(found.bboxes, found.keypoints, found.keypoint_scores):
            keypoints = np.concatenate([places, scores[:, None]], 1).astype(float)
            people.append(dict(box=box.astype(float).round(2).tolist(), keypoints=keypoints.round(4).tolist()))
    return people


def posing(
    config: Config, model: nn.Module, amp: torch.dtype | None, boxes: str | Path | None, names: Sequence[str]
) -> Posing:
    """The task of a pose config. names: of all pictures, which the boxes are for.

    Raises ConfigError for a config without a test set to take pipeline and keypoints from, and as read_boxes does.
    """
    require_extra('pose', 'mmpose', 'to find poses')
    from mmpose.datasets.datasets.utils import parse_pose_metainfo
    from mmpose.registry import TRANSFORMS
    from mmpose.visualization import PoseLocalVisualizer

    require_sections(config, 'test_dataloader')
    infos = [info for info in dataset_infos(config) if info]
    if not infos:
        raise ConfigError(f'the config {config.filename} names no dataset with keypoints: add a test_dataloader.')
    info = parse_pose_metainfo(dict(infos[0]))
    # whatever loads the dataset's own pictures is left out: ours are at hand
    pipeline = [step for step in config.test_dataloader.dataset.pipeline if not is_loader(step)]
    with TRANSFORMS.switch_scope_and_registry('mmpose'):
        pipeline = Compose([dict(type='LoadImage'), *pipeline])
    visualizer = PoseLocalVisualizer(name='mmseg_tr_infer', vis_backends=[])
    visualizer.set_dataset_meta(info)
    return Posing(model, pipeline, info, visualizer, {} if boxes is None else read_boxes(Path(boxes), names), amp)


def is_loader(step: Mapping[str, Any]) -> bool:
    """Whether a transform reads pictures: LoadImage, mmseg_tr.LoadFigures."""
    return str(step.get('type')).rpartition('.')[2].startswith('Load')


def read_boxes(path: Path, names: Sequence[str]) -> Boxes:
    """{"a.jpg": [[x1, y1, x2, y2], ...], ...}, in pixels; of a video they hold for every frame.

    names: of the pictures, as they lie below the inputs. Raises ConfigError for whatever else the file holds.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f'--boxes {path} cannot be read: {error.strerror}.') from error
    except ValueError as error:
        raise ConfigError(f'--boxes {path} is no JSON: {error}.') from error
    form = f'--boxes {path} must hold {{"a.jpg": [[x1, y1, x2, y2], ...]}}'
    if not isinstance(content, dict):
        raise ConfigError(f'{form}, not a {type(content).__name__}.')
    for name, boxes in content.items():
        if name not in names:
            raise ConfigError(
                f'--boxes {path} names {name}, which is none of the pictures: {", ".join(names[:3])}, ...'
            )
        if not isinstance(boxes, list) or not all(is_box(box) for box in boxes):
            raise ConfigError(f'{form}, numbers with x1 < x2 and y1 < y2: see {name}.')
    return content


def is_box(box: Any) -> bool:
    """Four numbers that span an area."""
    numbers = isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    return numbers and box[0] < box[2] and box[1] < box[3]
