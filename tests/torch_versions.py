"""What the oldest supported torch cannot do, as docs/install.md lists it: its tests are skipped, with the reason."""

import pytest
import torch

VERSION = tuple(map(int, torch.__version__.split('.')[:2]))
ONE_GRAPH = 'does not trace dataclasses.replace'
ANY_BATCH = 'does not export this method for any batch size'
GRADIENTS = 'has no torch.func.grad through numbers that the host reads'
SAVED = 'does not load a saved output of a hooked block with weights_only=True'
HALF = "rounds timm's SAM more coarsely in half precision"


def needs_newer_torch(reason: str) -> None:
    """Skip the rest of a test on torch 2.4."""
    if VERSION < (2, 5):
        pytest.skip(f'torch {torch.__version__} {reason}')
