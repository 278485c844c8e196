"""Networks that are saved as a folder, and uploaded to the hub."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save  # a requirement of timm
from torch import nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.backbone import Backbone
from mmseg_tr.weights.card import model_card
from mmseg_tr.weights.folder import NETWORK, check_saving, upload_folder, write_folder
from mmseg_tr.weights.io import contiguous


class Savable(nn.Module):
    """A network that knows how create_model() built it.

    recipe: name, num_classes and options of create_model(), of plain values; None for a network built by hand.
    """

    recipe: dict[str, Any] | None = None
    transform: Any = None

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        row: str | None = None,
        comparison: str | os.PathLike[str] | None = None,
        force: bool = False,
        name: str | None = None,
    ) -> Path:
        """Write model.safetensors, mmseg_tr.json with the method, and a model card, for mmseg_tr.from_pretrained().

        row: of the published tables, whose numbers the card shows. comparison: a compare.json, likewise.
        force: replace the files of an earlier model. name: title of the card, by default the folder's.
        Raises ConfigError for a network that create_model() did not build, WriteError if it cannot write.
        """
        check_saving(folder, row, comparison, force, name)
        settings = self.saved_settings()
        card = model_card(name or Path(folder).resolve().name, settings, row, comparison)
        return write_folder(folder, save(contiguous(self.state_dict()), {'format': 'pt'}), settings, card, force=force)

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None, **options: Any) -> str:
        """Upload the network as 'user/name'; returns its address. options: of save_pretrained().

        Raises ConfigError where the hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / 'model', name=name, **options)
            return upload_folder(Path(folder) / 'model', name, private=private, token=token)

    def saved_settings(self) -> dict[str, Any]:
        """How to build this network again: the content of mmseg_tr.json."""
        if self.recipe is None:
            raise ConfigError('a network must be built by create_model() to be saved: others have no name.')
        backbone = next(module for module in self.modules() if isinstance(module, Backbone))
        method = backbone.reduction
        dtypes = {weight.dtype for weight in self.parameters()}
        if len(dtypes) != 1:
            raise ConfigError(f'weights must have one dtype to be saved, got {sorted(map(str, dtypes))}.')
        return dict(
            kind=NETWORK,
            **self.recipe,
            reduction=None if method is None else method.portable_settings(),
            dtype=str(dtypes.pop()).removeprefix('torch.'),
            transform=None if self.transform is None else self.transform.settings(),
        )


def as_dtype(name: Any) -> torch.dtype:
    """The dtype of a name in mmseg_tr.json. Raises ConfigError."""
    known = dict(float32=torch.float32, float64=torch.float64, float16=torch.float16, bfloat16=torch.bfloat16)
    if name not in known:
        raise ConfigError(f'dtype must be one of {", ".join(known)}, got {name!r}.')
    return known[name]
