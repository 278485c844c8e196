"""Pretrained weights of plain ViTs, through timm, fitted to the patch grid at hand."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn.encoders import build_encoder, timm
from mmseg_tr.nn.pos_embed import infer_square_grid, resize_pos_embed


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
            reference.load_pretrained(str(path))
            state = reference.state_dict()
        else:
            state = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes torch, numpy and safetensors raise
        raise CheckpointError(f'{path} holds no weights that timm can read ({type(error).__name__}).') from error
    return fit_state(state, reference, grid, rule)


def fit_state(checkpoint: dict, reference: torch.nn.Module, grid: tuple[int, int], rule: str) -> dict[str, Tensor]:
    """Weights of an encoder out of a checkpoint: heads dropped, the position embedding resized to `grid`.

    reference: the timm encoder whose keys and shapes count. Raises CheckpointError naming what misses or differs.
    """
    state = checkpoint.get('model', checkpoint)
    wanted = reference.state_dict()
    state = {key: value for key, value in state.items() if key in wanted}
    prefix = 0 if reference.no_embed_class else reference.num_prefix_tokens
    if 'pos_embed' in state:
        state['pos_embed'] = resize_square(state['pos_embed'], grid, prefix, rule)
    wrong = [key for key in wanted if key not in state]
    wrong += [key for key in state if key != 'pos_embed' and state[key].shape != wanted[key].shape]
    if wrong:
        raise CheckpointError(
            f'the pretrained weights belong to another encoder: {len(wrong)} of {len(wanted)} entries are missing or '
            f'of another shape, {", ".join(wrong[:3])} first.'
        )
    return state


def resize_square(pos_embed: Tensor, grid: tuple[int, int], num_prefix: int, rule: str = 'bilinear') -> Tensor:
    """Resize a stored embedding whose grid is the square its length implies, as pretrained ones are."""
    return resize_pos_embed(pos_embed, infer_square_grid(pos_embed, num_prefix), grid, num_prefix, rule)
