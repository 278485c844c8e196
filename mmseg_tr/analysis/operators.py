"""Count the operators that a forward dispatches; on fast devices and in small networks each one costs time.

count_operators(network.scores, image).total()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class OperatorCounter(TorchDispatchMode):
    """Counts operators by name inside `with OperatorCounter() as counter:`; views and profiler scopes left out."""

    counts: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if not _is_idle(func, args) and not name.startswith(('profiler::', 'prim::')):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def _is_idle(func: Any, args: tuple) -> bool:
    """Whether an operator computes nothing: it views its input under other sizes and strides, or is dropout in eval."""
    name = func._schema.name
    if name == 'aten::dropout':
        return not args[2]
    aliases = [value.alias_info for value in func._schema.returns]
    return name == 'aten::_unsafe_view' or any(alias is not None and not alias.is_write for alias in aliases)


@torch.inference_mode()
def count_operators(run: Callable[[Tensor], Any], image: Tensor) -> Counter:
    """Return operators of one call of run(image) by name; .total() adds them up."""
    with OperatorCounter() as counter:
        run(image)
    return counter.counts
