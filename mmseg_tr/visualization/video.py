"""Read video files; write videos and animations."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

# FFmpeg reports every damaged block; this package reports the result in one sentence
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')

import cv2
import numpy as np
from PIL import Image

from mmseg_tr.errors import DatasetError
from mmseg_tr.files import atomic_path, write_atomically

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG'}  # what is written


@dataclass(frozen=True)
class Video:
    """A readable video file. fps: frames per second; count: frames by the header, else 0."""

    path: Path
    fps: float
    count: int

    def frames(self) -> Iterator[np.ndarray]:
        """Yield its frames, (H, W, 3) uint8 RGB; those that cannot be decoded are skipped."""
        capture = _reader(self.path)
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()


def is_video(path: str | Path) -> bool:
    """Return whether a file name has the ending of a video."""
    return Path(path).suffix.lower() in VIDEOS


def open_video(path: str | Path) -> Video:
    """Open a video whose first frame can be read. Raises DatasetError."""
    capture = _reader(path)
    try:
        readable = capture.isOpened() and capture.read()[0]
        fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    if not readable:
        raise DatasetError(f'the video {path} cannot be read: it is skipped.')
    return Video(Path(path), fps if 0 < fps < 1000 else 25.0, max(count, 0))


def _reader(path: str | Path | None) -> cv2.VideoCapture:
    """Open a file with FFmpeg where OpenCV has it: OpenCV's own reader of AVI prints about damaged ones."""
    found = cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG if found else cv2.CAP_ANY)
    finally:
        cv2.utils.logging.setLogLevel(level)


class VideoWriter:
    """Writer of a video, .mp4 or .avi by its name; the file appears under its name only when complete.

    Use it as a context manager; frames are (H, W, 3) uint8 RGB of one size; odd sides grow by one pixel. Raises
    OSError when OpenCV cannot write one, and WriteError when frames are missing in the result.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self.fps, self.count = Path(path), fps, 0
        self.unfinished: Path | None = None
        self.writer: cv2.VideoWriter | None = None
        self.stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, frame: np.ndarray) -> None:
        """Write one more frame."""
        # codecs need even sides, and OpenCV would crop: the last row and column are repeated instead
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode='edge')
        if self.writer is None:
            self.unfinished = self.stack.enter_context(atomic_path(self.path))
            codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.unfinished), codec, self.fps, (frame.shape[1], frame.shape[0]))
            if not self.writer.isOpened():
                raise OSError(f'{self.path} cannot be written: this OpenCV has no encoder for it.')
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def __exit__(self, kind, error, trace) -> None:
        if self.writer is not None:
            self.writer.release()
        if kind is not None or self.writer is None:
            self.stack.__exit__(kind, error, trace)
            return
        with self.stack:
            # OpenCV reports neither a full disk nor any other failure to write
            found = readable_frames(self.unfinished)
            if found != self.count:
                raise OSError(errno.EIO, f'{found} of {self.count} frames arrived, the disk may be full')


def readable_frames(path: str | Path) -> int:
    """Return how many frames of a video can be decoded."""
    capture, count = _reader(path), 0
    try:
        while capture.grab():
            count += 1
    finally:
        capture.release()
    return count


def write_gif(frames: Sequence[np.ndarray], path: str | Path, fps: float) -> None:
    """Write a GIF that repeats forever; frames (H, W, 3) uint8 RGB."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    file = io.BytesIO()
    first.save(file, format='GIF', save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    write_atomically(file.getvalue(), path)
