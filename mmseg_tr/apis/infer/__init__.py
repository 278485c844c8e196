"""Class maps and poses of one's own pictures and videos, with a config and a checkpoint: what tools/infer.py does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mmengine.config import Config

from mmseg_tr.apis.build import build_model, pick_precision, prepare_device
from mmseg_tr.apis.config import load_config, require_checkpoint, require_sections, use_reduction
from mmseg_tr.apis.images import Failure, Picture, find_pictures
from mmseg_tr.apis.infer.inputs import check_output, read_rgb
from mmseg_tr.apis.infer.pose import Posing, posing
from mmseg_tr.apis.infer.segment import Segmenting, dataset_infos, palette_of, segment
from mmseg_tr.apis.infer.video import VideoResults, frame_count, run_video
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.files import write_atomically
from mmseg_tr.visualization.attention import picture_png

__all__ = ['Failure', 'Picture', 'dataset_infos', 'find_pictures', 'infer', 'palette_of', 'read_rgb', 'segment']


class Task(Protocol):
    """What is made of a picture. folders: two of OUT, for what is drawn and for what was found, with their endings.

    per_frame: whether a video has a file of what was found for every frame, or one file for all.
    """

    folders: Mapping[str, str]
    per_frame: bool

    def predict(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[Any]:
        """Results of pictures of one size, (H, W, 3) uint8 RGB; names: those of Picture."""

    def draw(self, image: np.ndarray, result: Any) -> np.ndarray:
        """A result over its picture, at the picture's size."""

    def encode(self, result: Any) -> bytes:
        """The file of what was found; from a list of results, where one file is for all frames."""


def infer(
    config: str | Config,
    checkpoint: str,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    reduction: str | None = None,
    batch_size: int = 1,
    device: str | None = None,
    amp: str | None = None,
    force: bool = False,
    video_format: str = 'mp4',
    label_frames: bool = False,
    boxes: str | Path | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[Failure], None] = lambda failure: None,
) -> tuple[int, list[Failure]]:
    """Write `blend` (half picture, half the dataset's colours; or poses) and `label` (class numbers) or `keypoints`.

    inputs: image and video files, and folders, which are searched through. reduction: settings over the config's, as
    `overrides.parse_reduction` reads them. batch_size: pictures of one size, or frames, that run together.
    video_format: 'mp4' or 'avi'. label_frames: of videos, also a PNG of class numbers per frame. boxes: for pose
    configs, a JSON file, see `infer_poses.read_boxes`; without it the whole picture is one box.
    progress(done, total) is called after every batch, in pictures and frames; report(failure) for every file that was
    left out, or of which some could not be read. Returns how many files were written, and the failures.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError when nothing can be done at all.
    """
    place, dtype = prepare_device(device), pick_precision(amp, device)
    if batch_size < 1:
        raise ConfigError(f'--batch-size {batch_size} is too small: give 1 or more.')
    require_checkpoint(checkpoint)
    config = load_config(config, cfg_options)
    require_sections(config, 'model')
    if reduction is not None:
        use_reduction(config, reduction)
    pose = config.get('default_scope') == 'mmpose'
    if boxes is not None and not pose:
        raise ConfigError(f'--boxes belongs to configs of pose, {config.filename} is of segmentation: leave it out.')
    pictures, failures = find_pictures(inputs, videos=True)
    kind = Posing if pose else Segmenting
    results = {
        picture: VideoResults.of(picture.name, Path(out), kind, video_format, label_frames)
        if picture.is_video
        else StillResults.of(picture.name, Path(out), kind)
        for picture in pictures
    }
    check_output({picture.path: found.paths() for picture, found in results.items()}, Path(out), force)
    model = build_model(config, checkpoint).to(place).eval()
    if pose:
        task = posing(config, model, dtype, boxes, [picture.name.as_posix() for picture in pictures])
    else:
        task = Segmenting(model, palette_of(config, model), dtype)
    run = Run(task, batch_size, progress, report)
    run.start(results, failures)
    return run.written, run.failures


@dataclass(frozen=True)
class StillResults:
    """Where the results of a picture go."""

    drawn: Path
    found: Path

    @classmethod
    def of(cls, name: Path, out: Path, task: type[Task]) -> StillResults:
        return cls(*(out / folder / name.with_suffix(ending) for folder, ending in task.folders.items()))

    def paths(self) -> tuple[Path, ...]:
        return self.drawn, self.found


@dataclass
class Run:
    """Pictures, then videos, with what is told on the way. passed, total: pictures and frames."""

    task: Task
    batch_size: int
    progress: Callable[[int, int], None]
    report: Callable[[Failure], None]
    failures: list[Failure] = field(default_factory=list)
    written: int = 0
    passed: int = 0
    total: int = 0

    def start(self, results: Mapping[Picture, StillResults | VideoResults], failures: Sequence[Failure]) -> None:
        """Write everything; `failures` are known already."""
        stills = [picture for picture in results if not picture.is_video]
        videos = {picture: frame_count(picture.path) for picture in results if picture.is_video}
        self.total = len(failures) + len(stills) + sum(max(count, 1) for count in videos.values())
        for failure in failures:
            self.fail(failure.path, failure.reason)
        for start in range(0, len(stills), self.batch_size):
            self.stills(stills[start : start + self.batch_size], results)
        for picture, count in videos.items():
            self.video(picture, results[picture], count)

    def stills(self, pictures: Sequence[Picture], results: Mapping[Picture, StillResults]) -> None:
        read = []
        for picture in pictures:
            try:
                read.append((picture, read_rgb(picture.path)))
            except DatasetError as error:
                self.fail(picture.path, str(error))
        for same in _same_size(read):
            found = self.task.predict([image for _, image in same], [picture.name.as_posix() for picture, _ in same])
            for (picture, image), result in zip(same, found):
                write_atomically(picture_png(self.task.draw(image, result)), results[picture].drawn)
                write_atomically(self.task.encode(result), results[picture].found)
                self.written += 1
        self.advance(len(read))

    def video(self, picture: Picture, results: VideoResults, count: int) -> None:
        before = self.passed
        try:
            frames = run_video(self.task, picture, results, self.batch_size, self.advance)
        except DatasetError as error:
            self.fail(picture.path, str(error))
            return
        self.written += 1
        self.passed = before + max(count, frames)
        if frames < count:
            said = f'has {count} frames by its header, {frames} could be read: those are in the result.'
            self.fail(picture.path, f'the video {picture.path} {said}', passed=0, skipped=False)

    def fail(self, path: Path, reason: str, passed: int = 1, skipped: bool = True) -> None:
        self.failures.append(Failure(path, reason, skipped))
        self.report(self.failures[-1])
        self.advance(passed)

    def advance(self, number: int) -> None:
        self.passed += number
        self.total = max(self.total, self.passed)
        self.progress(self.passed, self.total)


def _same_size(read: list[tuple[Picture, np.ndarray]]) -> Iterator[list[tuple[Picture, np.ndarray]]]:
    """Pictures of one size together: padding would change what a network sees."""
    groups: dict[tuple[int, ...], list] = {}
    for item in read:
        groups.setdefault(item[1].shape, []).append(item)
    yield from groups.values()
