"""A report of a segmentation network of another library, on pictures: what every method predicts and merges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mmseg_tr.apis.build import prepare_device
from mmseg_tr.apis.compare.models import PLAIN
from mmseg_tr.apis.compare.named import output_of
from mmseg_tr.apis.hosts import HostView, open_named, reduced
from mmseg_tr.apis.images import Failure, find_pictures
from mmseg_tr.apis.report import Report, ReportOptions
from mmseg_tr.apis.report.pictures import Seen, Shown, page_size
from mmseg_tr.apis.show.layers import CELLS, merged_layers
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.visualization.merging import group_colors
from mmseg_tr.visualization.pixels import resized


def report_named(name: str, checkpoint: str | None, inputs: Sequence[str], options: ReportOptions) -> Report:
    """Report the plain network and every method of options.reductions on the same pictures.

    name: timm:NAME or transformers:FOLDER_OR_NAME, a network that returns logits (B, K, h, w). checkpoint: 'none' for
    random weights; by default those of the name. Raises ConfigError, CheckpointError or DatasetError.
    """
    if not inputs:
        raise ConfigError('images must be given with model: files or folders.', parameters=['images', 'model'])
    if options.comparison or options.cfg_options:
        wrong = 'comparison' if options.comparison else 'cfg_options'
        raise ConfigError(f'{wrong} is for a config, and model names a network.', parameters=[wrong])
    named = open_named(name, checkpoint, prepare_device(options.device))
    views = {PLAIN: HostView(named, named.model)}
    views |= {text: HostView(named, reduced(named, text)) for text in options.reductions}
    found, failures = find_pictures(inputs)
    pictures, count = [], 0
    for picture in found:
        options.progress(f'looking at {picture.name}')
        try:
            shown, count = look(views, picture.path, picture.name.as_posix())
            pictures.append(shown)
        except DatasetError as error:
            failures.append(Failure(picture.path, str(error)))
    for failure in failures:
        options.report(failure)
    if not pictures:
        raise DatasetError('none of the pictures can be read: name others.')
    names = getattr(getattr(named.model, 'config', None), 'id2label', None) or {}
    weights = 'The weights are random.' if checkpoint else f'Weights: {name}.'
    return Report(
        title='Token reduction, picture by picture',
        summary=f'{len(views)} models of {name}, {len(pictures)} picture{"s" * (len(pictures) != 1)}.',
        methods={text: {} if text == PLAIN else view.network.reduction.settings() for text, view in views.items()},
        pictures=pictures,
        classes=[str(names.get(number, f'class {number}')) for number in range(count)],
        palette=(255 * group_colors(count)).astype(int).tolist(),
        facts=[f'{weights} Pictures enter whole; the first: {pictures[0].scale}. Colours of classes are drawn.'],
    )


@torch.inference_mode()
def look(views: dict[str, HostView], path: Path, name: str) -> tuple[Shown, int]:
    """Run every network on a picture; returns also the number of classes. Raises ConfigError without class scores."""
    pixels = views[PLAIN].load(path)['img']
    seen, scale, count = {}, '', 0
    for method, view in views.items():
        entered = view.enter(dict(img=pixels))
        classes, scores = output_of(view.model(entered.windows.image))
        if not classes or scores.dim() != 4 or not 2 <= scores.shape[1] <= 255:
            raise ConfigError(
                f'{view.named.name} must return logits (B, K, h, w) of 2 to 255 classes for a report, got '
                f'{tuple(scores.shape)}.',
                parameters=['model'],
            )
        logits = F.interpolate(scores.float(), size=page_size(pixels.shape[:2]), mode='bilinear', align_corners=False)
        merged = [] if method == PLAIN else merged_layers(view, entered, CELLS)
        seen[method] = Seen(logits[0].argmax(0).byte().cpu().numpy(), merged)
        scale, count = entered.scale, scores.shape[1]
    return Shown(name, np.ascontiguousarray(resized(pixels, page_size(pixels.shape[:2]))), None, seen, scale), count
