"""Settings of an mmsegmentation Segmenter that its weights do not determine, and our config made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmseg_tr.checkpoints.config_text import pretty_text, read_config, section
from mmseg_tr.checkpoints.mmseg_config import head_settings, preprocessor, test_pipeline, use_pipeline
from mmseg_tr.checkpoints.segmenter_config import ConfigText, Dialect, segmenter_config
from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.keymap import count_layers
from mmseg_tr.weights.variant import Network

_HEAD_WIDTH = 64
_DATASETS = {'ADE20KDataset': 'ade20k', 'CityscapesDataset': 'cityscapes', 'PascalContextDataset': 'pascal_context'}
# without a config: data set and short side of test images for a number of classes; None: that of the crop
_BY_CLASSES = {150: ('ade20k', None), 19: ('cityscapes', 1024), 60: ('pascal_context', 520)}
_OVERLAP = 32  # of the windows of mmsegmentation's Segmenter configs, in pixels


@dataclass(frozen=True)
class Settings:
    """net_kwargs: the network in the words of a variant.yml. dialect: how it runs. inference, dataset: as sections of
    a variant.yml. changes: section of the model -> entries from the config. pipeline: of its test, None for ours.
    """

    net_kwargs: dict[str, Any]
    dialect: Dialect
    inference: dict[str, int]
    dataset: dict[str, Any]
    changes: dict[str, dict[str, Any]]
    notes: tuple[str, ...]
    pipeline: list[dict[str, Any]] | None = None


def read_settings(state: Mapping[str, Tensor], config: dict[str, Any], where: str) -> Settings:
    """Read mmsegmentation's weights and the config stored with them, {} without one.

    where: what messages call the file. Raises CheckpointError for what the networks here cannot do.
    """
    try:
        return _read(state, config, where)
    except CheckpointError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f'{where} keeps a config whose model section cannot be used ({type(error).__name__}: {error}).'
        ) from error


def _read(state: Mapping[str, Tensor], config: dict[str, Any], where: str) -> Settings:
    backbone, head = section(config, 'model', 'backbone'), section(config, 'model', 'decode_head')
    net_kwargs = _network(state, backbone, head, where)
    _refuse_other_networks(backbone, head, net_kwargs, where)
    side, heads = min(net_kwargs['image_size']), net_kwargs['n_heads']
    if backbone:
        eps = section(backbone, 'norm_cfg').get('eps', 1e-5)
        rule = backbone.get('interpolate_mode', 'bicubic')
        notes = ['eps, heads and test settings are those of the config inside the file, which was read and not run.']
    else:
        eps, rule = 1e-6, 'bicubic'
        notes = [
            'the file keeps no config that can be read, so LayerNorm eps 1e-6, bicubic positions and windows are those '
            f'of the Segmenter configs that mmsegmentation ships, with {heads} attention heads; weights made for '
            'another eps (1e-5 in official ones) need model.backbone.norm_eps.'
        ]
    if any(part.get('attn_drop_rate', 0.0) != part.get('drop_rate', 0.0) for part in (backbone, head)):
        notes.append('dropout differs between attention and MLP: training here takes drop_rate for both.')
    name, test_size = _dataset(config, net_kwargs['n_cls'], side)
    inference, changes = _test_settings(config, side, test_size)
    changes['decode_head'], left = head_settings(head)
    notes += left
    decoder_heads = max(net_kwargs['decoder'].get('d_model', 0) // _HEAD_WIDTH, 1)
    if head.get('num_heads', decoder_heads) != decoder_heads:
        changes['decode_head']['num_heads'] = head['num_heads']
    before = preprocessor(config, where)
    if before is not None:
        changes['data_preprocessor'] = before
    dialect = Dialect('mmsegmentation', float(eps), rule, 'straight', 'shrink')
    steps = test_pipeline(config, notes)
    return Settings(net_kwargs, dialect, inference, {'dataset': name}, changes, tuple(notes), steps)


def config_of(settings: Settings) -> ConfigText:
    """Return the config of this package."""
    net = Network.from_net_kwargs(settings.net_kwargs)
    config = segmenter_config(net, 'vit', settings.inference, settings.dataset, dialect=settings.dialect)
    content, header = read_config(config.text), config.text.partition('\n')[0]
    for part, entries in settings.changes.items():
        content['model'][part] = content['model'][part] | entries if part == 'decode_head' else entries
    use_pipeline(content, settings.pipeline)
    return ConfigText(f'{header}\n{pretty_text(content)}', config.meta, config.notes, config.has_dataset)


def _network(state: Mapping[str, Tensor], backbone: dict[str, Any], head: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the section net_kwargs of a variant.yml."""
    shape = {key: tuple(tensor.shape) for key, tensor in state.items()}
    mask = 'decode_head.dec_proj.weight' in state
    try:
        width, channels, patch, _ = shape['backbone.patch_embed.projection.weight']
        positions = shape['backbone.pos_embed'][1] - 1
        classes = shape['decode_head.cls_emb'][1] if mask else shape['decode_head.conv_seg.weight'][0]
    except (KeyError, IndexError, ValueError) as error:
        what = f'{error.args[0]} is missing' if isinstance(error, KeyError) else 'a tensor has another shape'
        raise CheckpointError(f'{where} is not a Segmenter of mmsegmentation: {what}.') from error
    heads = backbone.get('num_heads', 12) if backbone else max(width // _HEAD_WIDTH, 1)
    if width % heads:
        raise CheckpointError(f'{where} has tokens of width {width}, which do not divide into {heads} heads.')
    decoder = {'name': 'linear'}
    if mask:
        decoder = {
            'name': 'mask_transformer',
            'd_model': shape['decode_head.cls_emb'][2],
            'n_layers': count_layers(state, 'decode_head.layers'),
            'dropout': float(head.get('drop_rate', 0.0)),
            'drop_path_rate': float(head.get('drop_path_rate', 0.1)),
        }
    return {
        'backbone': f'ViT of width {width}',
        'd_model': width,
        'n_layers': count_layers(state, 'backbone.layers'),
        'n_heads': heads,
        'patch_size': patch,
        'image_size': _image_size(backbone, positions, patch, where),
        'dropout': float(backbone.get('drop_rate', 0.0)),
        'drop_path_rate': float(backbone.get('drop_path_rate', 0.0 if backbone else 0.1)),
        'n_cls': classes,
        'in_chans': channels,
        'decoder': decoder,
    }


def _image_size(backbone: dict[str, Any], positions: int, patch: int, where: str) -> tuple[int, int]:
    """(height, width) that the position embedding is made for."""
    if backbone:
        size = backbone.get('img_size', 224)
        size = (size, size) if isinstance(size, int) else tuple(size) * (2 // len(size))
        rows, columns = (side // patch for side in size)
        if rows * columns != positions:
            raise CheckpointError(f'{where} contradicts itself: img_size={size}, but {positions} positions.')
        return rows * patch, columns * patch
    side = round(positions**0.5)
    if side * side != positions:
        raise CheckpointError(
            f'{where} has {positions} positions, which are not a square grid, and no config with img_size.'
        )
    return side * patch, side * patch


def _refuse_other_networks(
    backbone: dict[str, Any], head: dict[str, Any], net_kwargs: dict[str, Any], where: str
) -> None:
    """Raise CheckpointError for settings without a counterpart in the networks here."""
    levels, index = backbone.get('out_indices', -1), head.get('in_index', -1)
    levels = [levels] if isinstance(levels, int) else list(levels)
    level = levels[index] if isinstance(index, int) and -len(levels) <= index < len(levels) else None
    eps, rule = section(head, 'norm_cfg').get('eps', 1e-5), backbone.get('interpolate_mode', 'bicubic')
    heads = [head] if net_kwargs['decoder']['name'] == 'mask_transformer' else []
    outputs, classes = head.get('out_channels') or head.get('num_classes'), net_kwargs['n_cls']
    activations = {section(part, 'act_cfg').get('type', 'GELU') for part in (backbone, *heads)}
    for wrong, what in (
        (not backbone.get('with_cls_token', True), 'runs without its class token (with_cls_token=False)'),
        (level not in (-1, net_kwargs['n_layers'] - 1), f'decodes out_indices={levels} at in_index={index}'),
        (activations != {'GELU'}, f'has activations {", ".join(sorted(map(str, activations)))} instead of GELU'),
        (bool(heads) and eps != 1e-5, f'has LayerNorm eps {eps} in its head instead of 1e-5'),
        (outputs not in (None, classes), f'has {outputs} outputs in its config and weights for {classes}'),
        (bool(head.get('align_corners')), 'enlarges scores with align_corners=True'),
        (rule not in ('bilinear', 'bicubic'), f'resizes positions with interpolate_mode={rule!r}'),
    ):
        if wrong:
            raise CheckpointError(f'{where} {what}, which has no counterpart here.')


def _dataset(config: dict[str, Any], classes: int, side: int) -> tuple[str, int]:
    """Name of the data set and short side of its test images."""
    if not config:
        name, size = _BY_CLASSES.get(classes, (f'of {classes} classes', None))
        return name, size or side
    dataset = section(config, 'test_dataloader', 'dataset')
    kind = str(dataset.get('type', 'unnamed')).rpartition('.')[2]
    steps = dataset.get('pipeline') or config.get('test_pipeline') or ()
    scales = [step.get('scale') for step in steps if isinstance(step, dict) and step.get('type') == 'Resize']
    sizes = [scale if isinstance(scale, int) else min(scale) for scale in scales if scale]
    return _DATASETS.get(kind, kind), sizes[0] if sizes else side


def _test_settings(config: dict[str, Any], side: int, test_size: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the section inference_kwargs of a variant.yml, and what it cannot say: other windows."""
    stride = side - _OVERLAP if side > 2 * _OVERLAP else side
    inference, changes = dict(im_size=test_size, window_size=side, window_stride=stride), {}
    test = section(config, 'model', 'test_cfg')
    if test.get('mode') == 'slide':
        crop, stride = tuple(test['crop_size']), tuple(test['stride'])
        changes['test_cfg'] = dict(mode='slide', crop_size=crop, stride=stride, small_images='shrink')
    elif config:
        changes['test_cfg'] = dict(mode='whole')
    return inference, changes
