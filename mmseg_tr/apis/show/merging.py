"""Pictures and animations of what merged: what tools/show_merging.py does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_tr.analysis.network import method_name
from mmseg_tr.apis.images import Failure, Picture, find_pictures
from mmseg_tr.apis.preprocess import PictureReader, shown
from mmseg_tr.apis.show.view import View
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.files import write_atomically
from mmseg_tr.reduction.observe import Merged
from mmseg_tr.visualization.attention import picture_png
from mmseg_tr.visualization.merging import STYLES, show_groups
from mmseg_tr.visualization.merging_sheet import captioned, contact_sheet
from mmseg_tr.visualization.video import Video, VideoWriter, open_video, write_gif

ANIMATIONS = ('gif', 'mp4')
SHORT_SIDE = 512  # pixels that smaller pictures are enlarged to
LAYERS_PER_SECOND = 1.25


def show_merging(
    view: View,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    style: str = 'mean',
    layers: Sequence[int] | None = None,
    animate: str | None = None,
    side: int | None = None,
    force: bool = False,
    tell: Callable[[Path, list[Merged]], None] = lambda path, found: None,
    report: Callable[[Failure], None] = lambda failure: None,
) -> tuple[int, list[Failure]]:
    """Write OUT/NAME/ for every picture: a PNG per layer, sheet.png, merging.json, and layers.gif or .mp4 if asked.

    inputs: image and video files, and folders of them; of a video comes an animation of its frames for every layer
    of `layers`, by default the last. style: one of STYLES. animate: one of ANIMATIONS. side: short side at which
    pictures enter the network, by default the config's window. tell(path, found) is called with what merged in every
    picture, report(failure) for every input that was left out. Returns how many were drawn, and the failures.
    Raises ConfigError or DatasetError when nothing can be done at all, or `out` holds results already.
    """
    check_choices(view, style, layers, animate, side)
    pictures, failures = find_pictures(inputs, videos=True)
    folders = {picture: Path(out) / picture.name.with_suffix('') for picture in pictures}
    check_folders(folders, Path(out), force)
    for failure in failures:
        report(failure)
    done = 0
    for picture, folder in folders.items():
        try:
            if picture.is_video:
                found = draw_video(view, open_video(picture.path), folder, style, layers, animate or 'mp4', side)
            else:
                pixels = shown(PictureReader.of(view.config).load(picture.path)['img'])
                found = draw_picture(view, pixels, folder, picture.name.stem, style, layers, animate, side)
        except DatasetError as error:
            failures.append(Failure(picture.path, str(error)))
            report(failures[-1])
            continue
        tell(folder, found)
        done += 1
    return done, failures


def check_choices(view: View, style: str, layers: Sequence[int] | None, animate: str | None, side: int | None) -> None:
    """Refuse what no picture can change. Raises ConfigError."""
    if style not in STYLES:
        raise ConfigError(f'--style {style} is unknown: give {" or ".join(STYLES)}.')
    if animate not in (None, *ANIMATIONS):
        raise ConfigError(f'--animate {animate} is unknown: give {" or ".join(ANIMATIONS)}.')
    if side is not None and side < 1:
        raise ConfigError(f'--side {side} is no number of pixels: give 1 or more.')
    if view.network.reduction is None:
        raise ConfigError(
            f'the network of {view.config.filename} merges no tokens: take the config of a method, or switch one on '
            'with --reduction, such as type=ToMe,r=8.'
        )
    depth = view.network.depth
    for layer in layers or ():
        if not 1 <= layer <= depth:
            raise ConfigError(f'--layer {layer} does not exist: there are {depth} layers, give 1 to {depth}.')


def check_folders(folders: dict[Picture, Path], out: Path, force: bool) -> None:
    """Raise ConfigError when `out` is no folder or holds results that must stay."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f'{out} is a file: name a folder.')
    for picture, folder in folders.items():
        if list(folders.values()).count(folder) > 1:
            raise ConfigError(f'{picture.path} and another input would both be drawn in {folder}: run them one by one.')
        if folder.is_file() or (not force and folder.is_dir() and any(folder.iterdir())):
            raise ConfigError(f'{folder} exists already: name another OUT, or add --force.')


