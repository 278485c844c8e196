"""A trained network with its preprocessing, class names and colours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmseg_tr.apis.build import build_model, pick_precision, prepare_device
from mmseg_tr.apis.config import load_config, require_sections, use_reduction
from mmseg_tr.apis.infer.pose import people_of, posing
from mmseg_tr.apis.infer.segment import Segmenting
from mmseg_tr.apis.infer.task import Task, same_size
from mmseg_tr.apis.meta import classes_of
from mmseg_tr.engine.pose_checks import is_pose_config
from mmseg_tr.engine.preprocess import Picturelike, PictureReader
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.options import check_type
from mmseg_tr.paths import require_checkpoint
from mmseg_tr.reduction.checks import check_integer
from mmseg_tr.weights.folder import CONFIG, OPENMMLAB, WEIGHTS, find_folder, read_settings


class Predictor:
    """A config and its checkpoint as one object that predicts what tools/test.py measures.

        predictor = mmseg_tr.Predictor('config.py', 'checkpoint.pth', reduction='type=ToMe,r=8')
        label = predictor.predict('street.jpg')             # (H, W) class numbers; poses: a list of people
        predictor.classes[label[0, 0]], predictor.palette   # names and colours

    config: a file, the name of a shipped one, or a Config. checkpoint: weights of this model.
    reduction: text as the tools take it, a dict, or None for what the config has. native: pictures enter at their own
    size, without the pipeline's Resize. device, amp, cfg_options: as in infer().
    model: the network, in eval mode. classes, palette: of segmentation, palette None where nothing names colours.
    keypoints: names, of pose. Raises ConfigError, CheckpointError or DeviceError.
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        *,
        reduction: str | Mapping[str, Any] | None = None,
        native: bool = False,
        device: str | None = None,
        amp: str | None = None,
        cfg_options: Mapping[str, Any] | None = None,
    ) -> None:
        place, dtype = prepare_device(device), pick_precision(amp, device)
        require_checkpoint(checkpoint)
        self.config = configured(config, reduction, cfg_options)
        self.model = build_model(self.config, str(checkpoint)).to(place).eval()
        self.classes: tuple[str, ...] = ()
        self.palette = self.keypoints = None
        self.task: Task
        if is_pose_config(self.config):
            if native:
                raise ConfigError('native is for segmentation: a pose is found in a box.', parameters=['native'])
            self.task = posing(self.config, self.model, dtype)
            self.keypoints = tuple(self.task.info['keypoint_id2name'].values())
        else:
            found = classes_of(self.config, self.model, str(checkpoint))
            self.classes, self.palette = found.names, found.palette
            self.task = Segmenting(self.model, PictureReader.of(self.config), found.palette, dtype, native)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, trust: bool = False, **options: Any
    ) -> Predictor:
        """Return a predictor of what checkpoints.folder.save_pretrained() wrote; options: as above.

        source: a folder, or a name on the hub, 'user/model', whose config.py is a program: trust=True runs it.
        Raises CheckpointError for a folder or name that is not such a model, ConfigError without trust.
        """
        check_type('source', source, str | os.PathLike)
        if not trust and not Path(source).is_dir():
            raise ConfigError(
                f'the config of {str(source)!r} is a Python program from the hub: read it, then set trust=True.',
                parameters=['trust'],
            )
        folder = find_folder(source, revision)
        if read_settings(folder)['kind'] != OPENMMLAB:
            raise CheckpointError(
                f'{source} is a network without a config: use mmseg_tr.from_pretrained({str(source)!r}).'
            )
        return cls(folder / CONFIG, folder / WEIGHTS, **options)

    def predict(self, pictures: Picturelike | Sequence[Picturelike], batch_size: int = 1) -> Any:
        """Return the class of every pixel, (H, W) uint8 (int32 above 256 classes), or the people in the picture.

        pictures: a path, a PIL image or an array (H, W, 3) of RGB, or a list of them, for which a list is returned.
        People are dicts of box and keypoints, (x, y, score) in pixels, one for the whole picture.
        Raises DatasetError for a picture that cannot be read or that the network does not take.
        """
        check_integer('batch_size', batch_size, 1)
        if not isinstance(pictures, list | tuple):
            return self.predict([pictures])[0]
        results: list[Any] = [None] * len(pictures)
        for start in range(0, len(pictures), batch_size):
            chunk = range(start, min(start + batch_size, len(pictures)))
            requests = [self.task.read(pictures[number], str(number)) for number in chunk]
            for same in same_size(requests):
                for request, result in zip(same, self.task.predict(same)):
                    results[int(request.name)] = people_of(result) if self.keypoints else result
        return results

    def draw(self, picture: Picturelike) -> np.ndarray:
        """Draw the prediction over its picture, like tools/infer.py: (H, W, 3) uint8 RGB."""
        request = self.task.read(picture)
        return self.task.draw(request, self.task.predict([request])[0])


def configured(
    config: str | Path | Config, reduction: str | Mapping[str, Any] | None, cfg_options: Mapping[str, Any] | None
) -> Config:
    """Load a config, and set another method if one is given. Raises ConfigError."""
    config = load_config(config, cfg_options)
    require_sections(config, 'model')
    if reduction is not None:
        use_reduction(config, reduction)
    return config
