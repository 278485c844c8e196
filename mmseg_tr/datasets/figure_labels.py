"""Labels of the figures in a scene: places of joints, whether they are visible, boxes. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmseg_tr.datasets.figures import POINTS, Figure, FigureScene
from mmseg_tr.errors import ConfigError

HIDDEN, VISIBLE = 1, 2  # COCO's flags; 0 is a joint outside the picture
FACE = ('nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear')  # under the hair when seen from behind
AREA = 0.53  # of a box, as mmpose assumes without an outline


@dataclass(frozen=True)
class FigureLabel:
    """keypoints (K, 3): x, y and COCO's flag, all 0 outside the picture; box: x, y, width, height in pixels."""

    keypoints: np.ndarray
    box: np.ndarray

    @property
    def area(self) -> float:
        """Area of the figure in pixels."""
        return float(AREA * self.box[2] * self.box[3])


def label_figures(scene: FigureScene, joints: Sequence[str]) -> list[FigureLabel]:
    """Return labels of the figures of a scene, back to front; `joints` are names of POINTS.

    The box holds all of the figure inside the picture, hidden parts too. Raises ConfigError for a joint that
    figures do not have.
    """
    unknown = [name for name in joints if name not in POINTS]
    if unknown:
        raise ConfigError(f'joints must be among {", ".join(POINTS)}, got {unknown[0]!r}.')
    kept = [POINTS.index(name) for name in joints]
    right, bottom = scene.size[1] - 1, scene.size[0] - 1
    labels = []
    for place, figure in enumerate(scene.figures):
        flags = np.where(_covered(figure, scene.figures[place + 1 :]), HIDDEN, VISIBLE)
        x, y = figure.points.real, figure.points.imag
        keypoints = np.column_stack([x, y, flags])
        keypoints[(x < 0) | (x > right) | (y < 0) | (y > bottom)] = 0
        low, high = (np.array([corner.real, corner.imag]).clip(0, (right, bottom)) for corner in figure.extent)
        labels.append(FigureLabel(keypoints[kept], np.concatenate([low, high - low])))
    return labels


def _covered(figure: Figure, later: Sequence[Figure]) -> np.ndarray:
    """Return which points of a figure are hidden by something drawn over their limb: (25,) bool."""
    own = {name: number for number, limb in enumerate(figure.limbs) for name in limb.name.split('-')}
    # the neck and the face belong to the head
    last = np.array([own.get(name, own['head']) for name in POINTS])
    over = np.arange(len(figure.limbs))[:, None] > last
    covered = ((figure.depths(figure.points) > 0) & over).any(0)
    if figure.from_behind:
        covered |= np.isin(POINTS, FACE)
    for other in later:
        covered |= (other.depths(figure.points) > 0).any(0)
    for prop in (other.prop for other in (figure, *later) if other.prop is not None):
        covered |= prop.contains(figure.points)
    return covered
