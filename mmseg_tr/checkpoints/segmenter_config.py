"""The mmengine config of a converted Segmenter: one flat file that needs no other."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmseg_tr.checkpoints.config_text import pretty_text, require_openmmlab, shipped_config
from mmseg_tr.weights.variant import Network, pair, whole

# mean and deviation of 0-255 RGB images; the published pipeline rounds the ImageNet values to two decimals
STATISTICS = {
    'vit': ([127.5, 127.5, 127.5], [127.5, 127.5, 127.5]),
    'deit': ([123.68, 116.28, 103.53], [58.4, 57.12, 57.38]),
}


@dataclass(frozen=True)
class Dialect:
    """What published Segmenters do differently (see nn.vit.ViT and models.seg.heads); the defaults are Segmenter's."""

    source: str = 'an official release'
    norm_eps: float = 1e-5
    pos_resize: str = 'bilinear'
    enlarge: str = 'padded'
    small_images: str = 'enlarge'
    window_batch: int = 1


SEGMENTER = Dialect()
EXPEDITE = Dialect('the layout of the Expedite repository', 1e-6, 'bicubic', 'straight', 'shrink')


@dataclass(frozen=True)
class KnownDataset:
    """Where the sections of a published dataset are in local_configs/_base_."""

    dataset: str
    schedule: str
    max_ratio: int  # the long side may have this many times the length of the short side


DATASETS = {
    'ade20k': KnownDataset('ade20k_512x512', 'ade20k_64e', 4),
    'pascal_context': KnownDataset('pascal_context_480x480', 'pascal_context_256e', 8),
    'cityscapes': KnownDataset('cityscapes_768x768', 'cityscapes_216e', 2),
}
ALIASES = {'ade20k_large': 'ade20k'}  # ALGM's name of ADE20K at 640

# variables of the base files, not needed once their values are inserted
_HELPERS = ('data_root', 'img_scale', 'img_ratios', 'train_pipeline')


@dataclass(frozen=True)
class ConfigText:
    """A config as text, the class metadata for the checkpoint, and notes for the user."""

    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    has_dataset: bool = False


def segmenter_config(
    net: Network,
    normalization: str,
    inference_kwargs: Mapping[str, Any],
    dataset_kwargs: Mapping[str, Any],
    reduction: Mapping[str, Any] | None = None,
    dialect: Dialect = SEGMENTER,
) -> ConfigText:
    """Write the config of an official release: model and test settings, and its dataset and schedule where known.

    inference_kwargs, dataset_kwargs: sections of variant.yml. dialect: of the code that the weights were made for.
    Raises CheckpointError for entries that cannot be used, MissingExtraError without the OpenMMLab stack.
    """
    require_openmmlab('to write the config of a checkpoint')
    window = whole(inference_kwargs, 'window_size', 'inference_kwargs')
    stride = whole(inference_kwargs, 'window_stride', 'inference_kwargs')
    crop = whole(dataset_kwargs, 'crop_size', 'dataset_kwargs') if 'crop_size' in dataset_kwargs else window
    name = str(dataset_kwargs.get('dataset'))
    known = DATASETS.get(ALIASES.get(name, name))
    content, meta, notes = shipped_config('_base_/runtime/default.py'), {}, []
    if known:
        content |= shipped_config(f'_base_/datasets/{known.dataset}.py')
        content |= shipped_config(f'_base_/schedules/{known.schedule}.py')
        test_size = whole(inference_kwargs, 'im_size', 'inference_kwargs')
        train_size = pair(dataset_kwargs, 'image_size', 'dataset_kwargs') if 'image_size' in dataset_kwargs else None
        _resize(content, known.max_ratio, train_size and min(train_size), test_size, crop)
        meta, note = dataset_classes(content, net.num_classes, name)
        notes += note
    else:
        content['test_pipeline'] = [{'type': 'LoadImageFromFile'}, {'type': 'PackSegInputs'}]  # for single images
        notes.append(
            f'dataset {name!r} is not one of {", ".join(DATASETS)}, so the config holds no dataset: add your '
            'own train_dataloader, test_dataloader and test_evaluator before testing or training.'
        )
    content['model'] = _model(net, normalization, crop, window, stride, reduction)
    _speak(content['model'], dialect)
    for helper in _HELPERS:
        content.pop(helper, None)
    header = f'# Converted from {dialect.source}: {net.backbone}, {net.decoder} decoder, {net.num_classes} classes.\n'
    return ConfigText(header + pretty_text(content), meta, tuple(notes), has_dataset=known is not None)


