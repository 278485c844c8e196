"""Apply token reduction to networks of other libraries, which keep class, forward, outputs, hooks and weights.

mmseg_tr.apply(model, 'ALGM', budget=0.6)
print(mmseg_tr.summary(model, image))
with mmseg_tr.disabled(model): ...
mmseg_tr.remove(model)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.budget import BlocksTarget, Target
from mmseg_tr.hosts.fixed import fixed_form
from mmseg_tr.hosts.host import Host, Queries
from mmseg_tr.hosts.own import own_target
from mmseg_tr.hosts.report import Summary, summary
from mmseg_tr.hosts.rope import Rotary
from mmseg_tr.hosts.sam import sam_target
from mmseg_tr.hosts.segformer import segformer_target
from mmseg_tr.hosts.state import applied_to, check_module, require_applied, restore_modules, switched_off
from mmseg_tr.hosts.timm import timm_host
from mmseg_tr.hosts.transformers import transformers_host
from mmseg_tr.hosts.watch import watch
from mmseg_tr.options import check_type
from mmseg_tr.reduction import Reduction, build_reduction, find_method


def blocks_target(model: nn.Module) -> Target | None:
    """Return a network of a supported library that is a list of blocks, or None."""
    host = timm_host(model) or transformers_host(model)
    return None if host is None else BlocksTarget(model, host)


READERS = (blocks_target, segformer_target, sam_target, own_target)


def apply(
    model: nn.Module,
    method: str | dict[str, Any] | Reduction,
    *,
    budget: float | None = None,
    tokens: Sequence[int] | None = None,
    calibrate: Tensor | None = None,
    host: Host | None = None,
    positions: str | None = None,
    **settings: Any,
) -> nn.Module:
    """Apply a token-reduction method to a network, in place; returns the network.

    model: a network of a supported library, or one that contains it. method: a name, dict(type=...), or a strategy.
    budget: the share of the model's plain multiply-adds that is kept at most, above 0 and at most 1, heads included
    where its forward takes an image alone; settings of fixed shapes are then chosen. calibrate: images as the network
    takes them, (B, C, H, W): of several ways to spend the budget the one is chosen that changes its results for them
    least. tokens: instead of a budget, how many patch tokens are left after each layer that reduces. settings: of the
    method, which override defaults and budget. host: how a network of no supported library is laid out. positions: the
    rotary position of a merged token, 'rotated' (mean of its patches' rotations, default), 'mean' (of their
    coordinates) or 'representative' (of the middle patch).
    Raises ConfigError, and changes nothing, for a method or setting that does not fit.
    """
    check_untouched(model)
    target = find_target(model, host)
    if positions is not None:
        target = target.with_positions(positions)
    strategy = fitted(target, method, settings, budget=budget, tokens=tokens, calibrate=calibrate)
    try:
        target.install(target.network, strategy)
    except BaseException:
        restore_modules(model)
        raise
    require_applied(model).target = target
    return model


def fitted(target: Target, method: Any, settings: dict[str, Any], **fixed: Any) -> Reduction:
    """Return the strategy for a network. fixed: budget, tokens and calibrate, each None without.

    Raises ConfigError for settings, a budget or tokens that do not fit.
    """
    wanted = any(value is not None for value in fixed.values())
    if isinstance(method, Reduction):
        if settings or wanted:
            raise ConfigError('settings, budget and tokens are for a method by name: a strategy has its settings.')
        strategy: Reduction | None = method
    else:
        if not isinstance(method, str | Mapping):
            raise ConfigError(
                f"method must be a name, a dict such as dict(type='ALGM'), or a strategy, got {method!r}."
            )
        asked = dict(type=method) if isinstance(method, str) else dict(method)
        asked |= settings
        target.check_fits(find_method(asked.get('type')))
        if wanted:
            return fixed_form(asked, **fixed, target=target)
        if len(asked) == 1:
            strategy = build_reduction(find_method(asked['type']).name, target.width, target.depth, target.grid)
        else:
            strategy = build_reduction(asked)
    assert strategy is not None  # find_method() knows no plain model
    target.check_fits(strategy)
    return target.bind(strategy)


def find_target(model: nn.Module, host: Host | None = None) -> Target:
    """Return the vision transformer in a network. Raises ConfigError unless there is exactly one."""
    check_type('host', host, Host | None)
    if host is not None:
        found: list[Target] = [BlocksTarget(model, host)]
    else:
        read = [reader(module) for module in model.modules() for reader in READERS]
        found = [target for target in read if target is not None]
    if not found:
        raise ConfigError(f'{type(model).__name__} is not supported: see mmseg_tr.Host for networks of your own.')
    if len(found) > 1:
        raise ConfigError(f'{type(model).__name__} has {len(found)} vision transformers: apply to one of them.')
    found[0].check()
    return replace(found[0], whole=model)


def check_untouched(model: nn.Module) -> None:
    """Raise ConfigError for a network that is compiled, or that something was applied to already."""
    check_module(model)
    if isinstance(model, torch._dynamo.OptimizedModule) or model._compiled_call_impl is not None:
        raise ConfigError('the network is compiled: apply first, then torch.compile it.')
    if applied_to(model) is not None:
        raise ConfigError('a method was applied to this network already: mmseg_tr.remove(model) first.')
    for name, module in model.named_modules():
        own = vars(module).get('forward')
        # transformers 4.57 leaves the class's own forward as an attribute where it recorded outputs
        if own is not None and own != type(module).forward.__get__(module):
            raise ConfigError(f'the forward of {name or "the network"} was replaced by other code: undo that first.')


def remove(model: nn.Module) -> nn.Module:
    """Remove a method from a network, which is then bit for bit as before. Raises ConfigError without a method."""
    require_applied(model)
    restore_modules(model)
    return model


def disabled(model: nn.Module) -> AbstractContextManager[None]:
    """Give the plain network inside `with disabled(model):`, in this thread. Raises ConfigError without a method."""
    return switched_off(require_applied(model))


__all__ = ['Host', 'Queries', 'Rotary', 'Summary', 'apply', 'disabled', 'remove', 'summary', 'watch']
