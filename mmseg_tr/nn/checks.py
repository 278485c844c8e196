"""Checks of networks' arguments and of the images they are given, by the rules of reduction.checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.checks import check_integer, check_number

MOST = 2**20  # of a width, a side or a count, so that sizes of tensors stay numbers that torch takes


def check_size(name: str, value: Any, least: int = 1) -> int:
    """Return an integer from `least` to MOST. Raises ConfigError."""
    if check_integer(name, value, least) > MOST:
        raise ConfigError(f'{name} must be at most {MOST}, got {value!r}.')
    return value


def check_sizes(**values: Any) -> None:
    """Raise ConfigError unless every value is an integer from 1 to MOST."""
    for name, value in values.items():
        check_size(name, value)


def check_rates(**values: Any) -> None:
    """Raise ConfigError unless every value is a rate of dropout, from 0 to 1."""
    for name, value in values.items():
        check_number(name, value, 0, 1)


def check_numbers(name: str, values: Any, least: int = 1) -> tuple[int, ...]:
    """Return a list of integers from `least` to MOST as a tuple, not empty. Raises ConfigError."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence) or not values:
        raise ConfigError(f'{name} must be a list of integers, got {values!r}.')
    return tuple(check_size(f'{name}[{place}]', value, least) for place, value in enumerate(values))


def check_image(image: Any, channels: int, weight: Tensor) -> None:
    """Raise ConfigError unless an image is (B, channels, H, W), not empty, and of the type of the weights.

    weight: of the first layer. Left out while a program is compiled or exported.
    """
    if torch.compiler.is_compiling():
        return
    if not isinstance(image, Tensor) or image.dim() != 4 or image.shape[1] != channels or 0 in image.shape:
        what = tuple(image.shape) if isinstance(image, Tensor) else repr(image)
        raise ConfigError(f'image must be a tensor of shape (B, {channels}, H, W), none of them 0, got {what}.')
    mixed = image.is_floating_point() and not image.is_meta and torch.is_autocast_enabled(image.device.type)
    if image.dtype != weight.dtype and not mixed:
        raise ConfigError(f'image must be {weight.dtype} as the weights are, got {image.dtype}.')
