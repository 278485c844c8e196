"""Weights for tests that need none that are trained."""

from pathlib import Path

import torch

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config


def untrained(config: str, file: Path) -> Path:
    """A checkpoint of a config's network, untrained but not as even as it is drawn."""
    model = build_model(load_config(config), None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = {key: value + 0.05 * torch.randn_like(value) for key, value in model.state_dict().items()}
    torch.save(dict(meta={}, state_dict=state), file)
    return file
