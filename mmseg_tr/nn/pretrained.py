"""Pretrained weights of plain ViTs, through timm, fitted to the patch grid at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn.encoders import build_encoder, timm
from mmseg_tr.nn.pos_embed import infer_square_grid, resize_pos_embed

# entries of classifiers and of pretraining, which no dense prediction uses
UNUSED = ('head', 'fc_norm', 'pre_logits', 'attn_pool', 'mask_token')


def pretrained_state(
    arch: str | dict, source: bool | str, in_chans: int, grid: tuple[int, int], rule: str
) -> dict[str, Tensor]:
    """State dict of an encoder, its position embedding resized to `grid`.

    source: True for timm's weights of that name; else a .pth, .safetensors or AugReg .npz file.
    Raises CheckpointError when the weights cannot be had, are damaged, or belong to another encoder.
    """
    if source is True:
        try:
            model = timm.create_model(arch, pretrained=True, num_classes=0, in_chans=in_chans)
        except Exception as error:  # the hub raises a dozen unrelated types, a missing network among them
            raise CheckpointError(
                f'timm could not fetch the weights of {arch!r} ({type(error).__name__}): check the network, or give '
                'pretrained=FILE, or pretrained=None to start from random weights.'
            ) from error
        return fit_state(model.state_dict(), model, grid, rule)
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f'pretrained={source!r} is no file: name a .pth, .safetensors or .npz file that exists.')
    reference = build_encoder(arch, in_chans=in_chans)
    try:
        if path.suffix == '.npz':
            reference = load_npz(path, arch, reference, in_chans)
            state = reference.state_dict()
        else:
            state = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes torch, numpy and safetensors raise
        raise CheckpointError(f'{path} holds no weights that timm can read ({type(error).__name__}).') from error
    return fit_state(state, reference, grid, rule)


def load_npz(path: Path, arch: str | dict, reference: torch.nn.Module, in_chans: int) -> torch.nn.Module:
    """An encoder with AugReg weights, its position embedding at the grid of the file.

    timm's loader would resize the embedding to the grid of the encoder, and so a first time before ours.
    """
    with np.load(path, allow_pickle=False) as file:
        (stored,) = (file[key] for key in file.files if key.endswith('pos_embedding'))
    prefix = 0 if reference.no_embed_class else reference.num_prefix_tokens
    grid = infer_square_grid(torch.from_numpy(stored), prefix)
    if grid != tuple(reference.patch_embed.grid_size):
        size = tuple(side * patch for side, patch in zip(grid, reference.patch_embed.patch_size, strict=True))
        reference = build_encoder(arch, img_size=size, in_chans=in_chans)
    reference.load_pretrained(str(path))
    return reference


def fit_state(checkpoint: dict, reference: torch.nn.Module, grid: tuple[int, int], rule: str) -> dict[str, Tensor]:
    """Weights of an encoder out of a checkpoint: heads dropped, the position embedding resized to `grid`.

    reference: the timm encoder whose keys and shapes count. Raises CheckpointError naming what misses or differs, parts
    that this encoder would leave unused among it.
    """
    state = {key: value for key, value in checkpoint.get('model', checkpoint).items() if not key.startswith(UNUSED)}
    wanted = {key: value for key, value in reference.state_dict().items() if not key.startswith(UNUSED)}
    wrong = sorted(wanted.keys() ^ state.keys())
    wrong += [key for key in wanted.keys() & state.keys() if not alike(key, state[key], wanted[key])]
    if wrong:
        raise CheckpointError(
            f'the pretrained weights belong to another encoder: {len(wrong)} entries are missing, left over or of '
            f'another shape, {", ".join(wrong[:3])} first.'
        )
    prefix = 0 if reference.no_embed_class else reference.num_prefix_tokens
    try:
        state['pos_embed'] = resize_square(state['pos_embed'], grid, prefix, rule)
    except ValueError as error:
        raise CheckpointError(f'the pretrained position embedding does not fit: {error}') from error
    return state


def alike(key: str, value: Tensor, reference: Tensor) -> bool:
    """Whether a stored entry has the shape of its counterpart; a position embedding may have another grid."""
    if key == 'pos_embed':
        return value.ndim == 3 and value.shape[-1] == reference.shape[-1]
    return value.shape == reference.shape


def resize_square(pos_embed: Tensor, grid: tuple[int, int], num_prefix: int, rule: str = 'bilinear') -> Tensor:
    """Resize a stored embedding whose grid is the square its length implies, as pretrained ones are."""
    return resize_pos_embed(pos_embed, infer_square_grid(pos_embed, num_prefix), grid, num_prefix, rule)
