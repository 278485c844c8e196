"""States of the random number generators of a process, as plain values that a checkpoint can hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's, torch's and the GPUs' generators."""
    version, words, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state()
    return {
        'python': [version, torch.tensor(words, dtype=torch.int64), gauss],
        'numpy': [str(name), torch.from_numpy(keys.astype(np.int64)), int(place), int(has_gauss), float(cached)],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators into states that random_state() returned. GPUs that are not here are left out."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    for device, value in enumerate(state['cuda'][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value.cpu(), device)


class RestoredIterator:
    """Batches of a loop that first passes over what has been trained, then sets the random state of the training.

    A resumed IterBasedTrainLoop loads every batch again up to where it stopped; this draws random numbers in this
    process, which the training that is continued did not draw.
    """

    def __init__(self, batches: Any, passed_over: int, state: dict[str, Any]) -> None:
        self.batches, self.left, self.state = batches, passed_over, state

    def __iter__(self) -> RestoredIterator:
        return self

    def __next__(self) -> Any:
        if self.left == 0:
            set_random_state(self.state)
        self.left -= 1
        return next(self.batches)
