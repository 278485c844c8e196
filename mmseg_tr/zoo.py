"""Networks by name, with or without published weights: `from mmseg_tr import create_model`. Torch and timm suffice.

create_model('segformer_b5', 'bsm_hq', num_classes=19, pretrained='segformer_mit-b5_cityscapes-1024x1024')
create_model('segmenter_vit_small_patch16_384', 'algm', num_classes=150, img_size=512, pretrained=True)
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.errors import CheckpointError, ConfigError, InputError
from mmseg_tr.hosts.fixed import fixed_form
from mmseg_tr.hosts.own import OwnTarget
from mmseg_tr.nn import LinearDecoder, MaskTransformer, Segmenter, ViT
from mmseg_tr.nn.checks import check_sizes
from mmseg_tr.nn.encoders import check_img_size, pretraining_statistics
from mmseg_tr.nn.image_transform import HALF, ImageTransform
from mmseg_tr.nn.mit import ARCHS, MixVisionTransformer
from mmseg_tr.nn.savable import as_dtype
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.reduction import find_method
from mmseg_tr.reduction.checks import check_choice
from mmseg_tr.reduction.segformerpp.settings import as_reduction
from mmseg_tr.weights import formats, keymap, mit
from mmseg_tr.weights.fetch import fetch_if_published
from mmseg_tr.weights.fit import check_tensors, completed
from mmseg_tr.weights.folder import NETWORK, SETTINGS, WEIGHTS, check_possible, find_folder, read_settings
from mmseg_tr.weights.io import read_file
from mmseg_tr.weights.variant import normalization, read_variant

# names of the configs in local_configs, in addition to timm's
ENCODERS: dict[str, str | dict[str, Any]] = {
    'vit-ti16': 'vit_tiny_patch16_384',
    'vit-s16': 'vit_small_patch16_384',
    'vit-b16': 'vit_base_patch16_384',
    'vit-l16': 'vit_large_patch16_384',
    'deit-b16': 'deit_base_distilled_patch16_384',
    'vit-b8': dict(embed_dim=768, depth=12, num_heads=12, patch_size=8),
}
DECODERS = ('mask', 'linear')
Source = bool | str | os.PathLike[str] | None


def create_model(
    name: str,
    method: str | dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
    *,
    num_classes: int,
    pretrained: Source = None,
    budget: float | None = None,
    tokens: Sequence[int] | None = None,
    calibrate: Tensor | None = None,
    **options: Any,
) -> nn.Module:
    """Build a segmentation network with a method: image (B, 3, H, W), normalised -> logits (B, K, H, W).

    name: 'segformer_b0' to 'segformer_b5', or 'segformer' with arch=dict(...) (see nn.mit); 'segmenter_NAME', of
        timm or one of ENCODERS ('segmenter_vit-s16'), or 'segmenter' with arch=dict(...) (see nn.vit).
    method: for SegFormer a preset's name ('bsm_hq', ...), dict(type=..., ...) or one dict per stage; for Segmenter
        dict(type=..., ...), or a name of reduction.REDUCTIONS for its defaults, scaled to the network. None: the plain
        model. It adds no weights, but for methods with a network of their own.
    pretrained: True for the encoder's weights (ImageNet); or a file, a URL or a name of checkpoints.published, of a
        whole model or, for SegFormer, of a backbone in any layout that checkpoints.mit knows. Loaded strictly.
    budget: the share of the plain model's multiply-adds that is kept at most: settings of the method with fixed shapes
        are chosen. tokens, calibrate: as of hosts.apply(). SegFormer counts at img_size.
    options: SegFormer: head ('conv', 'linear'; by default that of the weights), channels (256), dropout,
        resolution ('full', 'quarter') and what MixVisionTransformer takes (in_channels, drop_path_rate, ...).
        Segmenter: img_size (side or (H, W) that the positions are made for), decoder ('mask', 'linear'),
        decoder_depth, decoder_dropout, decoder_dim (its width) and what ViT takes (drop_path_rate, in_chans, ...).
    The model is in training mode, as every new one: call eval() before predicting. model.transform turns an RGB picture
    into its input, (C, H, W), normalised as its encoder's weights ask for; None for other than three channels.
    Raises ConfigError for names and settings that do not exist or fit, CheckpointError for weights that cannot be used.
    """
    check_sizes(num_classes=num_classes)
    if not (pretrained is None or isinstance(pretrained, bool | str | os.PathLike)):
        raise ConfigError(f'pretrained={pretrained!r} is neither True, a name, a URL nor a file.')
    fixed = dict(budget=budget, tokens=tokens, calibrate=calibrate)
    if any(value is not None for value in fixed.values()):
        return _fixed(name, method, dict(num_classes=num_classes, pretrained=pretrained, **options), fixed)
    family, _, rest = str(name).partition('_')
    build = dict(segformer=_segformer, segmenter=_segmenter).get(family)
    if build is not None:
        given = dict(options)
        model: Any = build(rest, method, num_classes, pretrained, options)
        model.transform = _transform(model, pretrained)
        model.recipe = dict(name=name, num_classes=num_classes, options=given | (model.recipe or {}))
        return model
    raise ConfigError(
        f"model {name!r} is unknown: names are segformer_{', segformer_'.join(ARCHS)}, and segmenter_ with a ViT's "
        f'name, one of {", ".join(ENCODERS)} or of timm, such as segmenter_vit_small_patch16_384.'
    )


def from_pretrained(source: str | os.PathLike[str], *, revision: str | None = None) -> nn.Module:
    """A network that save_pretrained() wrote, in eval mode, with its weights and its method.

    source: a folder, or a name on the hub, 'user/model', of which revision is a branch, tag or commit.
    No code of the folder runs. Raises CheckpointError for a folder or name that is not such a model.
    """
    folder = find_folder(source, revision)
    settings = read_settings(folder)
    if settings['kind'] != NETWORK:
        raise CheckpointError(
            f'{source} is a model with a config: use mmseg_tr.Predictor.from_pretrained({str(source)!r}).'
        )
    state = read_file(folder / WEIGHTS)
    check_tensors(state, str(folder / WEIGHTS))
    try:
        check_possible(settings['options'], state)
        with torch.device('meta'):  # takes no memory, whatever the settings ask for
            shapes = {key: value.shape for key, value in _rebuilt(settings).state_dict().items()}
        if shapes == {key: value.shape for key, value in state.items()}:
            model = _rebuilt(settings)
        else:
            raise ConfigError('its weights have other names or shapes')
    except (InputError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f'{folder / SETTINGS} does not describe a network that this release builds: {" ".join(str(error).split())}.'
        ) from error
    mit.load_strictly(model, state, str(folder / WEIGHTS))
    return model.eval()


def _rebuilt(settings: dict[str, Any]) -> Any:
    """The network of a mmseg_tr.json, without its weights."""
    options: Any = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings['options'].items()
    }
    method = settings['reduction']
    texts = [value for value in (method or {}).values() if isinstance(value, str) and ('/' in value or os.sep in value)]
    if texts or set(options) & {'pretrained', 'method', 'num_classes'}:
        raise ConfigError('its settings name files, which a saved model does not')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # of weights that are about to be loaded
        model: Any = create_model(settings['name'], method, num_classes=settings['num_classes'], **options)
    if settings['transform'] is not None:
        saved = settings['transform']
        size = saved['resolution'] and tuple(saved['resolution'])
        model.transform = ImageTransform(size, tuple(saved['mean']), tuple(saved['std']))
    return model.to(as_dtype(settings['dtype']))


def _fixed(name: str, method: Any, options: dict[str, Any], fixed: dict[str, Any]) -> nn.Module:
    """create_model(name, method, **options) with fixed shapes. fixed: budget, tokens and calibrate."""
    size = None
    if str(name).startswith('segformer'):
        size = options.pop('img_size', None)
        if size is None:
            raise ConfigError('budget needs the size of the images: give img_size, one side or (height, width).')
        size = check_img_size(size)
    asked = as_reduction(method)
    asked = dict(type=asked) if isinstance(asked, str) else dict(asked or {})
    weights = issubclass(find_method(asked.get('type')), nn.Module)
    measured = fixed['calibrate'] is not None and not weights  # on the network itself, else on its shapes
    with nullcontext() if measured else torch.device('meta'):
        plain: Any = create_model(name, None, **(options if measured else options | dict(pretrained=None)))
    backbone, training = plain.backbone if isinstance(plain, SegFormer) else plain.encoder, plain.training
    target = OwnTarget(backbone, size, weights=True, whole=plain.eval())
    target.check_fits(find_method(asked.get('type')))
    if weights and fixed['calibrate'] is not None:  # its ladder is the only one
        fixed = dict(fixed, calibrate=None)
    strategy = fixed_form(asked, **fixed, target=target)
    if not measured:
        return create_model(name, strategy.settings(), **options)
    backbone.reduction = strategy
    return plain.train(training)


def _transform(model: Segmenter | SegFormer, pretrained: Source) -> ImageTransform | None:
    """Return the normalisation that a model's encoder was trained with: the release's, else the family's or timm's."""
    encoder = model.backbone if isinstance(model, SegFormer) else model.encoder
    first = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    if first.in_channels != 3:
        return None
    if isinstance(model, SegFormer):
        return ImageTransform()
    variant = formats.checkpoint_path(pretrained).parent / 'variant.yml' if isinstance(pretrained, str | Path) else None
    if variant is not None and variant.is_file():
        released = normalization(read_variant(variant)) == 'deit'
        return ImageTransform() if released else ImageTransform(mean=HALF, std=HALF)
    mean, std = pretraining_statistics(encoder.arch) or (HALF, HALF)
    return ImageTransform(mean=mean, std=std)


def _segformer(rest: str, method: Any, num_classes: int, pretrained: Source, options: dict[str, Any]) -> SegFormer:
    if rest and rest not in ARCHS:
        raise ConfigError(
            f"model 'segformer_{rest}' is unknown: it is one of segformer_{', segformer_'.join(ARCHS)}, or 'segformer' "
            'with arch=dict(...).'
        )
    arch = _arch(rest, options)
    own = _take(options, SegFormer, ('backbone', 'num_classes'))
    kept = _check_options(
        'segformer', options, MixVisionTransformer, ('arch', 'reduction', 'merging', 'pretrained'), own
    )
    weights, where = None, None
    if isinstance(pretrained, str | os.PathLike):
        where = fetch_if_published(pretrained)
        weights = mit.read_weights(read_file(where), str(where))
        kept = mit.EPS.get(weights.layout, {}) | kept
        if weights.head:
            channels = weights.state['decode_head.fusion_conv.conv.weight'].shape[0]
            own = dict(head=weights.head, channels=channels) | own
            if own['head'] != weights.head:
                raise ConfigError(
                    f'head={own["head"]!r} does not fit {where}, whose head is of the form {weights.head!r}.'
                )
    backbone = MixVisionTransformer(arch, reduction=method, pretrained=pretrained is True or None, **kept)
    model = SegFormer(backbone, num_classes, **own)
    backbone.init_weights()
    if weights is not None:
        part, state = (model, weights.state) if weights.head else (backbone, weights.backbone())
        mit.load_strictly(part, state, str(where))
    model.recipe = {**own, **kept}  # with what the weights' layout decides
    return model


def _segmenter(rest: str, method: Any, num_classes: int, pretrained: Source, options: dict[str, Any]) -> Segmenter:
    arch = _arch(ENCODERS.get(rest, rest), options)
    decoder = options.pop('decoder', DECODERS[0])
    check_choice('decoder', decoder, DECODERS)
    named = {'decoder_depth': 'depth', 'decoder_dropout': 'dropout', 'decoder_dim': 'embed_dim'}
    own = {named[key]: options.pop(key) for key in list(options) if key in named and decoder == 'mask'}
    kept = _check_options('segmenter', options, ViT, ('arch', 'reduction', 'out', 'out_indices', 'pretrained'), named)
    encoder = ViT(arch, out='tokens', pretrained=pretrained is True or None, reduction=method, **kept)
    if decoder == 'linear':
        model = Segmenter(encoder, LinearDecoder(num_classes, encoder.embed_dim))
    else:
        own = dict(embed_dim=encoder.embed_dim) | own
        model = Segmenter(encoder, MaskTransformer(num_classes, in_channels=encoder.embed_dim, **own))
    encoder.init_weights()
    if isinstance(pretrained, str | os.PathLike):
        load_segmenter(model, pretrained)
    return model


def load_segmenter(model: Segmenter, source: str | os.PathLike[str]) -> None:
    """Load a whole Segmenter strictly: an official release (file or folder), a checkpoint of this package, or a file
    of model.state_dict(). Raises CheckpointError; nothing is loaded then.
    """
    path = formats.checkpoint_path(fetch_if_published(source))
    payload = read_file(path)
    if formats.is_release(payload):
        state, _ = keymap.split(payload['model'], formats.UNUSED_IN_RELEASES)
    else:
        state = keymap.rename(formats.state_of(payload), keymap.backwards(keymap.SEGMENTER_TO_SEGMENTOR))
    check_tensors(state, str(path))
    mit.load_strictly(model, completed(model, state), str(path))


def _arch(named: str | dict[str, Any], options: dict[str, Any]) -> str | dict[str, Any]:
    """Return dimensions by name or from options['arch'], exactly one of which is given. Raises ConfigError."""
    arch = options.pop('arch', None)
    if (arch is None) == (not named):
        raise ConfigError(
            'a model needs its dimensions once: a name such as segformer_b2 or segmenter_vit-s16, or arch=dict(...) '
            "with the name 'segformer' or 'segmenter'."
        )
    return named or arch


def _take(options: dict[str, Any], kind: type, without: Sequence[str]) -> dict[str, Any]:
    """Remove from `options`, and return, those that the constructor of `kind` takes."""
    allowed = [key for key in inspect.signature(kind).parameters if key not in without]
    return {key: options.pop(key) for key in list(options) if key in allowed}


def _check_options(
    family: str, options: dict[str, Any], kind: type, without: Sequence[str], more: Any
) -> dict[str, Any]:
    """Options left for the backbone. Raises ConfigError naming one that nothing takes."""
    allowed = [key for key in inspect.signature(kind).parameters if key not in without]
    unknown = [key for key in options if key not in allowed]
    if unknown:
        others = list(inspect.signature(SegFormer).parameters)[2:] if family == 'segformer' else ['decoder', *more]
        raise ConfigError(
            f'{family} models have no option {unknown[0]!r}: they take arch, {", ".join([*others, *allowed])}.'
        )
    return dict(options)
