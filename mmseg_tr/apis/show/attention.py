"""Attention maps of a network: what tools/show_attention.py does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmseg_tr.checkpoints import load_official
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.nn import MaskTransformer, ViT
from mmseg_tr.nn.attention import attention_probabilities
from mmseg_tr.nn.blocks import PLAIN
from mmseg_tr.reduction.observe import AttentionInput
from mmseg_tr.reduction.tokens import Tokens
from mmseg_tr.weights.formats import checkpoint_path
from mmseg_tr.weights.variant import normalization, read_variant, section, whole

STATISTICS = {
    'vit': ((127.5,) * 3, (127.5,) * 3),
    # not rounded as for training: the published command does not do so either
    'deit': ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
}


@dataclass(frozen=True)
class Viewed:
    """A network to look into. decoder: None where it is no mask transformer; mean, std: RGB, for 0..255."""

    encoder: ViT
    decoder: MaskTransformer | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int


@dataclass(frozen=True)
class Maps:
    """Chosen rows of a layer's attention: values (rows, heads, h, w); rows, heads: their numbers; pixels: (H, W, 3)."""

    values: np.ndarray
    rows: tuple[int, ...]
    heads: tuple[int, ...]
    pixels: np.ndarray


def load_release(folder: str) -> Viewed:
    """An official release, plain. Raises CheckpointError."""
    model = load_official(folder).eval()
    path = checkpoint_path(folder).parent / 'variant.yml'
    variant = read_variant(path)
    size = whole(section(variant, 'dataset_kwargs', path), 'image_size', 'dataset_kwargs')
    return _viewed(model.encoder, model.decoder, *STATISTICS[normalization(variant)], size, folder)


def load_configured(config: str, checkpoint: str, cfg_options: Mapping[str, Any] | None = None) -> Viewed:
    """The network of a config with its weights. Raises ConfigError, CheckpointError."""
    from mmseg_tr.apis.build import build_model, own_shape
    from mmseg_tr.apis.config import load_config, require_checkpoint, require_sections

    settings = load_config(config, cfg_options)
    require_sections(settings, 'model')
    require_checkpoint(checkpoint)
    model = build_model(settings, checkpoint).eval()
    statistics = settings.model.get('data_preprocessor') or {}
    mean, std = (tuple(statistics.get(key) or (127.5,) * 3) for key in ('mean', 'std'))
    if not statistics.get('bgr_to_rgb', True):
        mean, std = mean[::-1], std[::-1]
    decoder = getattr(getattr(model, 'decode_head', None), 'decoder', None)
    return _viewed(getattr(model, 'backbone', None), decoder, mean, std, min(own_shape(settings)), config)


def _viewed(encoder: nn.Module | None, decoder: nn.Module | None, mean, std, size: int, name: str) -> Viewed:
    if not isinstance(encoder, ViT):
        raise ConfigError(f'{name} has no ViT: attention maps are drawn for networks on mmseg_tr.ViT.')
    reduction = encoder.reduction
    if reduction is not None and not reduction.indexed:
        raise ConfigError(
            f'{reduction.name} with these settings keeps no index of the patches that a token stands for in attention: '
            'attention maps are drawn for the methods that do, and for the plain network.'
        )
    return Viewed(encoder, decoder if isinstance(decoder, MaskTransformer) else None, mean, std, size)


