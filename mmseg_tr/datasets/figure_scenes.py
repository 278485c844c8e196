"""Scenes of one or two figures: places, poses and occluders. Plain numpy.

`make_figure_scene` is a pure function of its arguments: every number comes from one generator that is seeded by
(seed, split, index), so processes, workers and the order of calls make no difference.

A figure is seen from the front or from behind, and its left side is where it would be on a person: no colour tells
left from right, so that the mirror image of a figure is a figure. Lengths of a body are in units of its standing
height, angles in radians from straight down towards the right of the picture.
"""

from __future__ import annotations

import cmath
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mmseg_tr.analysis.photographs import SPLITS
from mmseg_tr.datasets.figures import POINTS, SIDES, Figure, FigureScene, Limb, Prop
from mmseg_tr.datasets.scenes import check_scene
from mmseg_tr.errors import ConfigError

PEOPLE = (0.7, 0.3)  # probabilities of one and of two figures
HEIGHTS = (0.5, 0.85)  # standing height, as a share of the scene's shorter side
BEHIND = 0.25  # probability of a figure seen from behind
CUT_OFF = 0.2  # probability that a figure may cross the scene's edge, by up to a quarter of its extent
PROP = 0.35  # probability of an object in front of a figure
TRIES = 8  # candidate places, of which the one with the least overlap is taken


def make_figure_scene(size: tuple[int, int], seed: int, split: str, index: int) -> FigureScene:
    """Return scene `index` of a split, with one or two figures.

    Raises ConfigError when a side is below 1, the split is unknown, or seed or index is negative.
    """
    check_scene(size, seed, split, 'a scene of figures')
    if index < 0:
        raise ConfigError(f'index must be a non-negative integer, got {index}.')
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    figures: list[Figure] = []
    for _ in range(1 + rng.choice(len(PEOPLE), p=PEOPLE)):
        figures.append(_make_figure(size, figures, rng))
    return FigureScene(tuple(size), tuple(figures))


def _make_figure(size: tuple[int, int], others: Sequence[Figure], rng: np.random.Generator) -> Figure:
    """Place a figure at the one of several places where it overlaps others least."""
    height = rng.uniform(*HEIGHTS) * min(size)
    from_behind = bool(rng.random() < BEHIND)
    body = _pose(height, from_behind, rng)
    figure = Figure(np.array([body[name] for name in POINTS]), _limbs(body, height, rng), from_behind)
    low, high = figure.extent
    over = rng.uniform(0, 0.25) if rng.random() < CUT_OFF else 0.0
    x = _shifts(low.real, high.real, size[1], over, rng)
    y = _shifts(low.imag, high.imag, size[0], over, rng)
    shared = sum((_overlaps(x + 1j * y, figure.extent, other.extent) for other in others), np.zeros(TRIES))
    best = int(shared.argmin())
    figure = figure.moved(complex(x[best], y[best]))
    return replace(figure, prop=_make_prop(figure.points, height, rng)) if rng.random() < PROP else figure


def _shifts(low: float, high: float, length: int, over: float, rng: np.random.Generator) -> np.ndarray:
    """Return shifts (TRIES,) that move [low, high] into the scene, or up to a share of it beyond an end."""
    beyond = over * (high - low)
    first, last = -low - beyond, length - 1 - high + beyond
    share = rng.random(TRIES)
    return first + share * (last - first) if first < last else np.full(TRIES, (first + last) / 2)


def _overlaps(shifts: np.ndarray, moved: tuple[complex, complex], other: tuple[complex, complex]) -> np.ndarray:
    """Return the area that one extent, moved by each of the shifts, shares with another."""
    low, high = moved[0] + shifts, moved[1] + shifts
    width = np.minimum(high.real, other[1].real) - np.maximum(low.real, other[0].real)
    height = np.minimum(high.imag, other[1].imag) - np.maximum(low.imag, other[0].imag)
    return width.clip(0) * height.clip(0)


def _towards(angle: float) -> complex:
    return 1j * cmath.exp(-1j * angle)


