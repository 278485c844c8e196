"""The config of a converted SegFormer: that of local_configs for its data set, with the file's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg_tr.checkpoints.config_text import pretty_text, require_openmmlab, section, shipped_config
from mmseg_tr.checkpoints.mmseg_config import head_settings, preprocessor, test_pipeline, use_pipeline
from mmseg_tr.checkpoints.segmenter_config import ConfigText, dataset_classes
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.reduction.segformerpp import SegFormerPP
from mmseg_tr.weights import mit

_BY_TYPE = {'ADE20KDataset': 'ade20k', 'CityscapesDataset': 'cityscapes'}
_BY_CLASSES = {150: 'ade20k', 19: 'cityscapes'}
_TEMPLATES = {'cityscapes': 'segformer_mit-b0_cityscapes-1024x1024', 'ade20k': 'segformer_mit-b0_ade20k-512x512'}
_WIDE = 'segformer_mit-b5_ade20k-640x640'
_DATASET = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator')
_TRAINING = ('train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper', 'param_scheduler', 'tta_pipeline')
_RATES = ('drop_path_rate', 'drop_rate', 'attn_drop_rate')
_HEAD = ('align_corners', 'interpolate_mode', 'act_cfg', 'norm_cfg', 'dropout_ratio')
_HELPERS = ('data_root', 'img_scale', 'img_ratios', 'train_pipeline')


def segformer_config(
    weights: mit.Weights, arch: str | dict[str, Any], given: dict[str, Any], what: str, where: str
) -> ConfigText:
    """Return the config for weights with a head. given: the config inside the file `where`, {} where there is none.

    Raises CheckpointError for settings inside that have no counterpart, MissingExtraError without the OpenMMLab stack.
    """
    require_openmmlab('to write the config of a checkpoint')
    outputs = weights.state['decode_head.conv_seg.weight'].shape[0]
    head, notes = _head(given, outputs, where)
    classes = head.get('num_classes', outputs)
    name = _dataset(given, classes)
    template = _template(name, given)
    content = shipped_config(f'segformerpp/{template}.py')
    model = content['model']
    inputs = weights.state['backbone.layers.0.0.projection.weight'].shape[1]
    eps = mit.EPS.get(weights.layout, {}) | ({'in_channels': inputs} if inputs != 3 else {})
    model['backbone'] |= dict(arch=arch, pretrained=None) | eps | _settings(given, where) | _backbone(given)
    model['decode_head'] |= _dimensions(weights, len(model['decode_head']['in_channels'])) | head
    if weights.head == 'linear':
        model['decode_head']['type'] = 'mmseg_tr.SegformerLinearHead'
    _tests(model, given, where)
    meta = {}
    if name is None:
        for key in (*_DATASET, *_TRAINING):
            content.pop(key, None)
        content['test_pipeline'] = [{'type': 'LoadImageFromFile'}, {'type': 'PackSegInputs'}]  # for single images
        notes.append(
            f'the file is of no data set among {", ".join(_TEMPLATES)} ({classes} classes), so the config holds none: '
            'add your own train_dataloader, test_dataloader and test_evaluator before testing or training.'
        )
    else:
        meta, more = dataset_classes(content, classes, name)
        notes += more
    use_pipeline(content, test_pipeline(given, notes))
    for helper in _HELPERS:
        content.pop(helper, None)
    known = (
        'settings of the network and of its test are those of the config inside the file, which was read and not run.'
    )
    without = f'the file keeps no config, so its test is that of {template}.'
    notes.append(known if section(given, 'model', 'backbone') else without)
    return ConfigText(f'# Converted from {what}.\n' + pretty_text(content), meta, tuple(notes), name is not None)


def _dataset(given: dict[str, Any], classes: int) -> str | None:
    """Return the data set that a config inside names, or else that the number of classes implies; None for others."""
    kind = str(section(given, 'test_dataloader', 'dataset').get('type') or given.get('dataset_type') or '')
    return _BY_TYPE.get(kind.rpartition('.')[2]) or (None if kind else _BY_CLASSES.get(classes))


def _template(name: str | None, given: dict[str, Any]) -> str:
    """Return the config of local_configs that a converted one starts from."""
    size = section(given, 'model', 'data_preprocessor').get('size') or given.get('crop_size')
    if name == 'ade20k' and size and tuple(size) == (640, 640):
        return _WIDE
    return _TEMPLATES.get(name, _TEMPLATES['cityscapes'])


def _dimensions(weights: mit.Weights, levels: int) -> dict[str, Any]:
    """Return settings of the head that its weights imply."""
    classes, channels = weights.state['decode_head.conv_seg.weight'].shape[:2]
    widths = [weights.state[f'backbone.layers.{level}.2.weight'].shape[0] for level in range(levels)]
    return dict(in_channels=widths, channels=channels, num_classes=classes)


def _settings(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Return backbone settings of a config inside, except dimensions and merging. Raises CheckpointError."""
    backbone = section(given, 'model', 'backbone')
    found = {key: float(backbone[key]) for key in _RATES if key in backbone}
    _refuse(backbone, 'act_cfg', ('GELU',), where)
    _refuse(backbone, 'norm_cfg', ('LN',), where)
    if isinstance(backbone.get('norm_cfg'), dict):
        found['norm_eps'] = float(backbone['norm_cfg'].get('eps', 1e-5))
    indices = tuple(backbone.get('out_indices', (0, 1, 2, 3)))
    if indices != (0, 1, 2, 3):
        raise CheckpointError(f'{where} has out_indices={indices} in its backbone, which has no counterpart here.')
    return found