def read_picture(path: str, side: int, patch: tuple[int, int]) -> np.ndarray:
    """The published crop: short side resized to `side`, then the top left square of whole patches, (S, S, 3) uint8.

    Raises DatasetError for a file that is missing or no image.
    """
    if not Path(path).is_file():
        raise DatasetError(f'there is no image {path}: check the path.')
    try:
        with Image.open(path) as file:
            image = file.convert('RGB')
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f'the image {path} cannot be read: give a picture, such as a JPEG or PNG file.') from error
    short = min(image.size)
    image = image.resize(tuple(int(side * length / short) for length in image.size), Image.Resampling.BILINEAR)
    height, width = (side // length * length for length in patch)
    return np.array(image)[:height, :width]


@torch.no_grad()
def attention_maps(
    viewed: Viewed,
    pixels: np.ndarray,
    *,
    decoder: bool = False,
    classes: bool = False,
    layer: int = 0,
    patch: tuple[int, int] = (0, 0),
    heads: Sequence[int] | None = None,
) -> Maps:
    """What one patch (x, y), or with `classes` the class token or every class embedding, attends to.

    pixels: (H, W, 3) uint8 RGB of whole patches. layer, heads count from 0; heads=None takes all.
    A patch that shares its token shows, and is shown as, what its token attends to and gets.
    Raises ConfigError for a layer, patch, head or class token that does not exist.
    """
    encoder = viewed.encoder
    if decoder and viewed.decoder is None:
        raise ConfigError(
            'this network has no mask transformer, so its decoder has no attention and no class embeddings: take --enc.'
        )
    part, blocks = ('decoder', viewed.decoder.blocks) if decoder else ('encoder', encoder.blocks)
    _check_number('--layer-id', layer, len(blocks), f'layers in the {part}')
    for head in heads or ():
        _check_number('--heads', head, blocks[layer].attn.num_heads, f'heads in layer {layer} of the {part}')
    if classes and not decoder and encoder.cls_token is None:
        raise ConfigError('this encoder has no class token: take --patch.')
    grid = tuple(side // length for side, length in zip(pixels.shape[:2], encoder.patch_size, strict=True))
    if not classes:
        for option, number, count, what in zip(('--x', '--y'), patch, grid[::-1], ('columns', 'rows'), strict=True):
            _check_number(f'{option}-patch', number, count, f'{what} of patches')
    patches, joint, probabilities = _look(viewed, pixels, layer, decoder)
    first = 0 if decoder else joint.num_prefix
    count = patches.x.shape[1]
    if classes:
        rows = tuple(range(viewed.decoder.num_classes)) if decoder else (0,)
        picked = probabilities[0, :, count:] if decoder else probabilities[0, :, :1]
    else:
        place = grid[1] * patch[1] + patch[0]
        token = place if patches.index is None else int(patches.index[0, place])
        rows, picked = (0,), probabilities[0, :, first + token][:, None]
    picked = picked[..., first : first + count]
    heads = tuple(heads) if heads else tuple(range(len(picked)))
    values = picked[list(heads)].transpose(0, 1)  # (heads, rows, T) -> (rows, heads, T)
    maps = patches.to_map(values.flatten(0, 1).t()[None])[0]
    return Maps(maps.unflatten(0, values.shape[:2]).cpu().numpy(), rows, heads, pixels)


def _look(viewed: Viewed, pixels: np.ndarray, layer: int, decoder: bool) -> tuple[Tokens, Tokens, Tensor]:
    """The patch tokens that enter a layer, all that enter it, and its attention (1, heads, T, T)."""
    image = (torch.tensor(pixels).float() - torch.tensor(viewed.mean)) / torch.tensor(viewed.std)
    encoder = viewed.encoder
    image, method = image.permute(2, 0, 1)[None], encoder.method()
    if not decoder:
        look = AttentionInput(method, layer + 1)
        encoder.forward_tokens(image, reduction=look)
        probabilities, size = attention_probabilities(encoder.blocks[layer].attn, look.y), method.key_sizes(look.tokens)
        if size is not None:
            weighted = probabilities * size[:, None, None]  # softmax(s + log size)
            probabilities = weighted / weighted.sum(-1, keepdim=True)
        return look.tokens.patches(), look.tokens, probabilities
    patches, look = encoder.forward_tokens(image).patches(), AttentionInput(PLAIN, layer + 1)
    viewed.decoder.decode(patches, look)
    return patches, look.tokens, attention_probabilities(viewed.decoder.blocks[layer].attn, look.y)


def file_names(maps: Maps, *, decoder: bool, classes: bool, layer: int, patch: tuple[int, int]) -> list[list[str]]:
    """The published names below OUT, a list of heads per row of maps.values."""
    part = 'dec' if decoder else 'enc'
    names = []
    for row in maps.rows:
        folder, ending = f'patch_{patch[0]}_{patch[1]}', ''
        if classes:
            folder, ending = (f'cls_{row}', f'_{row}') if decoder else ('cls', '_cls')
        stem = f'{part}_layer{layer}'
        names.append([f'{stem}/{folder}/{stem}_attn-head{head}{ending}.png' for head in maps.heads])
    return names


def _check_number(option: str, value: int, count: int, what: str) -> None:
    if not 0 <= value < count:
        raise ConfigError(f'{option} {value} does not exist: there are {count} {what}, give 0 to {count - 1}.')
