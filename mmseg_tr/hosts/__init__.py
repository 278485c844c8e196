"""Apply token reduction to networks of other libraries, which keep class, forward, outputs, hooks and weights.

mmseg_tr.apply(model, 'ALGM', budget=0.6)
print(mmseg_tr.summary(model, image))
with mmseg_tr.disabled(model): ...
mmseg_tr.remove(model)
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.budget import Target, method_within
from mmseg_tr.hosts.host import BlockView, Host, submodule
from mmseg_tr.hosts.patch import Applied, applied_to, install, restore_modules, switched_off
from mmseg_tr.hosts.report import Summary, summary
from mmseg_tr.hosts.timm import timm_host
from mmseg_tr.hosts.transformers import transformers_host
from mmseg_tr.reduction import Reduction, build_reduction, find_method

READERS = (timm_host, transformers_host)


def apply(
    model: nn.Module,
    method: str | dict | Reduction,
    *,
    budget: float | None = None,
    host: Host | None = None,
    **settings: Any,
) -> nn.Module:
    """Apply a token-reduction method to a network, in place; returns the network.

    model: a network of a supported library, or one that contains it. method: a name, dict(type=...), or a strategy.
    budget: the share of the plain network's multiply-adds that is kept at most, above 0 and at most 1; the method's
    settings are then chosen. settings: of the method, which override defaults and budget. host: how a network of no
    supported library is laid out.
    Raises ConfigError, and changes nothing, for a method or setting that does not fit.
    """
    check_untouched(model)
    network, host = find_host(model, host)
    blocks = submodule(network, host.blocks)
    strategy = fitted(network, host, method, settings, budget)
    applied = Applied(strategy, host.prefix, host.grid, len(blocks), BlockView(host.parts, host.attention))
    install(network, host, applied)
    return model


def fitted(network: nn.Module, host: Host, method: Any, settings: dict[str, Any], budget: float | None) -> Reduction:
    """The strategy for a network. Raises ConfigError for settings or a budget that do not fit."""
    target = Target(network, host, host.grid or counted_grid(host))
    if isinstance(method, Reduction):
        if settings or budget is not None:
            raise ConfigError('settings and budget are for a method by name: a strategy has its settings.')
        strategy = method
    else:
        asked = dict(type=method) if isinstance(method, str) else dict(method)
        asked |= settings
        check_fits(find_method(asked.get('type')), host)
        if budget is not None:
            return method_within(asked, budget, target)
        if len(asked) == 1:
            strategy = build_reduction(find_method(asked['type']).name, target.width, target.depth, target.grid)
        else:
            strategy = build_reduction(asked)
    check_fits(strategy, host)
    return strategy.bind(target.depth, target.grid, host.prefix)


def check_fits(method: type[Reduction] | Reduction, host: Host) -> None:
    """Raise ConfigError, with the reason, for a method that cannot work in a host."""
    kind = method if isinstance(method, type) else type(method)
    if method.backbone != 'ViT':
        raise ConfigError(f'{method.name} is for a {method.backbone}, not for a vision transformer of one stage.')
    if method.needs_class_token and not host.class_token:
        raise ConfigError(f'{method.name} needs a class token, which this network does not have.')
    if kind.embed is not Reduction.embed:
        raise ConfigError(
            f"{method.name} works before the patch embedding, which is the host's own: use mmseg_tr.nn.ViT."
        )


def counted_grid(host: Host) -> tuple[int, int]:
    """Return the grid for defaults and budgets of networks that take images of any size."""
    size = host.image_size or tuple(32 * side for side in host.patch_size)
    return tuple(side // patch for side, patch in zip(size, host.patch_size))


def find_host(model: nn.Module, host: Host | None) -> tuple[nn.Module, Host]:
    """Return the vision transformer in a network and its layout. Raises ConfigError unless there is exactly one."""
    if host is not None:
        host.check(model)
        return model, host
    found = []
    for module in model.modules():
        read = next((layout for layout in (reader(module) for reader in READERS) if layout is not None), None)
        if read is not None:
            found.append((module, read))
    if not found:
        raise ConfigError(f'{type(model).__name__} is not supported: see mmseg_tr.Host for networks of your own.')
    if len(found) > 1:
        raise ConfigError(f'{type(model).__name__} has {len(found)} vision transformers: apply to one of them.')
    found[0][1].check(found[0][0])
    return found[0]


def check_untouched(model: nn.Module) -> None:
    """Raise ConfigError for a network that is compiled, or that something was applied to already."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f'model must be a torch.nn.Module, got {type(model).__name__}.')
    if isinstance(model, torch._dynamo.OptimizedModule) or model._compiled_call_impl is not None:
        raise ConfigError('the network is compiled: apply first, then torch.compile it.')
    if applied_to(model) is not None:
        raise ConfigError('a method was applied to this network already: mmseg_tr.remove(model) first.')
    for name, module in model.named_modules():
        if 'forward' in vars(module):
            raise ConfigError(f'the forward of {name or "the network"} was replaced by other code: undo that first.')


def remove(model: nn.Module) -> nn.Module:
    """Remove a method from a network, which is then bit for bit as before. Raises ConfigError without a method."""
    require_applied(model)
    restore_modules(model)
    return model


def disabled(model: nn.Module) -> AbstractContextManager[None]:
    """The plain network inside `with disabled(model):`, in this thread. Raises ConfigError without a method."""
    return switched_off(require_applied(model))


def require_applied(model: nn.Module) -> Applied:
    """Return what was applied to a network. Raises ConfigError if nothing was."""
    applied = applied_to(model)
    if applied is None:
        raise ConfigError('no method was applied to this network: mmseg_tr.apply(model, ...) first.')
    return applied


__all__ = ['Host', 'Summary', 'apply', 'disabled', 'remove', 'summary']