def _model(
    net: Network, normalization: str, crop: int, window: int, stride: int, reduction: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the `model` section, every dimension written out."""
    mean, std = STATISTICS[normalization]
    backbone = {
        'type': 'mmseg_tr.ViT',
        'arch': net.arch,
        'img_size': net.image_size,
        'out': 'tokens',
        'drop_path_rate': net.drop_path_rate,
    }
    if net.in_chans != 3:
        backbone['in_chans'] = net.in_chans
    if net.drop_rate:
        backbone['drop_rate'] = net.drop_rate
    if reduction is not None:
        backbone['reduction'] = dict(reduction)
    head = {
        'type': 'mmseg_tr.SegmenterLinearHead',
        'in_channels': net.embed_dim,
        'num_classes': net.num_classes,
        'loss_decode': {
            'type': 'CrossEntropyLoss',
            'use_sigmoid': False,
            'avg_non_ignore': True,
            'loss_weight': 1.0,
        },
    }
    if net.decoder == 'mask_transformer':
        head |= {
            'type': 'mmseg_tr.SegmenterMaskHead',
            'depth': net.decoder_depth,
            'dropout': net.decoder_dropout,
            'drop_path': net.decoder_drop_path,
        }
        if net.decoder_dim != net.embed_dim:
            head['embed_dim'] = net.decoder_dim
    return {
        'type': 'mmseg_tr.TokenSegmentor',
        'data_preprocessor': {
            'type': 'SegDataPreProcessor',
            'mean': mean,
            'std': std,
            'bgr_to_rgb': True,
            'pad_val': 0,
            'seg_pad_val': 255,
            'size': (crop, crop),
        },
        'backbone': backbone,
        'decode_head': head,
        'train_cfg': {},
        'test_cfg': {
            'mode': 'slide',
            'crop_size': (window, window),
            'stride': (stride, stride),
            'small_images': 'enlarge',
        },
    }


def _speak(model: dict[str, Any], dialect: Dialect) -> None:
    """Set what a dialect does differently from Segmenter, in place."""
    for part, names in (
        ('backbone', ('norm_eps', 'pos_resize')),
        ('decode_head', ('enlarge',)),
        ('test_cfg', ('small_images', 'window_batch')),
    ):
        for name in names:
            if getattr(dialect, name) != getattr(SEGMENTER, name):
                model[part][name] = getattr(dialect, name)


def _resize(content: dict[str, Any], ratio: int, train_size: int | None, test_size: int, crop: int) -> None:
    """Set image and crop sizes in every pipeline of `content`, in place."""
    short_side = {'train': train_size or test_size, 'val': test_size, 'test': test_size}
    for phase, size in short_side.items():
        for transform in _transforms(content[f'{phase}_dataloader']['dataset']['pipeline']):
            if transform['type'] in ('Resize', 'RandomResize'):
                transform['scale'] = (ratio * size, size)
            if transform['type'] == 'RandomCrop':
                transform['crop_size'] = (crop, crop)
    content['test_pipeline'] = content['test_dataloader']['dataset']['pipeline']
    resizes = [step for step in _transforms(content['tta_pipeline']) if step['type'] == 'Resize']
    for step, scale in zip(resizes, content['img_ratios']):
        step['scale'] = (int(ratio * test_size * scale), int(test_size * scale))


def _transforms(pipeline: Any) -> Iterator[dict[str, Any]]:
    """Yield every transform of a pipeline, nested ones included."""
    if isinstance(pipeline, dict):
        yield pipeline
        yield from _transforms(pipeline.get('transforms', ()))
    else:
        for part in pipeline:
            yield from _transforms(part)


def dataset_classes(content: Mapping[str, Any], num_classes: int, name: str) -> tuple[dict[str, Any], list[str]]:
    """Return names and colours of the classes for the checkpoint's meta, or a note if the model has another number."""
    datasets = importlib.import_module('mmseg.datasets')
    info = getattr(datasets, content['test_dataloader']['dataset']['type']).METAINFO
    if len(info['classes']) != num_classes:
        return {}, [
            f'the model has {num_classes} classes and {name} has {len(info["classes"])}: change the dataset '
            'section of the config before testing or training.'
        ]
    palette = [[int(channel) for channel in colour] for colour in info['palette']]
    return {'dataset_meta': {'classes': list(info['classes']), 'palette': palette}}, []
