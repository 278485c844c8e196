"""Draw merged groups with their numbers: a contact sheet of all layers, and captioned frames for animations."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 4
PANEL = 320  # pixels


def contact_sheet(
    image: np.ndarray, panels: Sequence[tuple[str, np.ndarray]], columns: int | None = None, title: str = ''
) -> bytes:
    """Return a PNG of the picture and of every panel, (caption, (H, W, 3) uint8) in reading order.

    columns: panels of one layer, which then fill a row, with the picture before the first; by default COLUMNS.
    """
    cells = [('picture', image), *panels]
    if columns and columns > 1:
        filled = len(panels)
        cells = [('picture', image), *[None] * (columns - 1), *panels]
        rows, across = 1 + -(-filled // columns), columns
    else:
        across = min(COLUMNS, len(cells))
        rows = -(-len(cells) // across)
    aspect = image.shape[0] / image.shape[1]
    figure = Figure(figsize=(2.9 * across, (2.9 * aspect + 0.45) * rows + 0.4), layout='constrained')
    axes = figure.subplots(rows, across, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, cell in zip(axes, cells):
        if cell is not None:
            axis.imshow(small(cell[1]), interpolation='nearest')
            axis.set_title(cell[0], fontsize=8)
    figure.suptitle(title, fontsize=10)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format='png')
    return file.getvalue()


def small(pixels: np.ndarray) -> np.ndarray:
    """Shrink a picture to at most a cell of the sheet."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((PANEL, PANEL), Image.Resampling.BOX)
    return np.asarray(picture)


def captioned(pixels: np.ndarray, text: str) -> np.ndarray:
    """Add a line of text in a band above the picture; sides are even, as video codecs require."""
    size = max(pixels.shape[1] // 32, 11)
    band = 2 * size
    height, width = (side + side % 2 for side in (pixels.shape[0] + band, pixels.shape[1]))
    frame = Image.new('RGB', (width, height), 'white')
    frame.paste(Image.fromarray(pixels), (0, band))
    ImageDraw.Draw(frame).text((size // 2, band // 2), text, 'black', ImageFont.load_default(size), anchor='lm')
    return np.asarray(frame)
