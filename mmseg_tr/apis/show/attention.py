"""Draw attention maps of a network: the verb of tools/show_attention.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmseg_tr.apis.build import own_shape
from mmseg_tr.apis.show.view import View, open_view, scaled
from mmseg_tr.checkpoints import load_official
from mmseg_tr.engine.preprocess import preprocess, shown
from mmseg_tr.engine.windows import by
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import MaskTransformer, ViT
from mmseg_tr.nn.attention import SelfAttention, attention_probabilities, softmax_scores
from mmseg_tr.nn.blocks import PLAIN
from mmseg_tr.options import Options
from mmseg_tr.paths import require_checkpoint
from mmseg_tr.reduction.observe import AttentionInput
from mmseg_tr.reduction.tokens import Tokens
from mmseg_tr.visualization.pixels import read_rgb
from mmseg_tr.weights.formats import checkpoint_path
from mmseg_tr.weights.variant import normalization, read_variant, section, whole

SQUARE = 'square'  # the published crop
STATISTICS = {
    'vit': ((127.5,) * 3, (127.5,) * 3),
    # not rounded as for training: the published command does not do so either
    'deit': ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
}


@dataclass(frozen=True)
class AttentionOptions(Options):
    """Whose attention is shown.

    decoder: of the mask transformer instead of the encoder. classes: of the class token, or of every class embedding,
    instead of a patch. layer_id, heads: numbers from 0, by default all heads. x_patch, y_patch: column and row.
    crop: None for a window of the test, 'square' for the published crop. window: number from 0, row by row.
    """

    decoder: bool = False
    classes: bool = False
    layer_id: int = 0
    x_patch: int = 0
    y_patch: int = 0
    heads: Sequence[int] | None = None
    crop: str | None = None
    window: int = 0


@dataclass(frozen=True)
class AttentionModel:
    """A network to show attention of. decoder: None unless a mask transformer. normalise: (H, W, C) -> (1, C, H, W).

    image_size: short side of the published crop. view: of a config, None for an official release.
    """

    encoder: ViT
    decoder: MaskTransformer | None
    normalise: Callable[[np.ndarray], Tensor]
    image_size: int
    view: View | None = None


@dataclass(frozen=True)
class Crop:
    """The network's view of a picture: image (1, C, h, w), its input; pixels (H, W, 3) uint8, whole patches."""

    image: Tensor
    pixels: np.ndarray
    scale: str


@dataclass(frozen=True)
class Maps:
    """Chosen rows of a layer's attention: values (rows, heads, h, w); rows, heads: their numbers."""

    values: np.ndarray
    rows: tuple[int, ...]
    heads: tuple[int, ...]


def load_release(folder: str) -> AttentionModel:
    """Load an official release, without reduction. Raises CheckpointError."""
    model = load_official(folder).eval()
    path = checkpoint_path(folder).parent / 'variant.yml'
    variant = read_variant(path)
    size = whole(section(variant, 'dataset_kwargs', path), 'image_size', 'dataset_kwargs')
    mean, std = map(torch.tensor, STATISTICS[normalization(variant)])

    def normalise(pixels: np.ndarray) -> Tensor:
        return ((torch.tensor(pixels).float() - mean) / std).permute(2, 0, 1)[None]

    return _checked(AttentionModel(model.encoder, _mask_transformer(model.decoder), normalise, size), folder)


def load_configured(
    config: str, checkpoint: str, reduction: str | None = None, cfg_options: Mapping[str, Any] | None = None
) -> AttentionModel:
    """Load the network of a config with its weights. Raises ConfigError, CheckpointError."""
    require_checkpoint(checkpoint)
    view = open_view(config, checkpoint, reduction=reduction, cfg_options=cfg_options)

    def normalise(img: np.ndarray) -> Tensor:
        size = img.shape[:2]
        loaded = dict(img_path=None, img=img, img_shape=size, ori_shape=size, seg_fields=[])
        return preprocess(view.model, [view.reader.pack(loaded, native=True)])['inputs']

    decoder = getattr(getattr(view.model, 'decode_head', None), 'decoder', None)
    model = AttentionModel(view.network, _mask_transformer(decoder), normalise, min(own_shape(view.config)), view)
    return _checked(model, config)


