"""Write results of infer: pictures in batches, then videos frame by frame, read and written beside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mmseg_tr.apis.images import Failure, Picture
from mmseg_tr.apis.infer.overlap import Writer, read_ahead
from mmseg_tr.apis.infer.task import Request, Task, same_size
from mmseg_tr.engine.windows import entry_sentence
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.files import write_atomically
from mmseg_tr.visualization.attention import picture_png
from mmseg_tr.visualization.video import CODECS, VideoWriter, open_video

FAST = 1  # level of compression: a photograph is written five times as fast as at 6, and takes an eighth more


@dataclass(frozen=True)
class StillResults:
    """Result paths of a picture."""

    drawn: Path
    found: Path

    @classmethod
    def of(cls, name: Path, out: Path, task: type[Task]) -> StillResults:
        """name: of the picture, below its folder."""
        return cls(*(out / folder / name.with_suffix(ending) for folder, ending in task.folders.items()))

    def paths(self) -> tuple[Path, ...]:
        """Return files that will be written."""
        return self.drawn, self.found


@dataclass(frozen=True)
class VideoResults:
    """Result paths of a video. frames: the folder of a file per frame, or None; found: one file, or None."""

    drawn: Path
    frames: Path | None = None
    found: Path | None = None

    @classmethod
    def of(cls, name: Path, out: Path, task: type[Task], video_format: str, label_frames: bool) -> VideoResults:
        """Raises ConfigError for a format that is not written."""
        if f'.{video_format}' not in CODECS:
            known = ' or '.join(ending.lstrip('.') for ending in CODECS)
            raise ConfigError(f'video_format must be {known}, got {video_format}.', parameters=['video_format'])
        (drawn, _), (found, ending) = task.folders.items()
        path = (out / drawn / name).with_suffix(f'.{video_format}')
        if task.per_frame:
            return cls(path, frames=(out / found / name).with_suffix('') if label_frames else None)
        return cls(path, found=(out / found / name).with_suffix(ending))

    def paths(self) -> tuple[Path, ...]:
        """Return files and folders that will be written."""
        return tuple(path for path in (self.drawn, self.frames, self.found) if path is not None)


Results = StillResults | VideoResults


def check_output(results: Mapping[Path, Iterable[Path]], out: Path, force: bool) -> None:
    """Raise ConfigError when a result exists already, unless it may be replaced, or `out` is not a folder.

    results: what will be written, files and folders, by the file that it is made from.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f'out must be a folder, and {out} is a file.', parameters=['out'])
    for source, paths in results.items():
        for path in paths:
            if path.exists() and path.samefile(source):
                raise ConfigError(f'{path} would replace the picture that it is made from: name another out folder.')
            if path.exists() and not force:
                raise ConfigError(f'force must be set to replace what exists: {path}.', parameters=['force'])


