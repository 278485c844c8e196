"""Figures: people made of limbs, whose joints are known exactly. Plain numpy.

figure_scenes.py poses them, figure_labels.py locates their joints, figure_drawing.py paints them. Places are
complex numbers, x + iy in pixels; whole numbers are the middles of pixels, as OpenCV counts.
"""

from __future__ import annotations

import cmath
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

SIDES = ('left', 'right')
SIDED = ('ear', 'eye', 'shoulder', 'elbow', 'wrist', 'hand', 'hip', 'knee', 'ankle', 'heel', 'toe')
POINTS = ('head', 'neck', 'nose', *(f'{side}_{name}' for name in SIDED for side in SIDES))


@dataclass(frozen=True)
class Limb:
    """A tapered stroke from `start` to `end` with a radius at either; `cloth` is its texture."""

    name: str
    start: complex
    end: complex
    radii: tuple[float, float]
    cloth: str

    def depth(self, places: np.ndarray) -> np.ndarray:
        """Return the depth of places inside, in pixels; negative outside. Same shape as `places`."""
        return depth(places, self.start, self.end, *self.radii)

    @property
    def extent(self) -> tuple[complex, complex]:
        """The corners at the top left and at the bottom right."""
        return _extent(np.array([self.start, self.end]), np.array(self.radii))


@dataclass(frozen=True)
class Prop:
    """An ellipse or a rectangle in front of a figure: centre, half sides in pixels, and angle."""

    centre: complex
    half: tuple[float, float]
    angle: float
    is_round: bool

    def contains(self, places: np.ndarray) -> np.ndarray:
        """Return which places it covers, bool."""
        turned = (places - self.centre) * cmath.exp(-1j * self.angle)
        along, across = np.abs(turned.real) / self.half[0], np.abs(turned.imag) / self.half[1]
        return along**2 + across**2 < 1 if self.is_round else np.maximum(along, across) < 1


@dataclass(frozen=True)
class Figure:
    """One person: `points`, complex (25,), in the order of POINTS, and limbs in the order in which they are drawn."""

    points: np.ndarray
    limbs: tuple[Limb, ...]
    from_behind: bool
    prop: Prop | None = None

    @cached_property
    def strokes(self) -> np.ndarray:
        """Return starts, ends and both radii of the limbs, complex (4, limbs)."""
        return np.array([(limb.start, limb.end, *limb.radii) for limb in self.limbs]).T

    def depths(self, places: np.ndarray) -> np.ndarray:
        """Return the depth of places (N,) inside each limb, in pixels: (limbs, N)."""
        start, end, *radii = self.strokes[:, :, None]
        return depth(places, start, end, *(radius.real for radius in radii))

    @property
    def extent(self) -> tuple[complex, complex]:
        """Return the corners at the top left and at the bottom right of the drawn figure."""
        return _extent(self.strokes[:2].ravel(), self.strokes[2:].ravel().real)

    def moved(self, shift: complex) -> Figure:
        """Return the figure at another place."""
        limbs = (replace(limb, start=limb.start + shift, end=limb.end + shift) for limb in self.limbs)
        return replace(self, points=self.points + shift, limbs=tuple(limbs))


@dataclass(frozen=True)
class FigureScene:
    """Figures from back to front, in a picture of `size` (h, w)."""

    size: tuple[int, int]
    figures: tuple[Figure, ...]


def depth(places: np.ndarray, start: complex, end: complex, first: float, last: float) -> np.ndarray:
    """Return the depth of places inside a tapered stroke, in pixels; negative outside. All arguments broadcast."""
    along, away = end - start, places - start
    share = ((away * np.conj(along)).real / np.maximum(np.abs(along) ** 2, 1e-12)).clip(0, 1)
    return first + share * (last - first) - np.abs(away - share * along)


def _extent(ends: np.ndarray, radii: np.ndarray) -> tuple[complex, complex]:
    low = complex((ends.real - radii).min(), (ends.imag - radii).min())
    return low, complex((ends.real + radii).max(), (ends.imag + radii).max())
