"""Read a config of mmsegmentation except for the network: preprocessing, classes, test pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmseg_tr.checkpoints.config_text import section, unknown_types
from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.io import few

PREPROCESSOR = 'SegDataPreProcessor'
_PREPROCESSOR = (
    *('mean', 'std', 'size', 'size_divisor', 'pad_val', 'seg_pad_val'),
    *('bgr_to_rgb', 'rgb_to_bgr', 'batch_augments', 'test_cfg'),
)
# of a decode head: what decides between classes, and how it is trained
_HEAD = ('num_classes', 'out_channels', 'threshold', 'ignore_index')
_LOSSES = (
    *('CrossEntropyLoss', 'DiceLoss', 'FocalLoss', 'LovaszLoss', 'TverskyLoss'),
    *('BoundaryLoss', 'OhemCrossEntropy', 'HuasdorffDisstanceLoss', 'SilogLoss'),
)


def preprocessor(config: dict[str, Any], where: str) -> dict[str, Any] | None:
    """Return the `data_preprocessor` of a config, None without a config. What it leaves out is mmseg's default.

    Without mean and std nothing is normalised. Configs of mmsegmentation 0.x normalise in their pipelines.
    Raises CheckpointError for another type or setting than mmseg's own.
    """
    model = section(config, 'model')
    if not model:
        return None
    given = section(model, 'data_preprocessor')
    if not given:
        old = _old_normalisation(config)
        return {'type': PREPROCESSOR} | ({} if old is None else old)
    kind = str(given.get('type', PREPROCESSOR)).rpartition('.')[2]
    unknown = [key for key in given if key not in (*_PREPROCESSOR, 'type', '_scope_')]
    if kind != PREPROCESSOR or unknown:
        what = f'of type {kind}' if kind != PREPROCESSOR else f'with {", ".join(unknown)}'
        raise CheckpointError(f'{where} has a data_preprocessor {what}, which has no counterpart here.')
    return {'type': PREPROCESSOR} | {key: given[key] for key in _PREPROCESSOR if key in given}


def _old_normalisation(config: dict[str, Any]) -> dict[str, Any] | None:
    """Of mmsegmentation 0.x: the arguments of Normalize in its test pipeline."""
    steps = _steps(section(config, 'data', 'test').get('pipeline'))
    given = section(config, 'img_norm_cfg') or next((step for step in steps if step.get('type') == 'Normalize'), {})
    if not given:
        return None
    return dict(mean=given.get('mean'), std=given.get('std'), bgr_to_rgb=given.get('to_rgb', True), seg_pad_val=255)


def head_settings(head: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return entries of mmseg's decode head that ours shares, and notes on what is left out."""
    kept, notes = {key: head[key] for key in _HEAD if head.get(key) is not None}, []
    losses = head.get('loss_decode')
    if losses:
        each = losses if isinstance(losses, list | tuple) else [losses]
        names = {str(section({'loss': loss}, 'loss').get('type')).removeprefix('mmseg.') for loss in each}
        if names <= set(_LOSSES):
            kept['loss_decode'] = losses
        else:
            notes.append(f'loss_decode {", ".join(sorted(names))} is left out: training here takes cross-entropy.')
    return kept, notes


def test_pipeline(config: dict[str, Any], notes: list[str]) -> list[dict[str, Any]] | None:
    """Return the test pipeline of mmsegmentation 1.x; None without one or, with a note, for an unknown step."""
    steps = section(config, 'test_dataloader', 'dataset').get('pipeline') or config.get('test_pipeline')
    if not isinstance(steps, list | tuple) or not all(isinstance(step, dict) for step in steps):
        return None
    unknown = unknown_types(list(steps))
    if unknown:
        notes.append(f'the test pipeline is left out: its {few(unknown)} is not registered here.')
    return [dict(step) for step in steps] if steps and not unknown else None


def use_pipeline(content: dict[str, Any], steps: list[dict[str, Any]] | None) -> None:
    """Set the pipeline of validation and test in a config of this package, in place; None leaves it."""
    if not steps:
        return
    content['test_pipeline'] = steps
    for part in ('val_dataloader', 'test_dataloader'):
        if part in content:
            content[part]['dataset']['pipeline'] = [dict(step) for step in steps]


def _steps(pipeline: Any) -> Iterator[dict[str, Any]]:
    """Yield every step of a pipeline, nested ones included."""
    for step in pipeline if isinstance(pipeline, list | tuple) else ():
        if isinstance(step, dict):
            yield step
            yield from _steps(step.get('transforms'))
