"""Position embeddings for any patch grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.errors import ConfigError

# how a stored embedding is enlarged: Segmenter's rule, the Expedite repository's, timm's
RESIZE_RULES = {
    'bilinear': dict(mode='bilinear', antialias=False),
    'bicubic': dict(mode='bicubic', antialias=False),
    'bicubic_antialias': dict(mode='bicubic', antialias=True),
}


def infer_square_grid(pos_embed: Tensor, num_prefix: int) -> tuple[int, int]:
    """Return the grid of a stored embedding (1, E + s*s, C) whose grid is not written anywhere: the square s x s.

    Raises ValueError when the number of positions is not a square.
    """
    count = pos_embed.shape[1] - num_prefix
    side = math.isqrt(max(count, 0))
    if side * side != count or count < 1:
        raise ValueError(f'{count} positions after {num_prefix} prefix tokens do not form a square grid.')
    return side, side


def resize_pos_embed(
    pos_embed: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix: int,
    rule: str = 'bilinear',
) -> Tensor:
    """Resize the grid part of a position embedding; the prefix part is unchanged.

    pos_embed: (1, E + old h*w, C) -> (1, E + new h*w, C). Grids are compared, not counts: 4 x 16 is not 8 x 8.
    Raises ValueError when old_grid does not have as many positions.
    """
    if pos_embed.shape[1] != num_prefix + old_grid[0] * old_grid[1]:
        raise ValueError(
            f'a position embedding of {pos_embed.shape[1]} entries does not fill a grid of {old_grid[0]} x '
            f'{old_grid[1]} after {num_prefix} prefix tokens.'
        )
    if tuple(old_grid) == tuple(new_grid):
        return pos_embed
    prefix, grid = pos_embed[:, :num_prefix], pos_embed[:, num_prefix:]
    grid = grid.unflatten(1, tuple(old_grid)).permute(0, 3, 1, 2)  # (1, h*w, C) -> (1, C, h, w)
    dtype = grid.dtype
    grid = grid if dtype == torch.float64 else grid.float()  # half precision has no bicubic on every device
    grid = F.interpolate(grid, size=tuple(new_grid), align_corners=False, **RESIZE_RULES[check_resize_rule(rule)])
    return torch.cat([prefix, grid.to(dtype).flatten(2).transpose(1, 2)], 1)


def check_resize_rule(rule: str) -> str:
    """Return a rule of RESIZE_RULES. Raises ConfigError."""
    if not isinstance(rule, str) or rule not in RESIZE_RULES:
        raise ConfigError(f'pos_resize must be one of {", ".join(map(repr, RESIZE_RULES))}, got {rule!r}.')
    return rule
