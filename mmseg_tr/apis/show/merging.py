"""Draw pictures and animations of what merged: the verb of tools/show_merging.py."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmseg_tr.apis.images import Failure, Picture, find_pictures
from mmseg_tr.apis.show.layers import MergedLayer, merged_layers
from mmseg_tr.apis.show.view import View
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.files import write_atomically
from mmseg_tr.options import Options, check_type
from mmseg_tr.visualization.attention import picture_png
from mmseg_tr.visualization.merging import STYLES, show_groups
from mmseg_tr.visualization.merging_sheet import captioned, contact_sheet, small
from mmseg_tr.visualization.video import Video, VideoWriter, open_video, write_gif

ANIMATIONS = ('gif', 'mp4')
SHORT_SIDE = 512  # smaller pictures are enlarged to about this short side
DRAWN = 1 << 22  # but to at most this many in all
LAYERS_PER_SECOND = 1.25


@dataclass(frozen=True)
class ShowMergingOptions(Options):
    """What is drawn.

    style: one of STYLES. layers: numbers from 1; by default all, of a video the last. animate: one of ANIMATIONS.
    side: pictures enter whole, in one forward, at this short side; by default as in a test, by the config's pipeline
    and windows. force: write into folders that hold results.
    tell(folder, layers, scale) is called for every picture that is drawn, report(failure) for every input that is
    skipped.
    """

    style: str = 'mean'
    layers: Sequence[int] | None = None
    animate: str | None = None
    side: int | None = None
    force: bool = False
    tell: Callable[[Path, list[MergedLayer], str], None] = lambda folder, found, scale: None
    report: Callable[[Failure], None] = lambda failure: None


def show_merging(
    view: View,
    inputs: Sequence[str | Path],
    out: str | Path,
    options: ShowMergingOptions | None = None,
    **settings: Any,
) -> tuple[int, list[Failure]]:
    """Write OUT/NAME/ for every picture: a PNG per layer, sheet.png, merging.json, and layers.gif or .mp4 if asked.

    inputs: image and video files, and folders of them; a video becomes an animation of its frames for every layer.
    settings: fields of ShowMergingOptions, over `options`. Returns how many were drawn, and the failures.
    Raises ConfigError or DatasetError when nothing can be done at all, or `out` holds results already.
    """
    options = replace(options or ShowMergingOptions(), **settings)
    if not callable(getattr(view, 'enter', None)):
        raise ConfigError(f'view must be what open_view() returns, got {view!r}.', parameters=['view'])
    check_type('out', out, str | os.PathLike)
    check_choices(view, options)
    pictures, failures = find_pictures(inputs, videos=True)
    folders = {picture: Path(out) / picture.name.with_suffix('') for picture in pictures}
    check_folders(folders, Path(out), options.force)
    for failure in failures:
        options.report(failure)
    done = 0
    for picture, folder in folders.items():
        try:
            if picture.is_video:
                found, scale = draw_video(view, open_video(picture.path), folder, options)
            else:
                found, scale = draw_picture(view, picture, folder, options)
        except DatasetError as error:
            failures.append(Failure(picture.path, str(error)))
            options.report(failures[-1])
            continue
        options.tell(folder, found, scale)
        done += 1
    return done, failures


def check_choices(view: View, options: ShowMergingOptions) -> None:
    """Raise ConfigError for options that are out of range."""
    if options.style not in STYLES:
        raise ConfigError(f'style must be {" or ".join(STYLES)}, got {options.style}.', parameters=['style'])
    if options.animate not in (None, *ANIMATIONS):
        raise ConfigError(f'animate must be {" or ".join(ANIMATIONS)}, got {options.animate}.', parameters=['animate'])
    if options.side is not None and options.side < 1:
        raise ConfigError(f'side must be 1 pixel or more, got {options.side}.', parameters=['side'])
    if view.network.reduction is None:
        raise ConfigError(
            f'reduction must be set: the network of {view.config.filename} merges no tokens. Take the config of a '
            'method, or a reduction such as type=ToMe,r=8.',
            parameters=['reduction'],
        )
    for layer in options.layers or ():
        if not 1 <= layer <= view.network.depth:
            raise ConfigError(f'layer must be 1 to {view.network.depth}, got {layer}.', parameters=['layer'])


def check_folders(folders: dict[Picture, Path], out: Path, force: bool) -> None:
    """Raise ConfigError when `out` is not a folder or holds results that must be kept."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f'OUT must be a folder, and {out} is a file.')
    taken: dict[Path, Path] = {}
    for picture, folder in folders.items():
        if folder in taken:
            raise ConfigError(
                f'{picture.path} and {taken[folder]} would both be drawn in {folder}: run them one by one.'
            )
        taken[folder] = picture.path
        if folder.is_file() or (not force and folder.is_dir() and any(folder.iterdir())):
            raise ConfigError(f'force must be set to write into a folder that exists: {folder}.', parameters=['force'])


