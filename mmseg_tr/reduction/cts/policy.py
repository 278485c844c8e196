"""CTS's policy network: an EfficientNet-lite0 and a 1x1 head that predict which superpatches may share a token."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.cpu import may_overwrite
from mmseg_tr.errors import CheckpointError
from mmseg_tr.reduction.constants import table, traced
from mmseg_tr.reduction.cts.folding import folded
from mmseg_tr.weights.fetch import fetch_if_published
from mmseg_tr.weights.fit import check_tensors
from mmseg_tr.weights.formats import state_of
from mmseg_tr.weights.io import read_file

ensure_torchvision()  # timm imports torchvision

import timm  # noqa: E402
import timm.layers  # noqa: E402

ARCH, FEATURES = 'efficientnet_lite0', 320
PIXELS_AT_ONCE = 2 * 512 * 512  # of a batch, in eval mode on a CPU
FIRST = 'backbone.conv_stem.weight'  # the entry that a policy network in a larger state dict is found by


class PolicyNet(nn.Module):
    """Policy network (CTS, section 3.2): images (B, 3, H, W) -> logits (B, 2, ceil(H/32), ceil(W/32)).

    Images are RGB in [-1, 1]; channel 1 of the logits means that a cell of 32 x 32 pixels shows one class.
    pretrained: True for timm's ImageNet weights of the backbone, or the file of a trained policy network; loaded by
    init_weights(). Building the network downloads nothing. Keys are the published ones, backbone.* and head.*.
    """

    def __init__(self, pretrained: bool | str | None = None) -> None:
        super().__init__()
        norm = partial(in_place_norm, act_layer=nn.ReLU6)
        self.backbone = timm.create_model(ARCH, pretrained=False, features_only=True, out_indices=(4,), norm_layer=norm)
        self.head = nn.Conv2d(FEATURES, 2, kernel_size=1)
        self.pretrained = pretrained
        self.is_random = True  # until weights are loaded

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        if any(key.startswith(prefix) for key in state_dict):
            self.is_random = False
        super()._load_from_state_dict(state_dict, prefix, *args)

    def init_weights(self) -> None:
        """Load the weights named by `pretrained`, once. Raises CheckpointError when that cannot be done."""
        if self.pretrained is True:
            self.backbone.load_state_dict(imagenet_state())
        elif self.pretrained:
            self.load_state_dict(policy_state(self.pretrained))
        self.pretrained = None

    def features(self, image: Tensor) -> Tensor:
        """Return the features of stride 32, (B, 3, H, W) -> (B, 320, ceil(H/32), ceil(W/32)).

        In eval mode on channels-last maps, a fifth faster on a CPU.
        """
        if not self.training:
            image = image.contiguous(memory_format=torch.channels_last)
        return self.backbone(image)[0]

    def forward(self, image: Tensor, fold_bn: bool = False) -> Tensor:
        """fold_bn: in eval mode, with the BatchNorms folded into the convolutions: logits differ by less than 1e-4."""
        network = folded(self) if fold_bn and not self.training and not traced() else self
        if self.training or not may_overwrite(image):
            return network.head(network.features(image))
        # the maps of more images exceed the caches of a CPU
        parts = image.split(max(1, PIXELS_AT_ONCE // image[0, 0].numel()))
        logits = [network.head(network.features(part)) for part in parts]
        return logits[0] if len(logits) == 1 else torch.cat(logits)


def policy_on(policy: nn.Module | None, device: torch.device) -> Any:
    """The policy network on this device: itself, or a copy for a network that was moved without it."""
    assert policy is not None  # policy='network'
    weight = next(policy.parameters(), None)
    return policy if weight is None or weight.device == device else copy.deepcopy(policy).to(device)


def why_undecided(decides: str, policy: nn.Module | None, file: str | None) -> str | None:
    """As Reduction.undecided(). decides: the setting `policy`. file: from which the policy network will be loaded."""
    if decides == 'oracle' or (isinstance(policy, PolicyNet) and policy.is_random and not file):
        return (
            'CTS needs decisions or a trained policy network here: apply CTS(...).guided(logits), name the network in '
            "policy_checkpoint, or set policy='random'."
        )
    return None


class InPlaceBatchNormAct(timm.layers.BatchNormAct2d):
    """timm's BatchNorm with activation. In eval mode on a CPU it works in place: the same numbers, no new map.

    For an input that nothing else reads: the output of the convolution before it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training or x.dtype != self.weight.dtype or not may_overwrite(x):
            return super().forward(x)
        none = table(_nothing, x.dtype, device=x.device)
        parts = self.weight, self.bias, self.running_mean, self.running_var
        torch.native_batch_norm(x, *parts, False, 0.0, self.eps, out=(x, none, none))
        return self.act(self.drop(x))


def _nothing(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(0, dtype=dtype, device=device)


def in_place_norm(channels: int, **settings: Any) -> InPlaceBatchNormAct:
    """Return the norm layer in the form that timm expects."""
    return InPlaceBatchNormAct(channels, **settings)


def imagenet_state() -> dict[str, Tensor]:
    """Return timm's ImageNet weights of the backbone. Raises CheckpointError when they are not available."""
    try:
        model = timm.create_model(ARCH, pretrained=True, features_only=True, out_indices=(4,))
    except Exception as error:  # the hub raises a dozen unrelated types, a missing network among them
        raise CheckpointError(
            f'timm could not fetch the weights of {ARCH!r} ({type(error).__name__}): check the network, or give '
            'pretrained=None to start the policy network from random weights.'
        ) from error
    return model.state_dict()


def policy_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict of a PolicyNet, each tensor with its own memory, from any file that holds one.

    Known are this package's checkpoints of a policy network or of a whole CTS model, the stand-alone file of the
    published training, and official CTS releases, as a path or a URL. Files are read as plain data.
    Raises CheckpointError when the file is missing, damaged, unsafe, or holds no policy network or another one.
    """
    path = fetch_if_published(path) if '://' in str(path) else Path(path)
    if not path.is_file():
        raise CheckpointError(
            f'There is no policy checkpoint {path}: train one with a config local_configs/cts/cts-policy_*.py, or '
            'name another with policy_checkpoint.'
        )
    state = state_of(read_file(path))
    prefixes = [str(key)[: -len(FIRST)] for key in state if str(key).endswith(FIRST)]
    if len(prefixes) != 1:
        raise CheckpointError(f'{path} holds {len(prefixes) or "no"} policy networks: one, with {FIRST}, is needed.')
    (prefix,) = prefixes
    found = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    check_tensors(found, str(path))
    check_policy_state(found, str(path))
    return {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in found.items()}


def check_policy_state(state: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError unless `state` holds exactly the tensors of a PolicyNet."""
    with torch.device('meta'):
        needed = PolicyNet().state_dict()
    wrong = sorted(needed.keys() ^ state.keys())
    wrong += [key for key in needed if key in state and getattr(state[key], 'shape', None) != needed[key].shape]
    if wrong:
        raise CheckpointError(
            f'{where} holds another network than the policy network: {len(wrong)} entries are missing, left over or of '
            f'another shape, {", ".join(wrong[:3])} first.'
        )
