"""The config of a converted SegFormer: that of local_configs for its data set, with what the file says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg_tr.checkpoints.config_text import pretty_text, require_openmmlab, section, shipped_config
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
_HELPERS = ('data_root', 'img_scale', 'img_ratios', 'train_pipeline')


def segformer_config(
    weights: mit.Weights, arch: str | dict[str, Any], given: Mapping[str, Any], what: str
) -> ConfigText:
    """Config for weights with a head. given: the config inside the file, {} where there is none.

    Raises CheckpointError for settings inside that have no counterpart, MissingExtraError without the OpenMMLab stack.
    """
    require_openmmlab('to write the config of a checkpoint')
    classes, channels = weights.state['decode_head.conv_seg.weight'].shape[:2]
    size = section(dict(given), 'model', 'data_preprocessor').get('size') or given.get('crop_size')
    kind = str(section(dict(given), 'test_dataloader', 'dataset').get('type') or given.get('dataset_type') or '')
    name = _BY_TYPE.get(kind.rpartition('.')[2]) or (None if kind else _BY_CLASSES.get(classes))
    template = _TEMPLATES.get(name, _TEMPLATES['cityscapes'])
    if name == 'ade20k' and size and tuple(size) == (640, 640):
        template = _WIDE
    content = shipped_config(f'segformerpp/{template}.py')
    model = content['model']
    model['backbone'] |= dict(arch=arch, pretrained=None) | mit.EPS.get(weights.layout, {}) | _backbone(given)
    widths = [
        weights.state[f'backbone.layers.{i}.2.weight'].shape[0] for i in range(len(model['decode_head']['in_channels']))
    ]
    model['decode_head'] |= dict(in_channels=widths, channels=channels, num_classes=classes)
    if weights.head == 'linear':
        model['decode_head']['type'] = 'mmseg_tr.SegformerLinearHead'
    _tests(model, given)
    meta, notes = {}, []
    if name is None:
        for key in (*_DATASET, *_TRAINING):
            content.pop(key, None)
        content['test_pipeline'] = [{'type': 'LoadImageFromFile'}, {'type': 'PackSegInputs'}]  # for single images
        notes.append(
            f'the file is of no data set among {", ".join(_TEMPLATES)} ({classes} classes), so the config holds none: '
            'add your own train_dataloader, test_dataloader and test_evaluator before testing or training.'
        )
    else:
        meta, notes = dataset_classes(content, classes, name)
    for helper in _HELPERS:
        content.pop(helper, None)
    known = (
        'settings of the network and of its test are those of the config inside the file, which was read and not run.'
    )
    notes.append(
        known
        if section(dict(given), 'model', 'backbone')
        else f'the file keeps no config, so its test is that of {template}.'
    )
    return ConfigText(f'# Converted from {what}.\n' + pretty_text(content), meta, tuple(notes), name is not None)


def _backbone(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a config inside says of the backbone: its reduction, its stochastic depth. Raises CheckpointError."""
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


def _tests(model: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Set windows, sizes and normalisation that a config inside says, in place."""
    test = section(dict(given), 'model', 'test_cfg')
    if test.get('mode') == 'slide':
        model['test_cfg'] = dict(mode='slide', crop_size=tuple(test['crop_size']), stride=tuple(test['stride']))
    elif test.get('mode') == 'whole':
        model['test_cfg'] = dict(mode='whole')
    before = section(dict(given), 'model', 'data_preprocessor')
    model['data_preprocessor'] |= {key: before[key] for key in ('mean', 'std', 'bgr_to_rgb') if key in before}
    if before.get('size'):
        model['data_preprocessor']['size'] = tuple(before['size'])