@dataclass
class Writing:
    """Writes results of pictures and videos and reports progress; see InferOptions.

    passed, total: pictures and frames.
    """

    task: Task
    batch_size: int
    progress: Callable[[int, int], None]
    report: Callable[[Failure], None]
    tell: Callable[[str], None]
    failures: list[Failure] = field(default_factory=list)
    written: int = 0
    passed: int = 0
    total: int = 0
    told: bool = False

    def write(self, results: Mapping[Picture, Results], failures: Sequence[Failure]) -> None:
        """Write everything; `failures`: those known before."""
        stills = [picture for picture in results if not picture.is_video]
        videos = {picture: frame_count(picture.path) for picture in results if picture.is_video}
        self.total = len(failures) + len(stills) + sum(max(count, 1) for count in videos.values())
        for failure in failures:
            self.fail(failure.path, failure.reason)
        self.stills(stills, results)
        for picture, count in videos.items():
            self.video(picture, results[picture], count)

    def stills(self, pictures: Sequence[Picture], results: Mapping[Picture, Results]) -> None:
        """Predict and write pictures in batches; the next batch is read and the last one written meanwhile."""
        attempts = ((picture, self.attempt(picture)) for picture in pictures)
        with closing(read_ahead(attempts, self.ahead)) as ahead, Writer(self.ahead) as writer:
            while batch := list(islice(ahead, self.batch_size)):
                read: dict[str, Picture] = {}
                requests = []
                for picture, request in batch:
                    if isinstance(request, DatasetError):
                        self.fail(picture.path, str(request))
                        continue
                    requests.append(request)
                    read[request.name] = picture
                for same in same_size(requests):
                    self.tell_scale(same[0])
                    for request, result in zip(same, self.task.predict(same)):
                        writer.add(self.still, request, result, results[read[request.name]])
                self.advance(len(requests))

    @property
    def ahead(self) -> int:
        """How many pictures are read ahead, and how many wait to be written."""
        return self.batch_size + 1

    def attempt(self, picture: Picture) -> Request | DatasetError:
        """Read a picture; an error is returned, since it concerns this picture alone."""
        try:
            return self.task.read(picture.path, picture.name.as_posix())
        except DatasetError as error:
            return error

    def still(self, request: Request, result: Any, where: StillResults) -> None:
        """Write the results of a picture."""
        write_atomically(picture_png(self.task.draw(request, result), FAST), where.drawn)
        write_atomically(self.task.encode(result), where.found)
        self.written += 1

    def video(self, picture: Picture, results: VideoResults, count: int) -> None:
        """Predict and write a video; count: its frames by its header."""
        before = self.passed
        try:
            frames = self.frames(picture, results)
        except DatasetError as error:
            self.fail(picture.path, str(error))
            return
        self.written += 1
        self.passed = before + max(count, frames)
        if frames < count:
            said = f'has {count} frames by its header, {frames} could be read: those are in the result.'
            self.fail(picture.path, f'the video {picture.path} {said}', passed=0, skipped=False)

    def frames(self, picture: Picture, results: VideoResults) -> int:
        """Write the results of a video; returns how many frames could be read.

        A few frames more than two batches are in memory. Raises DatasetError for a video without a readable frame.
        """
        video, number, all_found = open_video(picture.path), 0, []
        requests = (self.task.read(frame, picture.name.as_posix()) for frame in video.frames())
        with (
            VideoWriter(results.drawn, video.fps) as drawn,
            closing(read_ahead(requests, self.ahead)) as ahead,
            Writer(self.ahead) as writer,
        ):
            while batch := list(islice(ahead, self.batch_size)):
                self.tell_scale(batch[0])
                for request, result in zip(batch, self.task.predict(batch)):
                    writer.add(self.frame, drawn, request, result, self.file_of(results, number))
                    if results.found is not None:
                        all_found.append(result)
                    number += 1
                self.advance(len(batch))
        if results.found is not None:
            write_atomically(self.task.encode(all_found), results.found)
        return number

    def file_of(self, results: VideoResults, number: int) -> Path | None:
        """Return the file for what is found in a frame of a video, if frames have one."""
        ending = list(self.task.folders.values())[1]
        return None if results.frames is None else results.frames / f'{number:06d}{ending}'

    def frame(self, drawn: VideoWriter, request: Request, result: Any, file: Path | None) -> None:
        """Write the results of a frame."""
        drawn.add(self.task.draw(request, result))
        if file is not None:
            write_atomically(self.task.encode(result), file)

    def tell_scale(self, request: Request) -> None:
        """Report once at which size a picture enters the network."""
        if not self.told and request.items:
            self.told = True
            self.tell(entry_sentence(self.task.model, request.pixels.shape[:2], request.items[0]))

    def fail(self, path: Path, reason: str, passed: int = 1, skipped: bool = True) -> None:
        """Record and report a failure."""
        self.failures.append(Failure(path, reason, skipped))
        self.report(self.failures[-1])
        self.advance(passed)

    def advance(self, number: int) -> None:
        """Advance the progress."""
        self.passed += number
        self.total = max(self.total, self.passed)
        self.progress(self.passed, self.total)


def frame_count(path: Path) -> int:
    """Return the number of frames in a video's header; 0 for a file that cannot be read."""
    try:
        return open_video(path).count
    except DatasetError:
        return 0
