"""BatchNorms of a network in eval mode folded into the convolutions before them.

The folded network is kept beside the original, outside of it: state dict, copies and training never see it. It is made
again when a weight or a statistic has changed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mmseg_tr.reduction.constants import undisturbed

Network = TypeVar('Network', bound=nn.Module)
Mark = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Folded:
    """modules: those of the original that hold its tensors. mark: of these tensors when they were folded."""

    modules: tuple[nn.Module, ...]
    mark: Mark
    network: nn.Module


_FOLDED: WeakKeyDictionary[nn.Module, Folded] = WeakKeyDictionary()


def folded(network: Network) -> Network:
    """Return the network in eval mode without BatchNorms."""
    known = _FOLDED.get(network)
    modules = known.modules if known else tuple(module for module in network.modules() if own_tensors(module))
    mark = tuple(mark_of(tensor) for module in modules for tensor in own_tensors(module))
    if known is None or known.mark != mark:
        known = _FOLDED[network] = Folded(modules, mark, fold(network))
    return known.network  # type: ignore[return-value]  # a copy of the same kind


def own_tensors(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module itself."""
    found = [*module._parameters.values(), *module._buffers.values()]
    return [tensor for tensor in found if tensor is not None]


def mark_of(tensor: Tensor) -> tuple[int, int]:
    """Return the memory and version of a tensor: another pair after it was replaced or changed in place."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def fold(network: Network) -> Network:
    """Return a copy whose BatchNorms are folded into the convolution that is registered before each; activations
    stay."""
    with undisturbed():
        return _without_norms(network)


def _without_norms(network: Network) -> Network:
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in network.modules():
        conv = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                conv = child
            elif isinstance(child, nn.BatchNorm2d) and conv is not None:
                statistics = child.running_mean, child.running_var, child.eps, child.weight, child.bias
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)  # type: ignore[arg-type]
                setattr(parent, name, getattr(child, 'act', nn.Identity()))
                conv = None
    return network
