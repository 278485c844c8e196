"""Check that the parts of a pose config agree when a run is built. mmpose is not imported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.network import is_pose
from mmseg_tr.errors import ConfigError


def is_pose_config(config: Config) -> bool:
    """Return whether a config runs under mmpose's scope."""
    return config.get('default_scope') == 'mmpose'


def keypoint_count(model: nn.Module) -> int | None:
    """Return the number of keypoints of a pose estimator's head; None if unknown."""
    head = getattr(model, 'head', None)
    for name in ('num_keypoints', 'num_joints', 'out_channels'):
        count = getattr(head, name, None)
        if isinstance(count, int):
            return count
    return None


def check_pose_network(model: nn.Module) -> None:
    """Raise ConfigError when the backbone's outputs do not fit the head of a pose estimator."""
    if not is_pose(model):
        return
    backbone, head = model.backbone, getattr(model, 'head', None)
    if getattr(backbone, 'out', 'maps') == 'tokens':
        raise ConfigError(
            f"the backbone gives tokens (out='tokens'), which {type(head).__name__} cannot take: set out='maps'."
        )
    widths, convs = getattr(backbone, 'widths', None), getattr(head, 'convs', None)
    if getattr(model, 'neck', None) is not None or widths is None or not hasattr(head, 'fusion_conv'):
        return
    given = tuple(widths[index] for index in backbone.out_indices)
    taken = tuple(conv.conv.in_channels for conv in convs)
    if given != taken:
        raise ConfigError(f'the backbone gives maps of {given} channels, the head takes {taken}: set its in_channels.')


def check_pose_run(model: nn.Module, datasets: Iterable[Any]) -> None:
    """Raise ConfigError unless head, codec and datasets agree on the keypoints and on the size of the input.

    datasets: those of the run, built. Where a dataset's pipeline converts keypoints, or the test picks some, their
    numbers may differ.
    """
    if not is_pose(model):
        return
    count, decoder = keypoint_count(model), getattr(model.head, 'decoder', None)
    picked = model.test_cfg.get('output_keypoint_indices')
    for dataset in datasets:
        own = dataset.metainfo.get('num_keypoints')
        name = type(dataset).__name__
        for kind, settings in _transforms(getattr(dataset, 'pipeline', None)):
            if kind == 'KeypointConverter':
                own = settings.num_keypoints
            encoder = getattr(settings, 'encoder', None) if kind == 'GenerateTarget' else None
            _check_codecs(name, encoder, decoder)
        predicted = len(picked) if picked is not None and getattr(dataset, 'test_mode', False) else count
        if own is not None and predicted is not None and own != predicted:
            raise ConfigError(
                f'the head predicts {predicted} keypoints, the dataset {name} has {own}: set '
                f'model.head.{"num_keypoints" if hasattr(model.head, "convs") else "out_channels"}={own}.'
            )
        _check_annotations(dataset, name)


def _transforms(pipeline: Any) -> Iterable[tuple[str, Any]]:
    return [(type(transform).__name__, transform) for transform in getattr(pipeline, 'transforms', ())]


def _check_codecs(name: str, encoder: Any, decoder: Any) -> None:
    """Check that training targets and predictions have the same meaning."""
    if encoder is None or decoder is None or isinstance(encoder, list):
        return
    for key in ('input_size', 'heatmap_size'):
        ours, theirs = getattr(encoder, key, None), getattr(decoder, key, None)
        if ours is not None and theirs is not None and tuple(ours) != tuple(theirs):
            raise ConfigError(
                f'the targets of {name} have {key}={tuple(ours)}, the head decodes {key}={tuple(theirs)}: give '
                'both the same codec.'
            )


def _check_annotations(dataset: Any, name: str) -> None:
    """Check that the first labelled item has as many keypoints as the dataset's description."""
    described = dataset.metainfo.get('num_keypoints')
    if described is None or not hasattr(dataset, 'data_mode') or len(dataset) == 0:  # not a dataset in COCO's style
        return
    keypoints = dataset.get_data_info(0).get('keypoints')
    if keypoints is not None and keypoints.shape[-2] != described:
        where = getattr(dataset, 'ann_file', None) or name
        raise ConfigError(
            f'{where} marks {keypoints.shape[-2]} keypoints, the metainfo of {name} describes {described}: give the '
            'metainfo of these annotations.'
        )
