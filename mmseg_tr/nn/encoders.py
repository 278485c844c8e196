"""Plain vision transformers from timm: which of them this package runs, and how they are built."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.checks import check_numbers, check_size
from mmseg_tr.reduction.checks import check_flag, check_number, check_pair, is_integer

ensure_torchvision()  # timm imports torchvision

import timm  # noqa: E402
from timm.layers import Attention, trunc_normal_  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402
from torch import nn  # noqa: E402

# Encoders of Segmenter's table, by their timm names: built with Segmenter's LayerNorm eps and resize rule.
SEGMENTER_ENCODERS = frozenset(
    [f'vit_{size}_patch16_384' for size in ('tiny', 'small', 'base', 'large')]
    + [f'vit_{size}_patch32_384' for size in ('small', 'base', 'large')]
    + [f'deit_{size}_distilled_patch16_224' for size in ('tiny', 'small', 'base')]
    + ['deit_base_distilled_patch16_384']
)
# A plain ViT given by its dimensions instead of a name.
DIMENSIONS = ('embed_dim', 'depth', 'num_heads', 'patch_size')
FLAGS = ('qkv_bias', 'qk_norm', 'class_token', 'no_embed_class', 'pre_norm', 'distilled')
OPTIONS = (
    'mlp_ratio',
    'qkv_bias',
    'qk_norm',
    'init_values',
    'class_token',
    'reg_tokens',
    'no_embed_class',
    'pre_norm',
    'distilled',
)


def build_encoder(arch: str | dict | VisionTransformer, img_size=None, **kwargs) -> VisionTransformer:
    """Return a timm VisionTransformer without its classification head, randomly initialised as Segmenter is.

    arch: a timm model name, or a dict with DIMENSIONS and any of OPTIONS; a timm model itself is used unchanged,
    with its weights. img_size: (H, W) or one side in pixels.
    kwargs: further arguments of timm's constructor. Raises ConfigError for names and dimensions it does not support.
    """
    if isinstance(arch, nn.Module):
        _refuse_unsupported(arch, type(arch).__name__)
        return arch
    if img_size is not None:
        kwargs['img_size'] = check_img_size(img_size)
    if isinstance(arch, dict):
        model = _from_dimensions(dict(arch), **kwargs)
    elif isinstance(arch, str):
        model = _from_name(arch, **kwargs)
    else:
        raise ConfigError(f'arch={arch!r} is neither a timm model name nor a dict with {", ".join(DIMENSIONS)}.')
    _refuse_unsupported(model, arch)
    for name in ('cls_token', 'dist_token'):
        if getattr(model, name, None) is not None:
            trunc_normal_(getattr(model, name), std=0.02)
    return model


def check_img_size(img_size) -> tuple[int, int]:
    """(H, W) in pixels from a side or a pair. Raises ConfigError."""
    size = (img_size, img_size) if is_integer(img_size) else img_size
    sides = check_pair('img_size', size, 'one side or (height, width) in pixels')
    check_numbers('img_size', sides)
    return sides


def _from_name(arch: str, **kwargs) -> VisionTransformer:
    if not timm.is_model(arch):
        close = get_close_matches(arch, timm.list_models(['vit_*', 'deit*']), n=3)
        hint = f'did you mean {", ".join(close)}?' if close else 'see timm.list_models("vit_*").'
        raise ConfigError(f'arch={arch!r} is not a timm model: {hint}')
    base = arch.split('.')[0]
    if not timm.models.is_model_in_modules(base, ['vision_transformer', 'deit']):
        raise ConfigError(f'arch={arch!r} is not a plain ViT: give one from timm.list_models("vit_*") or "deit*".')
    model: Any = timm.create_model(arch, pretrained=False, num_classes=0, **kwargs)
    return model


def _from_dimensions(arch: dict, **kwargs) -> VisionTransformer:
    missing = [key for key in DIMENSIONS if key not in arch]
    unknown = [key for key in arch if key not in DIMENSIONS + OPTIONS]
    if missing or unknown:
        what = f'lacks {", ".join(missing)}' if missing else f'has unknown {", ".join(unknown)}'
        raise ConfigError(f'arch={arch} {what}: it takes {", ".join(DIMENSIONS)} and may take {", ".join(OPTIONS)}.')
    for key in DIMENSIONS:
        check_size(f'arch {key}', arch[key])
    for key in FLAGS:
        if key in arch:
            check_flag(f'arch {key}', arch[key])
    check_size('arch reg_tokens', arch.get('reg_tokens', 0), least=0)
    check_number('arch mlp_ratio', arch.get('mlp_ratio', 4.0), 1 / arch['embed_dim'], 1024)
    if arch.get('init_values') is not None:
        check_number('arch init_values', arch['init_values'], 0, 1024)
    if arch['embed_dim'] % arch['num_heads']:
        raise ConfigError(f'arch embed_dim={arch["embed_dim"]} does not divide into {arch["num_heads"]} heads.')
    distilled = arch.pop('distilled', False)
    if not arch.get('class_token', True):
        arch['global_pool'], arch['fc_norm'] = 'avg', False
    return (VisionTransformerDistilled if distilled else VisionTransformer)(num_classes=0, **arch, **kwargs)


def _refuse_unsupported(model: nn.Module, arch) -> None:
    """Raise ConfigError for a part of a timm ViT that this package would otherwise drop silently."""
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise ConfigError(f'arch={arch!r} is a timm {type(model).__name__}, not a plain VisionTransformer.')
    for block in model.blocks:
        if type(block) is not Block:
            raise ConfigError(
                f'arch={arch!r} has blocks of type {type(block).__name__}: only plain blocks are supported.'
            )
        if type(block.attn) is not Attention:
            raise ConfigError(f'arch={arch!r} has {type(block.attn).__name__}: only plain Attention is supported.')
    if not hasattr(model.patch_embed.proj, 'kernel_size'):
        raise ConfigError(
            f'arch={arch!r} embeds patches with {type(model.patch_embed.proj).__name__}, not a convolution.'
        )
    if model.pos_embed is None:
        raise ConfigError(f'arch={arch!r} has no learned position embedding: only learned ones are supported.')


def pretraining_statistics(arch: object) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and deviation of RGB in 0..1 that timm's weights of this name expect; None for other archs."""
    settings = timm.models.get_pretrained_cfg(arch) if isinstance(arch, str) else None
    return (tuple(settings.mean), tuple(settings.std)) if settings else None
