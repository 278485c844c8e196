"""Predict class maps and poses of pictures and videos: the verb of tools/infer.py, and Predictor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmseg_tr.apis.build import MOST_IMAGES, build_model, pick_precision, prepare_device
from mmseg_tr.apis.images import Failure, Picture, find_pictures
from mmseg_tr.apis.infer.pose import Posing, posing, read_boxes
from mmseg_tr.apis.infer.predictor import Predictor, configured
from mmseg_tr.apis.infer.segment import Segmenting
from mmseg_tr.apis.infer.task import Task
from mmseg_tr.apis.infer.write import Results, StillResults, VideoResults, Writing, check_output
from mmseg_tr.apis.meta import palette_of
from mmseg_tr.engine.pose_checks import is_pose_config
from mmseg_tr.engine.preprocess import PictureReader
from mmseg_tr.errors import ConfigError
from mmseg_tr.options import Options, check_type
from mmseg_tr.paths import require_checkpoint

__all__ = ['InferOptions', 'Predictor', 'infer']


@dataclass(frozen=True)
class InferOptions(Options):
    """How to predict, and what to write.

    reduction: settings over the config's, text as config.parse_reduction reads it, or a dict. native: pictures enter at
    their own size, cut into the config's windows, as published with Segmenter; by default they go through the config's
    test pipeline. batch_size: pictures of one size, or frames, that run together. device: 'cpu', 'cuda', 'cuda:1'; by
    default a GPU if available. amp: 'bf16' or 'fp16'. force: replace results that exist.
    video_format: 'mp4' or 'avi'. label_frames: of videos, also a PNG of class numbers per frame. boxes: for pose
    configs, a JSON file, see pose.read_boxes; without it the whole picture is one box.
    cfg_options: settings that replace those of the config.
    progress(done, total) is called after every batch, in pictures and frames; report(failure) for every file that was
    skipped or is incomplete; tell(sentence) once, with the scale at which pictures enter.
    """

    reduction: str | Mapping[str, Any] | None = None
    native: bool = False
    batch_size: int = 1
    device: str | torch.device | None = None
    amp: str | None = None
    force: bool = False
    video_format: str = 'mp4'
    label_frames: bool = False
    boxes: str | Path | None = None
    cfg_options: Mapping[str, Any] | None = None
    progress: Callable[[int, int], None] = lambda done, total: None
    report: Callable[[Failure], None] = lambda failure: None
    tell: Callable[[str], None] = lambda sentence: None


def infer(
    config: str | Config,
    checkpoint: str,
    inputs: Sequence[str | Path],
    out: str | Path,
    options: InferOptions | None = None,
    **settings: Any,
) -> tuple[int, list[Failure]]:
    """Write `blend` (half picture, half the dataset's colours; or poses) and `label` (class numbers) or `keypoints`.

    inputs: image and video files, and folders, which are searched. settings: fields of InferOptions, over `options`.
    Labels are those that test predicts. Returns how many files were written, and the failures.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError before anything is written.
    """
    options = replace(options or InferOptions(), **settings)
    check_type('out', out, str | os.PathLike)
    place, dtype = prepare_device(options.device), pick_precision(options.amp, options.device)
    require_checkpoint(checkpoint)
    config = configured(config, options.reduction, options.cfg_options)
    pose = is_pose_config(config)
    check_options(config, options, pose)
    pictures, failures = find_pictures(inputs, videos=True)
    results = planned(pictures, Path(out), Posing if pose else Segmenting, options)
    check_output({picture.path: found.paths() for picture, found in results.items()}, Path(out), options.force)
    model = build_model(config, checkpoint).to(place).eval()
    task: Task
    if pose:
        names = [picture.name.as_posix() for picture in pictures]
        boxes = None if options.boxes is None else read_boxes(Path(options.boxes), names)
        task = posing(config, model, dtype, boxes)
    else:
        palette = palette_of(config, model, checkpoint)
        task = Segmenting(model, PictureReader.of(config), palette, dtype, options.native)
    writing = Writing(task, options.batch_size, options.progress, options.report, options.tell)
    with torch.inference_mode():
        writing.write(results, failures)
    return writing.written, writing.failures


def check_options(config: Config, options: InferOptions, pose: bool) -> None:
    """Raise ConfigError for options that are out of range or belong to the other kind of config."""
    if not 1 <= options.batch_size <= MOST_IMAGES:
        raise ConfigError(
            f'batch_size must be from 1 to {MOST_IMAGES}, got {options.batch_size}.', parameters=['batch_size']
        )
    if options.boxes is not None and not pose:
        raise ConfigError(
            f'boxes belongs to configs of pose, {config.filename} is of segmentation: leave it out.',
            parameters=['boxes'],
        )
    if options.native and pose:
        raise ConfigError('native is for segmentation, and this is a pose config: leave it out.', parameters=['native'])


def planned(pictures: Sequence[Picture], out: Path, task: type[Task], options: InferOptions) -> dict[Picture, Results]:
    """Return where the results of every picture and video go."""
    return {
        picture: VideoResults.of(picture.name, out, task, options.video_format, options.label_frames)
        if picture.is_video
        else StillResults.of(picture.name, out, task)
        for picture in pictures
    }
