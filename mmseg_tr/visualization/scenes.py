"""Draw predictions next to their pictures, with merged tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmseg_tr.visualization.merging import draw_groups

IGNORED = 255


@dataclass(frozen=True)
class Scene:
    """One picture with its predictions.

    image: (H, W, 3) uint8 RGB. label: (H, W) class numbers, 255 for ignored pixels. predictions: the same per model.
    groups: (h, w), the token of each patch. tokens: how many are left of how many.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    predictions: dict[str, np.ndarray]
    groups: np.ndarray
    tokens: tuple[int, int]


def colorize(labels: np.ndarray, palette: list, ignored_color: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """Convert class numbers (H, W) to colours of a dataset's palette, (H, W, 3) uint8."""
    table = np.zeros((256, 3), np.uint8)
    table[IGNORED] = ignored_color
    table[: len(palette)] = palette
    return table[labels]


def scenes_figure(scenes: list[Scene], classes: tuple[str, ...], palette: list, method: str, path: Path) -> None:
    """Return a PNG with a row per scene: picture, label, predictions (share of right pixels), and merged tokens."""
    titles = ['picture', 'label', *scenes[0].predictions, f'tokens after {method}']
    figure = Figure(figsize=(2.3 * len(titles), 2.45 * len(scenes) + 0.9), layout='constrained')
    axes = figure.subplots(len(scenes), len(titles), squeeze=False)
    for row, scene in zip(axes, scenes):
        panels = [(scene.image, scene.name), (colorize(scene.label, palette), '')]
        for prediction in scene.predictions.values():
            counted = scene.label != IGNORED
            right = np.mean(prediction[counted] == scene.label[counted])
            panels.append((colorize(prediction, palette), f'{100 * right:.0f} % of pixels right'))
        panels.append((draw_groups(scene.image, scene.groups), f'{scene.tokens[0]} of {scene.tokens[1]} tokens left'))
        for axis, (panel, caption) in zip(row, panels):
            axis.imshow(panel, interpolation='nearest')
            axis.set_xlabel(caption, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=11)
    handles = [Patch(color=np.array(color) / 255, label=name) for name, color in zip(classes, palette)]
    figure.legend(handles=handles, loc='outside lower center', ncols=min(len(handles), 6), fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)
