"""Videos of tools/infer.py: frames stream through the network into a video, and into files of what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmseg_tr.apis.images import Picture
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.files import write_atomically
from mmseg_tr.visualization.video import CODECS, VideoWriter, open_video


@dataclass(frozen=True)
class VideoResults:
    """Where the results of a video go. frames: the folder of a file per frame, or None; found: one file, or None."""

    drawn: Path
    frames: Path | None = None
    found: Path | None = None

    @classmethod
    def of(cls, name: Path, out: Path, task, video_format: str, label_frames: bool) -> VideoResults:
        """Raises ConfigError for a format that is not written."""
        if f'.{video_format}' not in CODECS:
            known = ' or '.join(ending.lstrip('.') for ending in CODECS)
            raise ConfigError(f'--video-format {video_format} is unknown: give {known}.')
        (drawn, _), (found, ending) = task.folders.items()
        path = (out / drawn / name).with_suffix(f'.{video_format}')
        if task.per_frame:
            return cls(path, frames=(out / found / name).with_suffix('') if label_frames else None)
        return cls(path, found=(out / found / name).with_suffix(ending))

    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.drawn, self.frames, self.found) if path is not None)


def frame_count(path: Path) -> int:
    """How many frames a video says that it has; 0 for one that cannot be read."""
    try:
        return open_video(path).count
    except DatasetError:
        return 0


def run_video(task, picture: Picture, results: VideoResults, batch_size: int, advance: Callable[[int], None]) -> int:
    """Write the results of a video; returns how many frames could be read. advance(n): n more are done.

    Never more than a batch of frames is held. Raises DatasetError for a video without a frame that can be read.
    """
    video, number, all_found = open_video(picture.path), 0, []
    ending = list(task.folders.values())[1]
    frames = video.frames()
    with VideoWriter(results.drawn, video.fps) as writer:
        while batch := list(islice(frames, batch_size)):
            found = task.predict(batch, [picture.name.as_posix()] * len(batch))
            for frame, result in zip(batch, found):
                writer.add(task.draw(frame, result))
                if results.frames is not None:
                    write_atomically(task.encode(result), results.frames / f'{number:06d}{ending}')
                if results.found is not None:
                    all_found.append(result)
                number += 1
            advance(len(batch))
    if results.found is not None:
        write_atomically(task.encode(all_found), results.found)
    return number
