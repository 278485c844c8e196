"""Paint figures, with photographs as clothes, over photographs. Plain numpy.

Random numbers come from a separate generator, not that of `make_figure_scene`, so labels need no drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mmseg_tr.analysis.photographs import NAMES, SPLITS, mirror_crop, photograph_part
from mmseg_tr.datasets.figure_scenes import make_figure_scene
from mmseg_tr.datasets.figures import POINTS, Figure, FigureScene, Limb
from mmseg_tr.datasets.scenes import BRIGHTNESS, TINT, ZOOMS, fill_region, zoom_for

DRAWING = 1  # separates this generator from the scene's
DYE = 0.6  # share of a cloth's own colour; the rest is its photograph's
SKIN = np.array([(236, 200, 172), (222, 176, 140), (190, 140, 104), (140, 94, 66), (92, 60, 44)], np.float32)
HAIR = np.array([(40, 32, 28), (90, 60, 36), (150, 112, 60), (200, 168, 104), (120, 116, 112)], np.float32)
EYE = np.array((30, 26, 26), np.float32)

Window = tuple[slice, slice]


def draw_figure_scene(size: tuple[int, int], seed: int, split: str, index: int) -> np.ndarray:
    """Draw the scene of `make_figure_scene`: (h, w, 3) uint8 RGB.

    Raises ConfigError as `make_figure_scene` does.
    """
    scene = make_figure_scene(size, seed, split, index)
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index, DRAWING]))
    return paint(scene, split, rng)


def paint(scene: FigureScene, split: str, rng: np.random.Generator) -> np.ndarray:
    """Paint a scene with photographs of `split`, from back to front: (h, w, 3) uint8 RGB."""
    canvas = _photograph(scene.size, split, rng) * _light(rng)
    if rng.random() < 0.5:  # another photograph below a horizon
        horizon = int(rng.uniform(0.4, 0.85) * scene.size[0])
        canvas[horizon:] = _photograph((scene.size[0] - horizon, scene.size[1]), split, rng) * _light(rng)
    for figure in scene.figures:
        _paint_figure(canvas, figure, split, rng)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def _paint_figure(canvas: np.ndarray, figure: Figure, split: str, rng: np.random.Generator) -> None:
    """Paint a figure and the object in front of it, in place."""
    window = _window(figure.extent, canvas.shape[:2])
    if window is None:
        return
    wardrobe = Wardrobe.open(window, split, rng)
    for limb in figure.limbs:
        if limb.cloth == 'head':
            _paint_head(canvas, figure, limb, wardrobe)
        else:
            _stroke(canvas, limb, wardrobe)
    if figure.prop is not None:
        y, x = np.ogrid[: canvas.shape[0], : canvas.shape[1]]
        painted = np.clip(canvas, 0, 255).astype(np.uint8)
        mask = figure.prop.contains(x + 1j * y)
        fill_region(painted, mask, NAMES[rng.integers(len(NAMES))], split, rng)
        canvas[mask] = painted[mask]


@dataclass(frozen=True)
class Wardrobe:
    """Return a figure's cloths, each (h, w, 3) or (3,), for the part of the canvas at `corner` (row, column)."""

    corner: tuple[int, int]
    cloths: dict[str, np.ndarray]

    @classmethod
    def open(cls, window: Window, split: str, rng: np.random.Generator) -> Wardrobe:
        """Return dyed photographs; every figure draws the same number of random numbers."""
        size = tuple(part.stop - part.start for part in window)
        skin, hair = SKIN[rng.integers(len(SKIN))], HAIR[rng.integers(len(HAIR))]
        cloths = {'skin': skin, 'hair': hair, 'shade': 0.7 * skin, 'eye': EYE}
        for name in ('shirt', 'trousers', 'shoes'):
            dye = rng.uniform(20, 235, 3).astype(np.float32)
            cloths[name] = DYE * dye + (1 - DYE) * _photograph(size, split, rng)
        return cls((window[0].start, window[1].start), cloths)

    def piece(self, name: str, window: Window) -> np.ndarray:
        """Cut a cloth to a window of the canvas: (h, w, 3), or (3,) for a single colour."""
        cloth = self.cloths[name]
        if cloth.ndim == 1:
            return cloth
        rows, columns = (
            slice(part.start - start, part.stop - start) for part, start in zip(window, self.corner, strict=True)
        )
        return cloth[rows, columns]


def _paint_head(canvas: np.ndarray, figure: Figure, head: Limb, wardrobe: Wardrobe) -> None:
    """Paint hair all over from behind; from the front a face below the hair, with two eyes and a nose."""
    _stroke(canvas, replace(head, cloth='hair'), wardrobe)
    if figure.from_behind:
        return
    radius = head.radii[0]
    nose, *eyes = (complex(figure.points[POINTS.index(name)]) for name in ('nose', 'left_eye', 'right_eye'))
    face = 0.35 * nose + 0.65 * head.start
    _stroke(canvas, Limb('face', face, face, (0.82 * radius,) * 2, 'skin'), wardrobe)
    for place in eyes:
        _stroke(canvas, Limb('eye', place, place, (0.17 * radius,) * 2, 'eye'), wardrobe)
    bridge = 0.5 * (eyes[0] + eyes[1])
    _stroke(canvas, Limb('nose', bridge, nose, (0.08 * radius, 0.14 * radius), 'shade'), wardrobe)


def _stroke(canvas: np.ndarray, limb: Limb, wardrobe: Wardrobe) -> None:
    """Paint a limb, darker towards its edges, in place."""
    window = _window(limb.extent, canvas.shape[:2])
    if window is None:
        return
    y, x = np.ogrid[window]
    depth = limb.depth(x + 1j * y)[..., None].astype(np.float32)
    cover = (depth + 0.5).clip(0, 1)
    shade = 0.62 + 0.38 * np.sqrt((depth / max(limb.radii)).clip(0, 1))
    canvas[window] += cover * (wardrobe.piece(limb.cloth, window) * shade - canvas[window])


def _window(extent: tuple[complex, complex], size: tuple[int, int]) -> Window | None:
    """Return rows and columns of an extent and its soft edge; None outside a picture of `size`."""
    low, high = extent
    left, top = (max(math.floor(value) - 1, 0) for value in (low.real, low.imag))
    right, bottom = (min(math.ceil(value) + 2, end) for value, end in ((high.real, size[1]), (high.imag, size[0])))
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _photograph(size: tuple[int, int], split: str, rng: np.random.Generator) -> np.ndarray:
    """Crop `size` (h, w) pixels of a photograph at a random place and scale, (h, w, 3) float32."""
    zoom = ZOOMS[rng.integers(len(ZOOMS))] * zoom_for(size)
    part = photograph_part(NAMES[rng.integers(len(NAMES))], split, zoom)
    room = [have - want if have >= want else have for have, want in zip(part.shape[:2], size)]
    corner = tuple(int(share * (free + 1)) for share, free in zip(rng.random(2), room))
    crop = mirror_crop(part, corner, size)
    return (crop[:, ::-1] if rng.random() < 0.5 else crop).astype(np.float32)


def _light(rng: np.random.Generator) -> np.ndarray:
    return (rng.uniform(*BRIGHTNESS) * rng.uniform(1 - TINT, 1 + TINT, 3)).astype(np.float32)
