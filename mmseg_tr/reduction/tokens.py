"""Tokens: the state that passes through a transformer with token reduction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.constants import filled, numbers
from mmseg_tr.reduction.merge import Merge
from mmseg_tr.reduction.ops import host_numbers, in_rows, per_image, running_starts, take


@dataclass(frozen=True)
class Step:
    """Record of one merge: the layer (from 1), the matching and its result.

    assignment: (B, N) int64, the token that represents each patch after this step (prefix not counted).
    size: patches per token after this step, laid out as Tokens.size.
    """

    layer: int
    merge: Merge
    assignment: Tensor
    size: Tensor


class Rebuild(Protocol):
    """Map values per token, (B, T, V), to patches, (B, N, V), for methods whose result no index describes."""

    def __call__(self, values: Tensor) -> Tensor: ...

    def places(self) -> Tensor:
        """As Tokens.places()."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch of images, with all that is needed to put them back on the patch grid.

    x: (B, E+T, C): E prefix tokens (class, distillation, registers), then T tokens for patches.
       When images keep different numbers of tokens, x is packed: (1, sum of lengths, C), image after image.
    grid: (h, w) of the patch grid, N = h*w patches in raster order.
    lengths: tokens of each image, prefix included, when packed; None otherwise.
    size: (B, E+T) or (1, sum of lengths) float, patches each token represents; None means one each.
    index: (B, N) int64, the token (prefix not counted) that represents each patch, -1 for none; None: the patch's
       own.
    gaps: whether some patches have no token.
    rectangle: (rows, columns) that the merged tokens after the prefix form, in raster order; None otherwise.
    image_size, patch_size: (H, W) in pixels before padding and (ph, pw), where known.
    trace: per layer the numbers of tokens that left it, one per image, prefix included.
    steps: the merges so far.
    window: (rows, columns) of the windows in which the network attends in some layers; None without windows.
    memo: further state of a method in this forward.
    inner: a merge inside attention or the MLP, where these tokens are its result; index and size do not tell it.
    positions: rotary positions of a host, see hosts.rope.
    reconstruct: takes values per token, laid out as in restore(), to values per patch where no index can say how.
    """

    x: Tensor
    grid: tuple[int, int]
    num_prefix: int = 0
    lengths: tuple[int, ...] | None = None
    size: Tensor | None = None
    index: Tensor | None = None
    gaps: bool = False
    rectangle: tuple[int, int] | None = None
    image_size: tuple[int, int] | None = None
    patch_size: tuple[int, int] | None = None
    trace: tuple[tuple[int, ...], ...] = ()
    steps: tuple[Step, ...] = ()
    window: tuple[int, int] | None = None
    memo: Any = None
    reconstruct: Rebuild | None = None
    inner: Merge | None = None
    positions: Any = None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TypeError(
            f'Reduced tokens reached {getattr(func, "__name__", func)!r}, which needs a feature map: '
            "set out='maps' on the backbone, or use a head that decodes tokens (SegmenterMaskHead)."
        )

    @classmethod
    def from_map(cls, features: Tensor) -> Tokens:
        """Return tokens of a plain feature map, (B, C, h, w) -> one token per position."""
        _check_tensor('features', features, '(B, C, h, w)', 4)
        return cls(features.flatten(2).transpose(1, 2), grid=(features.shape[-2], features.shape[-1]))

    @property
    def num_images(self) -> int:
        return self.x.shape[0] if self.lengths is None else len(self.lengths)

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of each image, prefix included."""
        return self.lengths or per_image(self.x.shape[1], self.x.shape[0])

    def replace(self, **changes: Any) -> Tokens:
        return replace(self, **changes)

    def groups(self, values: Tensor | None = None) -> list[Tensor]:
        """Return images of one length together: [(B, T, C)] when all agree, else one (1, T_b, C) per image."""
        values = self.x if values is None else values
        return [values] if self.lengths is None else list(values.split(self.lengths, dim=1))

    def join(self, groups: list[Tensor]) -> Tensor:
        """Undo groups()."""
        return groups[0] if len(groups) == 1 else torch.cat(groups, dim=1)

    def handed_on(self, y: Tensor, place: int, every: int) -> Merge | None:
        """Return the matching of y that comes as `memo` from an earlier layer; None where this layer decides its own.

        every: so many layers share one matching. place: this layer's among those that match, from 0.
        """
        # a host may have changed the tokens between blocks: they come without a matching then
        known = self.memo if place % every else None
        return known if isinstance(known, Merge) and known.index.shape == y.shape[:2] else None

    def traced(self) -> Tokens:
        """Return the tokens with their counts added to the trace of layers."""
        return self.replace(trace=(*self.trace, self.counts))

    def merge(self, merge: Merge, layer: int, joined: Tensor | None = None) -> Tokens:
        """Join tokens as decided: sizes add up, features are averaged by size, the index follows.

        joined: the merged tokens, laid out as merge.apply() gives them, of a method that does not average by size.
        """
        if joined is None:
            x, size = merge.apply(self.x, self.size, self.counts)
        else:
            x, size = joined, merge.sizes(self.size, self.x, self.counts)
        index = self._places(merge)
        step = Step(layer, merge, index, size)
        lengths = merge.lengths if merge.packed else None
        steps = (*self.steps, step)
        return self.replace(x=x, size=size, lengths=lengths, index=index, rectangle=None, steps=steps)

    def keep(self, places: Tensor) -> Tokens:
        """Keep only these tokens after the prefix, in this order, and drop the others.

        places: (B, k) int64, numbers of tokens, prefix not counted; images are not packed. Patches whose token is
        dropped have index -1, and restore() gives them zeros.
        """
        if self.lengths is not None:
            raise ConfigError('Tokens.keep() takes images of one length: these keep different numbers of tokens.')
        _check_tensor('places', places, '(B, k) int64', 2, torch.int64)
        device = places.device
        whole = numbers(0, self.num_prefix, device=device).expand(places.shape[0], -1)
        whole = torch.cat([whole, places + self.num_prefix], 1)
        left = filled((places.shape[0], self.x.shape[1] - self.num_prefix), -1, torch.int64, device)
        left = left.scatter(1, places, numbers(0, places.shape[1], device=device).expand_as(places))
        index = left if self.index is None else self._followed(left)
        size = self.size if self.size is None else self.size.gather(1, whole)
        return self.replace(x=take(self.x, whole), size=size, index=index, rectangle=None, gaps=True)

    def _places(self, merge: Merge) -> Tensor:
        """Compose the patches' index with a merge: (B, N) int64."""
        if self.lengths is None:
            new = merge.index[:, self.num_prefix :]
            new = new - self.num_prefix if self.num_prefix else new
            return new if self.index is None else self._followed(new)
        assert self.index is not None  # packed tokens have merged before
        starts = host_numbers(running_starts(self.lengths), merge.index.device)
        new = merge.index[0][self.index.clamp_min(0) + (starts + self.num_prefix)[:, None]] - self.num_prefix
        return torch.where(self.index < 0, self.index, new) if self.gaps else new

    def _followed(self, places: Tensor) -> Tensor:
        """Return the index of the patches after the tokens of every image have moved, (B, T) -> (B, N)."""
        assert self.index is not None
        if not self.gaps:
            return places.gather(1, self.index)
        return torch.where(self.index < 0, self.index, places.gather(1, self.index.clamp_min(0)))

    def patches(self) -> Tokens:
        """Return the same tokens without their prefix."""
        if not self.num_prefix:
            return self
        x = self.join([group[:, self.num_prefix :] for group in self.groups()])
        size = self.size
        if size is not None:
            size = self.join([group[:, self.num_prefix :] for group in self.groups(size)])
        lengths = self.lengths and tuple(n - self.num_prefix for n in self.lengths)
        return self.replace(x=x, size=size, lengths=lengths, num_prefix=0)

    def restored(self) -> Tokens:
        """Return the tokens restored to one per patch, after the prefix."""
        if self.index is None and self.reconstruct is None:
            return self
        parts = [group[:, : self.num_prefix] for group in self.groups()]
        prefix = parts[0] if len(parts) == 1 else torch.cat(parts)
        x = torch.cat([prefix, self.restore(self.patches().x)], 1)
        nothing: dict[str, Any] = dict(
            lengths=None, size=None, index=None, gaps=False, rectangle=None, reconstruct=None
        )
        return self.replace(x=x, **nothing)

    def restore(self, values: Tensor) -> Tensor:
        """Give every patch the values of the token that represents it.

        values: (B, T, K), or (1, sum of T, K) when packed: one row per token, prefix dropped. Returns (B, N, K).
        """
        _check_tensor('values', values, '(B, T, K)', 3)
        if self.reconstruct is None and self.index is None:
            return values
        with record_function('mmseg_tr::restore'):
            return self._copied(values) if self.reconstruct is None else self.reconstruct(values)

    def _copied(self, values: Tensor) -> Tensor:
        assert self.index is not None
        index = self.index.clamp_min(0) if self.gaps else self.index
        if self.lengths is not None:
            starts = running_starts(tuple(n - self.num_prefix for n in self.lengths))
            index = index + host_numbers(starts, index.device)[:, None]
        else:
            index = in_rows(index, values.shape[1])
        rows = values.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, values.shape[-1])
        return rows.masked_fill(self.index[..., None] < 0, 0) if self.gaps else rows

    def places(self) -> Tensor:
        """Return the token (prefix not counted) that represents each patch, (B, N) int64.

        For patches made of several tokens, the one with the largest weight; -1 for dropped patches without any.
        """
        if self.reconstruct is not None:
            return self.reconstruct.places()
        if self.index is not None:
            return self.index
        return numbers(0, self.grid[0] * self.grid[1], device=self.x.device).expand(self.num_images, -1)

    def to_map(self, values: Tensor | None = None) -> Tensor:
        """Return the restored values (default: the tokens' features) as a contiguous map, (B, K, h, w)."""
        restored = self.restore(self.patches().x if values is None else values)
        # a transposed view would make every later interpolation about ten times slower
        return restored.transpose(1, 2).contiguous().unflatten(2, self.grid)


def _check_tensor(name: str, value: Any, what: str, dims: int, dtype: torch.dtype | None = None) -> None:
    """Raise ConfigError unless a value is a tensor of so many dimensions, and of a dtype if one is asked for."""
    if not isinstance(value, Tensor) or value.dim() != dims or dtype not in (None, value.dtype):
        given = f'{tuple(value.shape)} {value.dtype}' if isinstance(value, Tensor) else repr(value)
        raise ConfigError(f'{name} must be a tensor {what}, got {given}.')


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """View tokens (B, h*w, C) as a channels-last map (B, C, h, w).

    Without a transposition: for a batch of one its strides do not count as channels-last in convolutions, which
    would then copy the map twice.
    """
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def as_tokens(features: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Turn a map (B, C, h, w) into contiguous tokens (B, h*w, C), a view where it is channels-last; and its grid."""
    return features.permute(0, 2, 3, 1).flatten(1, 2).contiguous(), (features.shape[2], features.shape[3])