def chosen(found: Iterable[Merged], layers: Sequence[int] | None) -> list[Merged]:
    """The entries of these layers, all where none is named. Raises ConfigError where one merges nothing."""
    found = list(found)
    merging = sorted({entry.layer for entry in found})
    for layer in layers or ():
        if layer not in merging:
            raise ConfigError(f'--layer {layer} merges nothing here: give one of {", ".join(map(str, merging))}.')
    return [entry for entry in found if not layers or entry.layer in layers]


def draw_picture(
    view: View,
    pixels: np.ndarray,
    folder: Path,
    name: str,
    style: str,
    layers: Sequence[int] | None,
    animate: str | None,
    side: int | None,
) -> list[Merged]:
    """Everything about one picture (H, W, 3) uint8; returns what merged."""
    pixels = view.fit(pixels, side)
    found = chosen(view.network.watch(view.prepared(pixels)), layers)
    shown = enlarged(pixels)
    drawn = [show_groups(shown, entry.groups, style) for entry in found]
    for entry, panel in zip(found, drawn):
        write_atomically(picture_png(panel), folder / f'{file_stem(entry)}.png')
    parts = len(dict.fromkeys(entry.part for entry in found))
    title = f'{name}, {method_of(view)}'
    panels = [(caption(entry, line='\n'), panel) for entry, panel in zip(found, drawn)]
    write_atomically(contact_sheet(shown, panels, parts, title), folder / 'sheet.png')
    write_atomically(json.dumps([numbers(entry) for entry in found], indent=2) + '\n', folder / 'merging.json')
    if animate:
        frames = [captioned(shown, name), *(captioned(panel, caption(e)) for e, panel in zip(found, drawn))]
        write_frames(frames, folder / f'layers.{animate}', LAYERS_PER_SECOND)
    return found


def draw_video(
    view: View, video: Video, folder: Path, style: str, layers: Sequence[int] | None, animate: str, side: int | None
) -> list[Merged]:
    """An animation for every layer asked for, by default the last; returns what merged in the last frame."""
    found: list[Merged] = []
    gifs: dict[Path, list[np.ndarray]] = {}
    with ExitStack() as stack:
        writers: dict[Path, VideoWriter] = {}
        for frame in video.frames():
            pixels = view.fit(frame, side)
            every = view.network.watch(view.prepared(pixels))
            found = chosen(every, layers or [every[-1].layer])
            shown = enlarged(pixels)
            for entry in found:
                path = folder / f'{file_stem(entry)}.{animate}'
                drawn = captioned(show_groups(shown, entry.groups, style), caption(entry))
                if animate == 'gif':
                    gifs.setdefault(path, []).append(drawn)
                    continue
                if path not in writers:
                    writers[path] = stack.enter_context(VideoWriter(path, video.fps))
                writers[path].add(drawn)
    for path, frames in gifs.items():
        write_gif(frames, path, video.fps)
    return found


def write_frames(frames: Sequence[np.ndarray], path: Path, fps: float) -> None:
    """An animation as its ending says."""
    if path.suffix == '.gif':
        return write_gif(frames, path, fps)
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.add(frame)
    return None


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """A small picture some whole times larger, so that outlines do not cover it."""
    zoom = max(round(SHORT_SIDE / min(pixels.shape[:2])), 1)
    size = (pixels.shape[1] * zoom, pixels.shape[0] * zoom)
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC) if zoom > 1 else pixels)


def method_of(view: View) -> str:
    """The method at work, in a word."""
    return method_name(view.network.reduction)


def file_stem(entry: Merged) -> str:
    """'layer03', 'layer03_head2'."""
    return f'layer{entry.layer:02d}' + (f'_{entry.part.replace(" ", "")}' if entry.part else '')


def caption(entry: Merged, line: str = ', ') -> str:
    """What an entry shows, in words."""
    where = f'{entry.name}, {entry.part}' if entry.part else entry.name
    text = f'{where}: {entry.tokens} of {entry.patches} tokens'
    if entry.similarity:
        text += f'{line}similarity {entry.similarity[0]:.2f}, lowest {entry.similarity[1]:.2f}'
    return text


def numbers(entry: Merged) -> dict:
    """An entry for JSON; similarity is [mean, lowest] of what joined there, or null."""
    similarity = entry.similarity and [round(value, 6) for value in entry.similarity]
    keys = ('layer', 'name', 'part', 'tokens', 'patches', 'largest')
    return {key: getattr(entry, key) for key in keys} | {'similarity': similarity}
