"""What was applied to a network, and how the network becomes plain again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.applied import Switch
from mmseg_tr.hosts.patch import Forward, Hook


def applied_to(model: nn.Module) -> Switch | None:
    """Return what was applied to a network, or None."""
    for module in model.modules():
        forward = vars(module).get('forward')
        if isinstance(forward, Forward):
            return forward.applied
        if isinstance(vars(module).get('switch'), Switch):
            return module.switch
    return None


def check_module(model: Any) -> None:
    """Raise ConfigError for what is not a network."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f'model must be a torch.nn.Module, got {type(model).__name__}.')


def require_applied(model: nn.Module) -> Switch:
    """Return what was applied to a network. Raises ConfigError if nothing was."""
    check_module(model)
    applied = applied_to(model)
    if applied is None:
        raise ConfigError('no method was applied to this network: mmseg_tr.apply(model, ...) first.')
    return applied


def restore_modules(model: nn.Module) -> None:
    """Delete everything that this package set on a network, in place."""
    for module in model.modules():
        if isinstance(vars(module).get('forward'), Forward):
            del module.forward, module.__prepare_scriptable__
        if isinstance(vars(module).get('switch'), Switch):  # of this package's own networks
            del module.switch
            del module.reduction  # a submodule, where the method is one
            module.reduction = None  # type: ignore[assignment]
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, Hook)]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


@contextmanager
def switched_off(applied: Switch) -> Iterator[None]:
    """Give the plain network, in this thread."""
    thread = threading.get_ident()
    applied.off[thread] = applied.off.get(thread, 0) + 1
    try:
        yield
    finally:
        applied.off[thread] -= 1
        if not applied.off[thread]:
            del applied.off[thread]
