"""Patch a network so that a method runs inside its own forward.

Blocks, their attention and the final norm get an instance attribute `forward`, and a forward pre-hook that hands them
their module, so that copies (DataParallel, deepcopy) run with their own weights. Between blocks the reduced tokens
travel in one of two ways. Where torch.nn.Sequential runs the blocks, nothing reads the tensors between them: the
Tokens themselves are passed. Everywhere else a block returns the full tensor, with the reduced tokens as an attribute
of it, which the next block takes up unless the tensor was changed. No state is kept between or during forwards but two
things on their way: from the patch embedding to the first block, the patch grid of images of any size and which patches
share a token; and where queries join late, the tensor that the block before them returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.applied import Applied, Arrival, Switch, check_reentrant
from mmseg_tr.hosts.carried import carried_by
from mmseg_tr.hosts.host import Grid, Host, block_list, submodule
from mmseg_tr.hosts.rope import Positions, Turn
from mmseg_tr.nn.blocks import refuse_torchscript, run_block
from mmseg_tr.reduction import Reduction, Tokens
from mmseg_tr.reduction.observe import Observer
from mmseg_tr.reduction.ops import exporting


@dataclass
class Call:
    """A method's attention in one block. seen: its second result, for after_attention()."""

    method: Reduction
    attend: Any
    tokens: Tokens
    layer: int
    seen: Any = None


@dataclass
class ThroughModule(Observer):
    """A method whose attention runs inside the block's own attention module, so that its hooks see it."""

    module: nn.Module
    attend: Any
    positions: Positions | None = None  # of the tokens that attended

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        if self.attend.turn is not None:
            self.positions = self.attend.turn.positions(tokens)
            tokens = tokens.replace(positions=self.positions)
        call = Call(self.method, self.attend, tokens, layer)
        branch = self.module(y, call)
        return branch[0] if isinstance(branch, tuple) else branch, call.seen


class Forward:
    """A forward of a module of a host, as an instance attribute. module: its own, for callers that bypass hooks."""

    def __init__(self, applied: Switch, module: nn.Module) -> None:
        self.applied: Any = applied  # the Switch of its kind of network
        self.module = module

    def original(self, module: nn.Module | None) -> Callable[..., Any]:
        """Return the forward of the module's class."""
        module = module or self.module
        return type(module).forward.__get__(module)


class BlockForward(Forward):
    """One block. layer counts from 1."""

    def __init__(self, applied: Applied, module: nn.Module, layer: int) -> None:
        super().__init__(applied, module)
        self.layer = layer

    def __call__(self, x: Any, *args: Any, host_module: nn.Module | None = None, **kwargs: Any) -> Any:
        if self.applied.disabled or (isinstance(x, Tensor) and not x.shape[0]):  # a batch of no images
            return self.original(host_module)(x, *args, **kwargs)
        rotary = self.applied.rotary
        given = kwargs.pop(rotary.argument, None) if rotary is not None else None
        masks = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor) and part.dim() > 1]
        # transformers makes a mask of ones while it is exported, whose values cannot be read then
        if (masks and not exporting()) or kwargs.get('is_causal'):
            raise ConfigError('an attention mask does not fit reduced tokens: use mmseg_tr.disabled(model) here.')
        module = host_module or self.module
        run = partial(self.run, module, given)
        asked = getattr(module, 'gradient_checkpointing', False) and module.training and torch.is_grad_enabled()
        if asked and type(module).__call__ is nn.Module.__call__:  # transformers 4.57 does it there
            return module._gradient_checkpointing_func(run, x)  # as the forward of its class does
        return run(x)

    def run(self, module: nn.Module, given: Any, x: Any) -> Any:
        """Run the block on a tensor or on tokens; returns the same type. given: rotary positions of the patches."""
        view: Any = self.applied.view(module)
        check_reentrant(x.x if isinstance(x, Tokens) else x, self.layer)
        tokens = x if isinstance(x, Tokens) else self.applied.enter(x, self.layer)
        attend = view.attend
        if given is not None:
            attend = replace(
                attend, turn=Turn(self.applied.rotary, given, getattr(view.attention, 'rotate_half', True))
            )
        through = self.through(module, view.attention, attend)
        tokens = run_block(view, tokens, self.layer, through)
        if given is not None:
            tokens = tokens.replace(positions=through.positions)
        return tokens if isinstance(x, Tokens) else self.applied.leave(tokens)

    def through(self, module: nn.Module, attention: nn.Module, attend: Any) -> ThroughModule:
        """Return how the method's attention runs in this block."""
        return ThroughModule(self.applied.method, attention, attend)


