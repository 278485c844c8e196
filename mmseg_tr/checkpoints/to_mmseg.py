"""A Segmenter of this package for mmsegmentation 1.x alone: its own model, with the settings that make it the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from mmseg_tr.checkpoints import mmengine_file
from mmseg_tr.checkpoints.config_text import pretty_text, read_config, require_openmmlab, section, unknown_types
from mmseg_tr.checkpoints.converted import Converted
from mmseg_tr.checkpoints.mmseg_config import head_settings
from mmseg_tr.checkpoints.mmseg_segmenter import PATCH_BIAS, segmenter_to_mmseg
from mmseg_tr.checkpoints.official_segmenter import needed_tensors
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.nn import ViT
from mmseg_tr.weights import fit, keymap

NAME = 'mmseg'

_HEADS = {'mmseg_tr.SegmenterMaskHead': 'mask_transformer', 'mmseg_tr.SegmenterLinearHead': 'linear'}
_OURS = ('type', 'out', 'out_indices', 'reduction', 'pretrained', 'with_cp')
# what a test needs in addition to the model; training sections have settings unknown to mmsegmentation
_KEPT = ('env_cfg', 'vis_backends', 'visualizer', 'log_processor', 'log_level')
_DATA = ('test_pipeline', 'tta_pipeline', 'tta_model', 'test_dataloader', 'test_evaluator', 'test_cfg')
_HOOKS = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    visualization=dict(type='SegVisualizationHook'),
)


def to_mmseg(converted: Converted) -> Converted:
    """Weights under mmsegmentation's keys, and a config of its VisionTransformer and head for tests and single images.

    Token reduction and CTS's policy network are left out: the plain network remains.
    Raises CheckpointError where mmsegmentation has no such network.
    """
    require_openmmlab('to write a config for mmsegmentation')
    config = read_config(converted.config or '')
    backbone, head = section(config, 'model', 'backbone'), section(config, 'model', 'decode_head')
    if backbone.get('type') != 'mmseg_tr.ViT' or head.get('type') not in _HEADS:
        raise CheckpointError(
            f'{converted.what} cannot be written for mmsegmentation: a config inside with mmseg_tr.ViT under '
            f'{" or ".join(_HEADS)} is needed.'
        )
    vit = _build_encoder(backbone)
    described, grid = _net_kwargs(vit, backbone, head), vit.grid
    rest, policy = keymap.split(converted.state_dict, ('backbone.reduction.',))
    state = keymap.rename(rest, keymap.backwards(keymap.SEGMENTER_TO_SEGMENTOR))
    found = fit.difference(state, needed_tensors(described))
    if found:
        raise CheckpointError(f'the weights are not a plain Segmenter, the only one that mmsegmentation has: {found}.')
    content = {'default_scope': 'mmseg', 'default_hooks': _HOOKS}
    content |= {key: config[key] for key in (*_KEPT, *_DATA) if key in config}
    if 'tta_model' in content:
        content['tta_model'] = {'type': 'SegTTAModel'}  # what ours is built on, where every prediction has logits
    # the note of an mmengine file is about its config, which is left out
    notes = [] if converted.what == mmengine_file.NAME else list(converted.notes)
    data = {key: content.get(key) for key in _DATA}
    if _is_ours(data) or unknown_types(data):
        content = {key: value for key, value in content.items() if key not in _DATA}
        content['test_pipeline'] = [{'type': 'LoadImageFromFile'}, {'type': 'PackSegInputs'}]
        notes.append('mmsegmentation alone does not know the data set: the config holds no test_dataloader.')
    content['model'] = _model(vit, described, config['model'], bool(state[PATCH_BIAS].any()))
    header = (
        '# Segmenter for mmsegmentation 1.x alone, made from a checkpoint of mmseg_tr; for tests and single images.\n'
    )
    return replace(
        converted,
        what=f'{converted.what}; written for mmsegmentation 1.x',
        state_dict=segmenter_to_mmseg(state),
        config=header + pretty_text(content),
        dropped=(*converted.dropped, *policy),
        notes=(*notes, *_differences(config['model'], vit.pos_resize, grid)),
        testable='test_dataloader' in content,
    )


def _build_encoder(backbone: Mapping[str, Any]) -> Any:
    """Return the encoder, without memory for its weights; refused where mmsegmentation's has no such tokens."""
    try:
        with torch.device('meta'):
            vit = ViT(**{key: value for key, value in backbone.items() if key not in _OURS})
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f'the config inside describes no encoder that can be built: {error}') from error
    if vit.dist_token is not None:
        raise CheckpointError(
            'the encoder has a distillation token (DeiT), which the VisionTransformer of mmsegmentation cannot hold.'
        )
    if vit.cls_token is None or vit.num_prefix != 1 or vit.patch_size[0] != vit.patch_size[1]:
        raise CheckpointError(
            f'the encoder has {vit.num_prefix} prefix tokens and patches of {vit.patch_size}: the VisionTransformer of '
            'mmsegmentation has one class token and square patches.'
        )
    return vit