def _mask_transformer(decoder: nn.Module | None) -> MaskTransformer | None:
    return decoder if isinstance(decoder, MaskTransformer) else None


def _checked(model: AttentionModel, name: str) -> AttentionModel:
    if not model.encoder.attention_maps:
        raise ConfigError(f'{name} has no ViT: attention maps are drawn for networks on mmseg_tr.ViT.')
    reduction = model.encoder.reduction
    if reduction is not None and not reduction.indexed:
        raise ConfigError(
            f'{reduction.name} with these settings keeps no index of the patches of each token in attention: '
            'attention maps are drawn for the methods that do, and for the plain network.'
        )
    return model


def crop_of(model: AttentionModel, path: str, options: AttentionOptions) -> Crop:
    """Return the network's view of a picture: a window of the test, or the published square.

    Raises DatasetError for a file that cannot be read, ConfigError for a window that does not exist.
    """
    if options.crop not in (None, SQUARE):
        raise ConfigError(f'crop must be {SQUARE}, got {options.crop}.', parameters=['crop'])
    if model.view is None or options.crop == SQUARE:
        if options.window:
            raise ConfigError('window belongs to the windows of a test: leave it out.', parameters=['window'])
        return square(model, path)
    view = model.view
    loaded = view.reader.load(path)
    entered = view.enter(loaded)
    windows = entered.windows
    _check_number('window', options.window, len(windows.anchors), 'windows')
    y, x = windows.anchors[options.window]
    pixels = entered.pixels[y : y + windows.size[0], x : x + windows.size[1]]
    more = [-(-side // step) * step - have for side, step, have in zip(windows.size, view.network.step, pixels.shape)]
    pixels = np.pad(pixels, ((0, more[0]), (0, more[1]), (0, 0)))  # as the network fills it up
    where = f'; window {options.window} at {x}, {y}' if len(windows.anchors) > 1 else ''
    return Crop(windows.crop(options.window), pixels, entered.scale + where)


def square(model: AttentionModel, path: str) -> Crop:
    """Crop as published: short side resized to the image size, then the top left square of whole patches."""
    img = read_rgb(path, upright=False) if model.view is None else model.view.reader.load(path)['img']
    side, short = model.image_size, min(img.shape[:2])
    height, width = (int(side * length / short) for length in img.shape[:2])
    if img.dtype == np.uint8:
        planes = np.moveaxis(np.atleast_3d(img), 2, 0)
        smooth = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BILINEAR)) for p in planes]
        large = np.stack(smooth, -1).reshape(height, width, *img.shape[2:])
    else:
        large = scaled(img, (height, width))
    rows, columns = (side // length * length for length in model.encoder.patch_size)
    cut = np.ascontiguousarray(large[:rows, :columns])
    pixels = cut if model.view is None else shown(cut)
    text = f'{by(img.shape)} pixels enter as {by((height, width))}; the top left {by((rows, columns))}'
    return Crop(model.normalise(cut), pixels, text)


@torch.no_grad()
def attention_maps(model: AttentionModel, crop: Crop, options: AttentionOptions) -> Maps:
    """Return what a patch, the class token or every class embedding attends to.

    A merged patch uses its token's attention, both as query and as key.
    Raises ConfigError for a layer, patch, head or class token that does not exist.
    """
    check_choices(model, crop, options)
    patches, joint, probabilities = _look(model, crop.image, options)
    first = 0 if options.decoder else joint.num_prefix
    count = patches.x.shape[1]
    if options.classes:
        rows = tuple(range(model.decoder.num_classes)) if options.decoder else (0,)
        picked = probabilities[0, :, count:] if options.decoder else probabilities[0, :, :1]
    else:
        place = patches.grid[1] * options.y_patch + options.x_patch
        token = place if patches.index is None else int(patches.index[0, place])
        rows, picked = (0,), probabilities[0, :, first + token][:, None]
    picked = picked[..., first : first + count]
    heads = tuple(options.heads) if options.heads else tuple(range(len(picked)))
    values = picked[list(heads)].transpose(0, 1)  # (heads, rows, T) -> (rows, heads, T)
    maps = patches.to_map(values.flatten(0, 1).t()[None])[0]
    return Maps(maps.unflatten(0, values.shape[:2]).cpu().numpy(), rows, heads)


def check_choices(model: AttentionModel, crop: Crop, options: AttentionOptions) -> None:
    """Raise ConfigError for options that this network does not support."""
    encoder = model.encoder
    if options.decoder and model.decoder is None:
        raise ConfigError(
            'this network has no mask transformer, so its decoder has no attention and no class embeddings: show the '
            'encoder.'
        )
    part, blocks = ('decoder', model.decoder.blocks) if options.decoder else ('encoder', encoder.blocks)
    _check_number('layer_id', options.layer_id, len(blocks), f'layers in the {part}')
    for head in options.heads or ():
        number = blocks[options.layer_id].attn.num_heads
        _check_number('heads', head, number, f'heads in layer {options.layer_id} of the {part}')
    if options.classes and not options.decoder and encoder.cls_token is None:
        raise ConfigError('this encoder has no class token: show a patch.')
    if not options.classes:
        rows, columns = (side // length for side, length in zip(crop.pixels.shape, encoder.patch_size))
        _check_number('x_patch', options.x_patch, columns, 'columns of patches')
        _check_number('y_patch', options.y_patch, rows, 'rows of patches')


def _look(model: AttentionModel, image: Tensor, options: AttentionOptions) -> tuple[Tokens, Tokens, Tensor]:
    """Return the patch tokens that enter a layer, all tokens that enter it, and its attention (1, heads, T, T)."""
    encoder, layer = model.encoder, options.layer_id
    method = encoder.method()
    if not options.decoder:
        look = AttentionInput(method, layer + 1)
        encoder.forward_tokens(image, reduction=look)
        attend = SelfAttention(encoder.blocks[layer].attn)
        q, k, tokens = method.attended(attend, look.y, look.tokens, layer + 1)
        probabilities, size = softmax_scores(q, k), method.key_sizes(tokens)
        if size is not None:
            weighted = probabilities * size[:, None, None]  # softmax(s + log size)
            probabilities = weighted / weighted.sum(-1, keepdim=True)
        return tokens.patches(), tokens, probabilities
    patches, look = encoder.forward_tokens(image).patches(), AttentionInput(PLAIN, layer + 1)
    model.decoder.decode(patches, look)
    return patches, look.tokens, attention_probabilities(model.decoder.blocks[layer].attn, look.y)


def file_names(maps: Maps, options: AttentionOptions) -> list[list[str]]:
    """Return the published file names below OUT, a list of heads per row of maps.values."""
    part = 'dec' if options.decoder else 'enc'
    names = []
    for row in maps.rows:
        folder, ending = f'patch_{options.x_patch}_{options.y_patch}', ''
        if options.classes:
            folder, ending = (f'cls_{row}', f'_{row}') if options.decoder else ('cls', '_cls')
        stem = f'{part}_layer{options.layer_id}'
        names.append([f'{stem}/{folder}/{stem}_attn-head{head}{ending}.png' for head in maps.heads])
    return names


def _check_number(name: str, value: int, count: int, what: str) -> None:
    if not 0 <= value < count:
        raise ConfigError(f'{name} must be 0 to {count - 1}, got {value}: there are {count} {what}.', parameters=[name])