class AttentionForward(Forward):
    """The attention of a block: the method's where the block asks for it, else the module's own."""

    def __call__(
        self, y: Tensor, call: Any = None, *args: Any, host_module: nn.Module | None = None, **kwargs: Any
    ) -> Any:
        if not isinstance(call, Call):
            given = (call, *args) if call is not None or args else ()
            return self.original(host_module)(y, *given, **kwargs)
        branch, call.seen = call.method.attention(call.attend, y, call.tokens, call.layer)
        return (branch, None) if getattr(call.attend, 'returns_weights', False) else branch


class NormForward(Forward):
    """The final norm, which sees the reduced tokens and returns a row for every patch."""

    def __call__(self, x: Any, *args: Any, host_module: nn.Module | None = None, **kwargs: Any) -> Tensor:
        norm, tokens = self.original(host_module), None
        if not self.applied.disabled:
            carried = carried_by(x)
            tokens = carried if carried is not None and len(carried.trace) == self.applied.depth else None
        if tokens is None:
            return norm(x, *args, **kwargs)
        return self.applied.full(self.applied.method.after_norm(tokens.replace(x=norm(tokens.x, *args, **kwargs))))


class Hook:
    """A hook of this package, by which remove() knows it."""

    def __init__(self, applied: Switch) -> None:
        self.applied: Any = applied


class HandModule(Hook):
    """Pre-hook: hand a module to its own forward."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, 'host_module': module}


class EnterSequence(Hook):
    """Pre-hook of the Sequential of blocks: tokens in place of the tensor, which nothing else reads."""

    def __call__(self, module: nn.Sequential, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        watched = any(len(_foreign_hooks(block)) for block in module)
        watched = watched or not args[0].shape[0]
        if self.applied.disabled or watched or len(module) != self.applied.depth or len(args) != 1:
            return None
        return (self.applied.enter(args[0], 1),)


class LeaveSequence(Hook):
    """Hook of the Sequential of blocks: the full tensor."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        return self.applied.leave(output) if isinstance(output, Tokens) else None


class NoteGrid(Hook):
    """Hook of the patch embedding of images of any size: the grid of the image that comes in."""

    def __init__(self, applied: Applied, patch_size: Grid, pads: bool) -> None:
        super().__init__(applied)
        self.patch_size, self.pads = patch_size, pads

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.applied.disabled or not args[0].shape[0]:
            return
        self.applied.arrive(Arrival(grid_of_image(args[0], self.patch_size, self.pads)))


def grid_of_image(image: Tensor, patch_size: Grid, pads: bool) -> Grid:
    """Return (h, w) of the patches of an image, (B, C, H, W). pads: whether it is filled up to whole patches."""
    more = [patch - 1 if pads else 0 for patch in patch_size]
    h, w = ((side + extra) // patch for side, extra, patch in zip(image.shape[-2:], more, patch_size))
    return h, w


def _foreign_hooks(module: nn.Module) -> list[Any]:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values()]
    return [hook for hook in hooks if not isinstance(hook, Hook)]


def set_forward(module: nn.Module, forward: Forward) -> None:
    """Give a module a forward of its own, and a hook that passes it the module."""
    module.forward = forward  # type: ignore[assignment]
    module.__prepare_scriptable__ = refuse_torchscript  # type: ignore[assignment]
    module.register_forward_pre_hook(HandModule(forward.applied), with_kwargs=True)


def wrap_sequence(blocks: nn.Module, applied: Applied) -> None:
    """Pass tokens between blocks that torch.nn.Sequential runs."""
    if isinstance(blocks, nn.Sequential):
        blocks.register_forward_pre_hook(EnterSequence(applied))
        blocks.register_forward_hook(LeaveSequence(applied))


def install(network: nn.Module, host: Host, applied: Applied) -> None:
    """Set everything on a network that remove() deletes."""
    blocks = block_list(network, host)
    for layer, block in enumerate(blocks, 1):
        set_forward(block, BlockForward(applied, block, layer))
        attention = applied.view(block).attention
        set_forward(attention, AttentionForward(applied, attention))
    wrap_sequence(blocks, applied)
    norm = submodule(network, host.norm) if host.norm else None
    if norm is not None:
        set_forward(norm, NormForward(applied, norm))
