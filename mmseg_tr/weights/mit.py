"""Weights of MiT, alone or under a SegFormer head, in every layout they are published in, and loading them strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights import fit, io, keymap
from mmseg_tr.weights.fetch import fetch_if_published
from mmseg_tr.weights.formats import BACKBONE, MIT_PATCHES, describe, mit_layout, state_of
from mmseg_tr.weights.segformer_keys import HUGGING_FACE, NVIDIA

HEAD = 'decode_head.'
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
        """Return the weights of the backbone, without prefix."""
        state = self.state.items()
        return {key.removeprefix(BACKBONE): value for key, value in state if not key.startswith(HEAD)}


def read_weights(payload: Any, where: str) -> Weights:
    """Return a file's content under our names. where: its name in messages. Raises CheckpointError for others."""
    layout, state = mit_layout(payload), state_of(payload)
    if layout is None:
        raise CheckpointError(
            f'{where} holds no MiT or SegFormer in a layout of {", ".join(NAMES.values())} ({describe(payload)}).'
        )
    fit.check_tensors(state, where)
    if layout == 'openmmlab':
        state, dropped = keymap.split(state, ('auxiliary_head.',))
        if MIT_PATCHES in state:
            state = {BACKBONE + key: value for key, value in state.items()}
    else:
        state, dropped = (NVIDIA if layout == 'nvidia' else HUGGING_FACE).to_ours(state)
    return Weights(layout, io.contiguous(state), dropped)


def load_backbone(model: nn.Module, source: str | os.PathLike) -> Weights:
    """Load a backbone strictly from a file or from published weights by name; return all weights of the file.

    Raises CheckpointError when they are not available or belong to another network; the model is then unchanged.
    """
    path = fetch_if_published(source)
    weights = read_weights(io.read_file(path), str(path))
    load_strictly(model, weights.backbone(), str(path))
    return weights


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor of `state`, or raise CheckpointError and load nothing."""
    found = fit.difference(state, model.state_dict())
    if found:
        raise CheckpointError(f'{where} {fit.misfit(found, "holds the weights of another network")}.')
    model.load_state_dict(state, strict=True)
