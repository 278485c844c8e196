"""What every host keeps, whatever its library: a network under a method, and again without it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

import mmseg_tr
from mmseg_tr.hosts.patch import Hook

Outputs = Callable[[nn.Module, Tensor], list[Tensor]]


def check_bare(model: nn.Module, state: dict[str, Tensor]) -> None:
    """A network holds the weights of before, and nothing of this package."""
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    hooks = [
        hook for part in model.modules() for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
    ]
    assert not any(isinstance(hook, Hook) for hook in hooks)
    # transformers 4.57 leaves a class's own forward on modules whose outputs it recorded
    left = [vars(part)['forward'] for part in model.modules() if 'forward' in vars(part)]
    assert all(getattr(forward, '__func__', None) is type(forward.__self__).forward for forward in left)
    assert not any(part._forward_pre_hooks for part in model.modules())


@torch.no_grad()
def check_host(model: nn.Module, x: Tensor, outputs: Outputs, name: str, **settings) -> None:
    """A method changes values and no shape, image by image; disabled or removed it leaves the network bit for bit."""
    state, plain = copy.deepcopy(model.state_dict()), outputs(model, x)
    mmseg_tr.apply(model, name, **settings)
    reduced = outputs(model, x)
    assert [value.shape for value in reduced] == [value.shape for value in plain]
    assert not all(torch.allclose(a, b, atol=1e-9) for a, b in zip(reduced, plain))
    alone = [torch.cat(parts) for parts in zip(outputs(model, x[:1]), outputs(model, x[1:]))]
    for a, b in zip(alone, reduced):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(outputs(copy.deepcopy(model), x), reduced))
    with mmseg_tr.disabled(model):
        assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), plain))
    mmseg_tr.remove(model)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), plain))
    check_bare(model, state)


@torch.no_grad()
def check_neutral(model: nn.Module, x: Tensor, outputs: Outputs, close: float, name: str, **settings) -> None:
    """A setting that reduces nothing changes nothing. close: relative to the largest value of each output."""
    plain = outputs(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # such a setting warns
        mmseg_tr.apply(model, name, **settings)
        got = outputs(model, x)
    for value, want in zip(got, plain, strict=True):
        torch.testing.assert_close(value, want, atol=close * max(want.abs().max().item(), 1), rtol=0)