def _net_kwargs(vit: Any, backbone: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network in the words of a variant.yml (see `official_segmenter.build_segmenter`)."""
    decoder = {'name': _HEADS[head['type']]}
    if decoder['name'] == 'mask_transformer':
        decoder |= {
            'n_layers': head.get('depth', 2),
            'd_model': head.get('embed_dim') or vit.embed_dim,
            'dropout': head.get('dropout', 0.1),
            'drop_path_rate': head.get('drop_path', 0.0),
        }
    return {
        'backbone': f'ViT of width {vit.embed_dim}',
        'd_model': vit.embed_dim,
        'n_layers': len(vit.blocks),
        'in_chans': vit.in_chans,
        'n_heads': vit.blocks[0].attn.num_heads,
        'patch_size': vit.patch_size[0],
        'image_size': tuple(rows * vit.patch_size[0] for rows in vit.grid),
        'dropout': backbone.get('drop_rate', 0.0),
        'drop_path_rate': backbone.get('drop_path_rate', 0.0),
        'n_cls': head.get('out_channels') or head.get('num_classes'),
        'decoder': decoder,
    }


def _model(vit: Any, described: Mapping[str, Any], ours: Mapping[str, Any], patch_bias: bool) -> dict[str, Any]:
    """Return the `model` section, with the settings on which mmsegmentation's defaults or its own configs differ."""
    width, head = vit.embed_dim, ours['decode_head']
    decoder = {
        'in_channels': width,
        'channels': width,
        'dropout_ratio': 0.0,
        'align_corners': False,
        'loss_decode': {'type': 'CrossEntropyLoss', 'use_sigmoid': False, 'loss_weight': 1.0},
    } | head_settings(head)[0]
    if described['decoder']['name'] == 'linear':
        decoder |= {'type': 'FCNHead', 'num_convs': 0, 'concat_input': False}
    else:
        decoder |= {
            'type': 'SegmenterMaskTransformerHead',
            'num_layers': described['decoder']['n_layers'],
            'num_heads': head.get('num_heads') or max(described['decoder']['d_model'] // 64, 1),
            'embed_dims': described['decoder']['d_model'],
            'drop_path_rate': described['decoder']['drop_path_rate'],
            'drop_rate': described['decoder']['dropout'],
            'attn_drop_rate': described['decoder']['dropout'],
        }
    test = ours.get('test_cfg') or {'mode': 'whole'}
    return {
        'type': 'EncoderDecoder',
        'data_preprocessor': ours.get('data_preprocessor'),
        'backbone': {
            'type': 'VisionTransformer',
            'img_size': described['image_size'],
            'patch_size': described['patch_size'],
            'in_channels': vit.in_chans,
            'embed_dims': width,
            'num_layers': described['n_layers'],
            'num_heads': described['n_heads'],
            'drop_rate': described['dropout'],
            'attn_drop_rate': described['dropout'],
            'drop_path_rate': described['drop_path_rate'],
            'norm_cfg': {'type': 'LN', 'eps': vit.norm.eps, 'requires_grad': True},
            'patch_bias': patch_bias,
            'final_norm': True,
            'interpolate_mode': 'bilinear' if vit.pos_resize == 'bilinear' else 'bicubic',
        },
        'decode_head': decoder,
        'train_cfg': {},
        'test_cfg': {key: test[key] for key in ('mode', 'crop_size', 'stride') if key in test},
    }


def _differences(model: Mapping[str, Any], pos_resize: str, grid: tuple[int, int]) -> Iterator[str]:
    """Yield notes on images that mmsegmentation treats differently."""
    reduction = model['backbone'].get('reduction')
    if reduction:
        name = reduction if isinstance(reduction, str) else reduction.get('type')
        yield f'reduction {name} is left out: mmsegmentation runs the plain network.'
    if model.get('test_cfg', {}).get('mode') == 'slide' and model['test_cfg'].get('small_images') != 'shrink':
        yield 'images smaller than the window are enlarged to it here; mmsegmentation shrinks the window.'
    if model['decode_head'].get('enlarge', 'padded') == 'padded':
        yield 'scores of images that are not a multiple of the patch are enlarged straight to them by mmsegmentation.'
    if pos_resize == 'bicubic_antialias':
        yield f'mmsegmentation resizes positions without antialiasing: other grids than {grid} differ.'


def _is_ours(value: Any) -> bool:
    """Whether something in a config has a type of this package."""
    if isinstance(value, Mapping):
        return str(value.get('type')).startswith('mmseg_tr.') or any(map(_is_ours, value.values()))
    return isinstance(value, list | tuple) and any(map(_is_ours, value))
