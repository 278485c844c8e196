"""Weights of MiT, alone or under a SegFormer head, in every layout they are published in, and loading them strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights import fit, io, keymap
from mmseg_tr.weights.fetch import fetch_if_published
from mmseg_tr.weights.segformer_keys import HUGGING_FACE, NVIDIA

if TYPE_CHECKING:
    from mmseg_tr.nn.mit import MixVisionTransformer

MARK = 'layers.0.0.projection.weight'
BACKBONE, HEAD = 'backbone.', 'decode_head.'
# LayerNorm eps that weights were made with, where it is not 1e-6 everywhere
EPS = {'nvidia': dict(embed_eps=1e-5), 'huggingface': dict(norm_eps=1e-5)}
NAMES = {'openmmlab': 'OpenMMLab or SegFormer++', 'nvidia': 'NVIDIA', 'huggingface': 'Hugging Face'}


@dataclass(frozen=True)
class Weights:
    """Weights under our names: backbone.*, and decode_head.* where the file holds a segmentation head.

    layout: one of NAMES. dropped: keys of the file that no dense prediction uses.
    """

    layout: str
    state: dict[str, Tensor]
    dropped: tuple[str, ...]

    @property
    def head(self) -> str | None:
        """Form of the head, as nn.segformer.HEADS names it; None for a backbone alone."""
        if f'{HEAD}conv_seg.weight' not in self.state:
            return None
        return 'conv' if f'{HEAD}convs.0.conv.weight' in self.state else 'linear'

    def backbone(self) -> dict[str, Tensor]:
        """The weights of the backbone, without prefix."""
        state = self.state.items()
        return {key.removeprefix(BACKBONE): value for key, value in state if not key.startswith(HEAD)}


def state_of(payload: Any) -> Mapping[str, Any]:
    """The state dict in what a file holds: under state_dict or model, or bare; empty where there is none."""
    if not isinstance(payload, Mapping):
        return {}
    inner = next((payload[key] for key in ('state_dict', 'model') if isinstance(payload.get(key), Mapping)), payload)
    if inner and all(str(key).startswith('module.') for key in inner):
        inner = {str(key).removeprefix('module.'): value for key, value in inner.items()}
    return inner


def layout_of(payload: Any) -> str | None:
    """Which of NAMES a file's content is laid out as; None for anything but MiT, alone or under a decode_head."""
    state = state_of(payload)
    if HUGGING_FACE.recognise(state):
        return 'huggingface'
    if NVIDIA.recognise(state):
        return 'nvidia'
    other = [key for key in state if str(key).startswith(('head.', 'neck.'))]
    return 'openmmlab' if (MARK in state or BACKBONE + MARK in state) and not other else None


def read_weights(payload: Any, where: str) -> Weights:
    """What a file holds, under our names. where: what messages call it. Raises CheckpointError for other content."""
    from mmseg_tr.checkpoints import describe  # the table of formats imports this module

    layout, state = layout_of(payload), state_of(payload)
    if layout is None:
        raise CheckpointError(
            f'{where} holds no MiT or SegFormer in a layout of {", ".join(NAMES.values())} ({describe(payload)}).'
        )
    fit.check_tensors(state, where)
    if layout == 'openmmlab':
        state, dropped = keymap.split(state, ('auxiliary_head.',))
        if MARK in state:
            state = {BACKBONE + key: value for key, value in state.items()}
    else:
        state, dropped = (NVIDIA if layout == 'nvidia' else HUGGING_FACE).to_ours(state)
    return Weights(layout, io.contiguous(state), dropped)


def load_backbone(model: MixVisionTransformer, source: str | os.PathLike) -> Weights:
    """Load the backbone's weights out of a file, or of published ones by name, strictly; return all of the file's.

    Raises CheckpointError when they cannot be had or belong to another network; the model is then as it was.
    """
    path = fetch_if_published(source)
    weights = read_weights(io.read_file(path), str(path))
    load_strictly(model, weights.backbone(), str(path))
    return weights


def load_strictly(model: torch.nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor of `state`, or raise CheckpointError and load nothing."""
    found = fit.difference(state, fit.shapes(model))
    if found:
        raise CheckpointError(f'{where} holds the weights of another network: {found}.')
    model.load_state_dict(state, strict=True)


def dimensions(backbone: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """`arch` of the MiT that has these weights, keys without prefix: what they imply, and MiT's strides and heads.

    Raises CheckpointError where they do not imply a MiT whose widths are multiples of the first, as b0 to b5 are.
    """
    shape = {key: tuple(value.shape) for key, value in backbone.items()}
    try:
        stages = range(keymap.count_layers(shape, 'layers'))
        widths = [shape[f'layers.{i}.0.projection.weight'][0] for i in stages]
        arch = dict(
            embed_dims=widths[0],
            num_layers=tuple(keymap.count_layers(shape, f'layers.{i}.1') for i in stages),
            num_heads=tuple(width // widths[0] for width in widths),
            patch_sizes=tuple(shape[f'layers.{i}.0.projection.weight'][2] for i in stages),
            strides=tuple(4 if i == 0 else 2 for i in stages),
            sr_ratios=tuple(shape.get(f'layers.{i}.1.0.attn.sr.weight', (0, 0, 1))[2] for i in stages),
            mlp_ratio=shape['layers.0.1.0.ffn.layers.0.weight'][0] // widths[0],
            qkv_bias='layers.0.1.0.attn.attn.in_proj_bias' in shape,
        )
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f'{where} holds no complete MiT: {error} is missing.') from error
    if [heads * widths[0] for heads in arch['num_heads']] != widths:
        raise CheckpointError(
            f'{where} has stages of widths {widths}, which are no multiples of the first: how many attention heads '
            'they have cannot be told from the weights.'
        )
    return arch


def arch_name(arch: Mapping[str, Any]) -> str | None:
    """'b0' to 'b5' for their dimensions, None for others."""
    from mmseg_tr.nn.mit import ARCHS, DEFAULTS

    return next((name for name, other in ARCHS.items() if DEFAULTS | other == dict(arch)), None)
