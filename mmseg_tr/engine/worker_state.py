"""Random states of data-loading processes, for trainings by epochs with persistent workers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from mmseg_tr.engine.random_state import random_state, set_random_state

SIZE = 64 << 10  # most bytes of a state, about 20 kB


class RecordingCollate:
    """A collate function that writes its worker's random state to memory shared with the main process."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any], workers: int) -> None:
        self.collate = collate
        self.cells = torch.zeros(workers, SIZE, dtype=torch.uint8).share_memory_()
        self.lengths = torch.zeros(workers, dtype=torch.int64).share_memory_()

    def __call__(self, batch: Sequence[Any]) -> Any:
        found, worker = self.collate(batch), get_worker_info()
        if worker is not None:
            self.put(worker.id, random_state())
        return found

    def put(self, worker: int, state: dict[str, Any]) -> None:
        file = io.BytesIO()
        torch.save({**state, 'cuda': []}, file)
        content = torch.frombuffer(file.getbuffer(), dtype=torch.uint8)
        self.cells[worker, : len(content)] = content
        self.lengths[worker] = len(content)

    def get(self, worker: int) -> dict[str, Any] | None:
        """Return the last state of a worker; None before its first batch."""
        length = int(self.lengths[worker])
        content = io.BytesIO(self.cells[worker, :length].numpy())
        return torch.load(content, weights_only=True) if length else None

    def start(self, then: Callable[[int], None] | None, worker: int) -> None:
        """Set up a worker, with the state stored here for it, if any."""
        if then is not None:
            then(worker)
        state = self.get(worker)
        if state is not None:
            set_random_state(state)


def worker_states(loader: DataLoader) -> list[dict[str, Any] | None]:
    """Return the random states of a loader's workers; empty if they are not recorded."""
    record = loader.collate_fn
    return [record.get(worker) for worker in range(loader.num_workers)] if isinstance(record, RecordingCollate) else []


def set_worker_states(loader: DataLoader, states: Sequence[dict[str, Any] | None]) -> None:
    """Let the workers of a loader, which have not started yet, begin with these states."""
    record = loader.collate_fn
    if isinstance(record, RecordingCollate) and len(states) == loader.num_workers:
        for worker, state in enumerate(states):
            if state is not None:
                record.put(worker, state)


def end_workers(loader: DataLoader) -> None:
    """End the persistent workers of a loader; the next pass over it starts new ones.

    Where the garbage collector ends them, they do not get the message and torch waits five seconds for each loader.
    """
    iterator = getattr(loader, '_iterator', None)
    end = getattr(iterator, '_shutdown_workers', None)
    if end is not None:
        end()
        loader._iterator = None