def chosen(found: Iterable[MergedLayer], layers: Sequence[int] | None) -> list[MergedLayer]:
    """Return the entries of these layers, by default all. Raises ConfigError for a layer that merges nothing."""
    found = list(found)
    merging = sorted({entry.layer for entry in found})
    for layer in layers or ():
        if layer not in merging:
            numbers = ', '.join(map(str, merging))
            raise ConfigError(f'layer must be one that merges here ({numbers}), got {layer}.', parameters=['layer'])
    return [entry for entry in found if not layers or entry.layer in layers]


def draw_picture(
    view: View, picture: Picture, folder: Path, options: ShowMergingOptions
) -> tuple[list[MergedLayer], str]:
    """Draw one picture; returns what merged and the scale at which it entered."""
    name = picture.name.stem.encode(errors='replace').decode()  # a name that is not UTF-8 cannot be drawn
    entered = view.enter(view.reader.load(picture.path), options.side)
    found = chosen(merged_layers(view, entered), options.layers)
    base, panels = enlarged(entered.pixels), []
    for entry in found:
        panel = show_groups(base, entry.groups, options.style)
        write_atomically(picture_png(panel), folder / f'{file_stem(entry)}.png')
        panels.append((caption(entry, line='\n'), small(panel)))
    parts = len(dict.fromkeys(entry.part for entry in found))
    title = f'{name}, {view.network.reduction.name}; {entered.scale}'
    write_atomically(contact_sheet(small(base), panels, parts, title), folder / 'sheet.png')
    write_atomically(json.dumps([numbers(entry) for entry in found], indent=2) + '\n', folder / 'merging.json')
    if options.animate:
        drawn = (captioned(show_groups(base, entry.groups, options.style), caption(entry)) for entry in found)
        write_frames((captioned(base, name), *drawn), folder / f'layers.{options.animate}', LAYERS_PER_SECOND)
    return found, entered.scale


def draw_video(view: View, video: Video, folder: Path, options: ShowMergingOptions) -> tuple[list[MergedLayer], str]:
    """Write an animation for every chosen layer, by default the last; returns what merged in the last frame."""
    found, scale, animate = [], '', options.animate or 'mp4'
    gifs: dict[Path, list[np.ndarray]] = {}
    with ExitStack() as stack:
        writers: dict[Path, VideoWriter] = {}
        for frame in video.frames():
            entered = view.enter(view.reader.load(frame), options.side)
            every, scale = merged_layers(view, entered), entered.scale
            found = chosen(every, options.layers or [every[-1].layer])
            base = enlarged(entered.pixels)
            for entry in found:
                path = folder / f'{file_stem(entry)}.{animate}'
                drawn = captioned(show_groups(base, entry.groups, options.style), caption(entry))
                if animate == 'gif':
                    gifs.setdefault(path, []).append(drawn)
                    continue
                if path not in writers:
                    writers[path] = stack.enter_context(VideoWriter(path, video.fps))
                writers[path].add(drawn)
    for path, frames in gifs.items():
        write_gif(frames, path, video.fps)
    return found, scale


def write_frames(frames: Iterable[np.ndarray], path: Path, fps: float) -> None:
    """Write an animation in the format of its file ending."""
    if path.suffix == '.gif':
        write_gif(list(frames), path, fps)
        return
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.add(frame)


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Enlarge a small picture by a whole factor, so that outlines do not cover it."""
    zoom = max(min(round(SHORT_SIDE / min(pixels.shape[:2])), int(math.sqrt(DRAWN / pixels[..., 0].size))), 1)
    size = (pixels.shape[1] * zoom, pixels.shape[0] * zoom)
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC) if zoom > 1 else pixels)


def file_stem(entry: MergedLayer) -> str:
    """Return 'layer03' or 'layer03_head2'."""
    return f'layer{entry.layer:02d}' + (f'_{entry.part.replace(" ", "")}' if entry.part else '')


def caption(entry: MergedLayer, line: str = ', ') -> str:
    """Describe an entry in words."""
    where = f'{entry.name}, {entry.part}' if entry.part else entry.name
    text = f'{where}: {entry.tokens} of {entry.patches} tokens'
    if entry.similarity:
        text += f'{line}similarity {entry.similarity[0]:.2f}, lowest {entry.similarity[1]:.2f}'
    return text


def numbers(entry: MergedLayer) -> dict:
    """Return an entry for JSON; similarity is [mean, lowest] of the joined tokens, or null."""
    similarity = entry.similarity and [round(value, 6) for value in entry.similarity]
    keys = ('layer', 'name', 'part', 'tokens', 'patches', 'largest')
    return {key: getattr(entry, key) for key in keys} | {'similarity': similarity}
