"""Pretrained weights of plain ViTs, through timm, fitted to the patch grid at hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn.encoders import build_encoder, timm
from mmseg_tr.nn.pos_embed import infer_square_grid, resize_pos_embed
from mmseg_tr.weights import formats
from mmseg_tr.weights.checks import check_arrays
from mmseg_tr.weights.fetch import fetch_if_published
from mmseg_tr.weights.fit import check_tensors, difference
from mmseg_tr.weights.formats import state_of
from mmseg_tr.weights.io import read_file

# entries of classifiers and of pretraining, which no dense prediction uses
ENCODERS = ('backbone.', 'encoder.')  # prefixes of the encoder in whole models: checkpoints of this package, Segmenters
CONVERT = 'mmseg-tr convert-checkpoint FILE model.pth'
TRANSFORMERS_PATCHES = 'embeddings.patch_embeddings.projection.weight'
HOSTS = '; they are of transformers: build that model and apply a method to it with mmseg_tr.apply()'
UNUSED = ('head', 'fc_norm', 'pre_logits', 'attn_pool', 'mask_token')


def pretrained_state(
    arch: str | dict, source: bool | str | os.PathLike, in_chans: int, grid: tuple[int, int], rule: str
) -> dict[str, Tensor]:
    """Return the state dict of an encoder, its position embedding resized to `grid`.

    source: True for timm's weights of that name; else a file or URL: .pth or .safetensors in timm's layout, AugReg's
    .npz, or a checkpoint of this package or of a Segmenter, whose encoder is taken.
    Raises CheckpointError when the weights are not available, are damaged, or belong to another encoder.
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
    known = '://' in str(source) or Path(source).is_dir()
    path = fetch_if_published(source) if known else Path(source)
    if not path.is_file():
        raise CheckpointError(f'pretrained={str(source)!r} is not a file: name a .pth, .safetensors or .npz file.')
    reference = build_encoder(arch, in_chans=in_chans)
    if path.suffix == '.npz':
        state = load_npz(path, arch, reference, in_chans).state_dict()
    else:
        payload = read_file(path)
        whole = state_of(payload)
        if not all(isinstance(name, str) for name in whole):
            raise CheckpointError(f'{path} holds no weights by name.')
        state = encoder_state(whole)
        check_tensors(state, str(path))
        if formats.is_mmseg_segmenter(payload) or formats.is_expedite(payload):
            raise CheckpointError(f'{path} is {formats.describe(payload)}: convert it first ({CONVERT}).')
    return fit_state(state, reference, grid, rule)


def encoder_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the encoder's entries of a whole model, without prefix and method; any other state dict unchanged."""
    for prefix in ENCODERS:
        if f'{prefix}patch_embed.proj.weight' in state:
            found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            return {key: value for key, value in found.items() if not key.startswith('reduction.')}
    return dict(state)


def load_npz(path: Path, arch: str | dict, reference: nn.Module, in_chans: int) -> nn.Module:
    """Return an encoder with AugReg weights, its position embedding at the grid of the file.

    timm's loader would resize the embedding to the grid of the encoder, and so a first time before ours.
    Raises CheckpointError for files that are damaged or hold something else.
    """
    try:
        check_arrays(path)
        with np.load(path, allow_pickle=False) as file:
            (stored,) = (file[key] for key in file.files if key.endswith('pos_embedding'))
        prefix = 0 if reference.no_embed_class else reference.num_prefix_tokens
        grid = infer_square_grid(torch.from_numpy(stored), prefix)
        if grid != tuple(reference.patch_embed.grid_size):
            size = tuple(side * patch for side, patch in zip(grid, reference.patch_embed.patch_size, strict=True))
            reference = build_encoder(arch, img_size=size, in_chans=in_chans)
        reference.load_pretrained(str(path))
    except CheckpointError:
        raise
    except Exception as error:  # numpy and timm raise many types for damaged and foreign files
        raise CheckpointError(f'{path} holds no weights that timm can read ({type(error).__name__}).') from error
    return reference


def fit_state(checkpoint: dict, reference: nn.Module, grid: tuple[int, int], rule: str) -> dict[str, Tensor]:
    """Return weights of an encoder out of a checkpoint: heads dropped, the position embedding resized to `grid`.

    reference: the timm encoder whose keys and shapes count. Raises CheckpointError naming missing, different and
    unused entries.
    """
    state = {key: value for key, value in checkpoint.get('model', checkpoint).items() if not key.startswith(UNUSED)}
    wanted = {key: value for key, value in reference.state_dict().items() if not key.startswith(UNUSED)}
    found = difference(state, wanted)
    reshaped = [text for text in found.reshaped if not alike(text.split()[0], state, wanted)]
    found = replace(found, reshaped=tuple(reshaped))
    if found:
        hint = HOSTS if any(str(key).endswith(TRANSFORMERS_PATCHES) for key in state) else ''
        raise CheckpointError(f'the pretrained weights belong to another encoder: {found}{hint}.')
    prefix = 0 if reference.no_embed_class else reference.num_prefix_tokens
    state['pos_embed'] = resize_stored(state['pos_embed'], grid, prefix, rule)
    return state


def alike(key: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether an entry differs in the grid of its position embedding only."""
    return key == 'pos_embed' and state[key].ndim == 3 and state[key].shape[-1] == wanted[key].shape[-1]


def resize_stored(pos_embed: Tensor, grid: tuple[int, int], num_prefix: int, rule: str) -> Tensor:
    """Return a stored position embedding at another grid; its own is the square that its length implies.

    Raises CheckpointError where it implies none.
    """
    try:
        return resize_square(pos_embed, grid, num_prefix, rule)
    except (ValueError, IndexError) as error:
        raise CheckpointError(f'the stored position embedding does not fit: {error}') from error


def resize_square(pos_embed: Tensor, grid: tuple[int, int], num_prefix: int, rule: str = 'bilinear') -> Tensor:
    """Resize a stored embedding whose grid is the square its length implies, as pretrained ones are."""
    return resize_pos_embed(pos_embed, infer_square_grid(pos_embed, num_prefix), grid, num_prefix, rule)