def _head(given: dict[str, Any], outputs: int, where: str) -> tuple[dict[str, Any], list[str]]:
    """Return head settings of a config inside, except dimensions; mmseg's class, and so ours, takes them unchanged.

    outputs: of the classifier in the weights. Returns notes as well. Raises CheckpointError.
    """
    head = section(given, 'model', 'decode_head')
    found, notes = head_settings(head)
    said = head.get('out_channels') or head.get('num_classes') or outputs
    levels = head.get('in_index')
    _refuse(head, 'norm_cfg', ('BN', 'SyncBN', 'MMSyncBN'), where)
    for wrong, what in (
        (said != outputs, f'has {said} outputs in its config and weights for {outputs}'),
        (levels is not None and list(levels) != list(range(len(levels))), f'has in_index={levels} in its head'),
    ):
        if wrong:
            raise CheckpointError(f'{where} {what}, which has no counterpart here.')
    return found | {key: head[key] for key in _HEAD if key in head}, notes


def _refuse(part: dict[str, Any], name: str, known: tuple[str, ...], where: str) -> None:
    """Raise CheckpointError unless the type of a setting, where it is given, is one of `known`."""
    value = part.get(name)
    if name in part and (value.get('type') if isinstance(value, dict) else value) not in known:
        raise CheckpointError(
            f'{where} has {name}={value!r} in its {part.get("type")}, which has no counterpart here: known types are '
            f'{", ".join(known)}.'
        )


def _backbone(given: Mapping[str, Any]) -> dict[str, Any]:
    """Reduction and stochastic depth of the backbone of a config inside. Raises CheckpointError."""
    backbone = section(dict(given), 'model', 'backbone')
    found = {'drop_path_rate': float(backbone['drop_path_rate'])} if 'drop_path_rate' in backbone else {}
    if backbone.get('down_sample'):
        return found | dict(reduction=dict(type='SegFormerPP', preset='downsample'))
    stages = [dict(stage or {}) for stage in backbone.get('tome_cfg') or ()]
    stages = [{key: value for key, value in stage.items() if value is not None} for stage in stages]
    if not any(stages):
        return found
    try:
        reduction = SegFormerPP(stages=stages)
    except ConfigError as error:
        raise CheckpointError(f'the config inside the file has a tome_cfg without counterpart here: {error}') from error
    return found | dict(reduction=reduction.settings())


def _tests(model: dict[str, Any], given: dict[str, Any], where: str) -> None:
    """Set the windows and the preprocessing of a config inside, in place."""
    test = section(given, 'model', 'test_cfg')
    if test.get('mode') == 'slide':
        model['test_cfg'] = dict(mode='slide', crop_size=tuple(test['crop_size']), stride=tuple(test['stride']))
    elif test.get('mode') == 'whole':
        model['test_cfg'] = dict(mode='whole')
    before = preprocessor(given, where)
    if before is not None:
        model['data_preprocessor'] = before
