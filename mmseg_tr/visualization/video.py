"""Video files: frames in, frames and animations out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# FFmpeg tells of every damaged block; what that leads to is told by this package in a sentence
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')

import cv2
import numpy as np
from PIL import Image

from mmseg_tr.errors import DatasetError
from mmseg_tr.files import write_atomically

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG'}  # what is written


@dataclass(frozen=True)
class Video:
    """A video file that can be read. fps: frames per second; count: frames, as far as the file says, else 0."""

    path: Path
    fps: float
    count: int

    def frames(self) -> Iterator[np.ndarray]:
        """Its frames from the first on, (H, W, 3) uint8 RGB; those that cannot be decoded are passed over."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()


def is_video(path: str | Path) -> bool:
    """Whether a file's name ends as that of a video."""
    return Path(path).suffix.lower() in VIDEOS


def open_video(path: str | Path) -> Video:
    """A video whose first frame can be read. Raises DatasetError."""
    capture = cv2.VideoCapture(str(path))
    try:
        readable = capture.isOpened() and capture.read()[0]
        fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    if not readable:
        raise DatasetError(f'the video {path} cannot be read: it is left out.')
    return Video(Path(path), fps if 0 < fps < 1000 else 25.0, max(count, 0))


class VideoWriter:
    """A video, .mp4 or .avi by its name, that is there under its name only when it is complete.

    Use it as a context manager; frames are (H, W, 3) uint8 RGB of one size; odd sides grow by one pixel. Raises OSError
    where OpenCV cannot write one.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self.fps = Path(path), fps
        # OpenCV chooses the container by the ending
        self.unfinished = self.path.with_name(f'.{self.path.stem}.unfinished{self.path.suffix}')
        self.writer: cv2.VideoWriter | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, frame: np.ndarray) -> None:
        # codecs take even sides, and OpenCV would cut: the last row and column are repeated instead
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode='edge')
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.unfinished), codec, self.fps, (frame.shape[1], frame.shape[0]))
            if not self.writer.isOpened():
                raise OSError(f'{self.path} cannot be written: this OpenCV has no encoder for it.')
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __exit__(self, kind, error, trace) -> None:
        if self.writer is not None:
            self.writer.release()
        if kind is None and self.writer is not None:
            os.replace(self.unfinished, self.path)
        else:
            with suppress(OSError):
                self.unfinished.unlink(missing_ok=True)


def write_gif(frames: Sequence[np.ndarray], path: str | Path, fps: float) -> None:
    """A GIF that repeats for ever; frames (H, W, 3) uint8 RGB."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    file = io.BytesIO()
    first.save(file, format='GIF', save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    write_atomically(file.getvalue(), path)
