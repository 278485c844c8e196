"""Save and restore a process's random number generators as plain values for a checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's, torch's and the GPUs' generators."""
    version, words, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state()
    return {
        'python': [version, torch.tensor(words, dtype=torch.int64), gauss],
        'numpy': [str(name), torch.from_numpy(keys.astype(np.int64)), int(place), int(has_gauss), float(cached)],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the states that random_state() returned. GPUs that are missing here are skipped."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    for device, value in enumerate(state['cuda'][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value.cpu(), device)


class RestoredIterator:
    """Batches of a resumed loop: skip the trained ones, then restore the random state of the training.

    A resumed IterBasedTrainLoop loads every batch again up to where it stopped; this draws random numbers that the
    original training did not draw.
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

    def skip_iter(self, number: int) -> None:
        """Pass over the trained batches, for onedl-mmengine, whose own way would leave worker processes behind."""
        for _ in range(number):
            next(self)