def _pose(height: float, from_behind: bool, rng: np.random.Generator) -> dict[str, complex]:
    """Return the places of all POINTS of a figure whose pelvis is at 0."""

    def foreshortened(length: float) -> float:
        return length * height * rng.uniform(0.78, 1.0)

    lean = rng.normal(0, 0.18)
    up, right = _towards(lean + np.pi), _towards(lean + np.pi / 2)
    turned = rng.uniform(0.75, 1.0)  # apparent width of shoulders and hips
    body = {'neck': foreshortened(0.32) * up}
    nod = lean + rng.normal(0, 0.2)
    head_up, head_right = _towards(nod + np.pi), _towards(nod + np.pi / 2)
    body['head'] = body['neck'] + 0.1 * height * head_up
    aside = rng.uniform(-0.02, 0.02)
    body['nose'] = body['head'] + height * (aside * head_right - 0.012 * head_up)
    for side in SIDES:
        # the left side of a person who faces us is on the right of the picture
        outward = 1 if (side == 'left') != from_behind else -1
        across = outward * turned * height
        body[f'{side}_ear'] = body['head'] + height * 0.06 * outward * head_right
        body[f'{side}_eye'] = body['nose'] + height * (0.024 * outward * head_right + 0.02 * head_up)
        shoulder = body[f'{side}_shoulder'] = body['neck'] + across * 0.105 * right - 0.02 * height * up
        raised = lean + outward * rng.uniform(-0.2, 2.7)
        elbow = body[f'{side}_elbow'] = shoulder + foreshortened(0.17) * _towards(raised)
        bent = raised + outward * rng.uniform(-0.4, 2.0)
        wrist = body[f'{side}_wrist'] = elbow + foreshortened(0.15) * _towards(bent)
        body[f'{side}_hand'] = wrist + 0.05 * height * _towards(bent + rng.normal(0, 0.25))
        hip = body[f'{side}_hip'] = across * 0.065 * right
        raised = lean / 2 + outward * rng.uniform(-0.2, 0.75)
        knee = body[f'{side}_knee'] = hip + foreshortened(0.235) * _towards(raised)
        bent = raised - outward * rng.uniform(-0.15, 0.9)
        ankle = body[f'{side}_ankle'] = knee + foreshortened(0.22) * _towards(bent)
        pointing = bent + outward * rng.uniform(0.5, 1.5)
        body[f'{side}_heel'] = ankle + height * (0.03 * _towards(bent) - 0.015 * _towards(pointing))
        body[f'{side}_toe'] = body[f'{side}_heel'] + 0.085 * height * _towards(pointing)
    return body


def _limbs(body: dict[str, complex], height: float, rng: np.random.Generator) -> tuple[Limb, ...]:
    """Return the limbs from back to front: arms may be behind or in front, legs cross either way."""
    long_sleeves, long_trousers = rng.random(2) < 0.5
    stout = rng.uniform(0.85, 1.2) * height

    def limb(start: str, end: str, thick: float, thin: float, cloth: str) -> Limb:
        return Limb(f'{start}-{end}', body[start], body[end], (thick * stout, thin * stout), cloth)

    def arm(side: str) -> list[Limb]:
        return [
            limb(f'{side}_wrist', f'{side}_hand', 0.022, 0.02, 'skin'),
            limb(f'{side}_elbow', f'{side}_wrist', 0.027, 0.021, 'shirt' if long_sleeves else 'skin'),
            limb(f'{side}_shoulder', f'{side}_elbow', 0.034, 0.028, 'shirt'),
        ]

    def leg(side: str) -> list[Limb]:
        return [
            limb(f'{side}_heel', f'{side}_toe', 0.024, 0.018, 'shoes'),
            limb(f'{side}_knee', f'{side}_ankle', 0.034, 0.024, 'trousers' if long_trousers else 'skin'),
            limb(f'{side}_hip', f'{side}_knee', 0.05, 0.036, 'trousers'),
        ]

    sides = ['left', 'right'] if rng.random() < 0.5 else ['right', 'left']
    hips = limb('left_hip', 'right_hip', 0.052, 0.052, 'trousers')
    trunk = [
        limb('left_shoulder', 'right_shoulder', 0.036, 0.036, 'shirt'),
        *(limb(f'{side}_shoulder', f'{side}_hip', 0.04, 0.044, 'shirt') for side in sides),
        Limb('trunk', 0.8 * body['neck'], 0.15 * body['neck'], (0.08 * stout, 0.06 * stout), 'shirt'),
    ]
    throat = Limb('throat', body['neck'], 0.5 * (body['neck'] + body['head']), (0.03 * stout,) * 2, 'skin')
    head = Limb('head', body['head'], body['head'], (0.066 * height,) * 2, 'head')
    before = {side: rng.random() < 0.75 for side in sides}
    arms = {side: arm(side) for side in sides}
    limbs = [part for side in sides if not before[side] for part in arms[side]]
    limbs += [part for side in sides for part in leg(side)] + [hips, *trunk, throat, head]
    limbs += [part for side in sides if before[side] for part in arms[side]]
    return tuple(limbs)


def _make_prop(points: np.ndarray, height: float, rng: np.random.Generator) -> Prop:
    """Return an object in front of one of the joints."""
    centre = complex(points[rng.integers(len(points))]) + height * complex(*rng.normal(0, 0.03, 2))
    half = tuple(rng.uniform(0.04, 0.12, 2) * height)
    return Prop(centre, half, rng.uniform(0, np.pi), bool(rng.random() < 0.5))
