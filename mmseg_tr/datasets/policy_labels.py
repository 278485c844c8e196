"""Labels for CTS's policy network: which superpatches of a label map show a single class."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseg_tr.errors import DatasetError
from mmseg_tr.reduction.cts.sharing import IGNORE, STRIDE, label_blocks


def policy_labels(
    labels: Tensor,
    side: int = STRIDE,
    *,
    zero_is_ignore: bool = False,
    share_ignored: bool = True,
    ignore_mixed: bool = False,
    ignore_mixed_border: bool = False,
) -> Tensor:
    """Return labels of superpatches of `side` x `side` pixels: 1 may share, 0 may not, 255 is left out of the loss.

    labels: (B, H, W) class numbers at the resolution of the network, 255 for none. Returns (B, H/side,
    W/side) int64. A superpatch may share when all of its pixels have one value.
    zero_is_ignore: label 0 counts as 255 (published for ADE20K and Pascal Context as stored on disk).
    share_ignored: superpatches without any class count as one value; otherwise they are left out.
    ignore_mixed: superpatches of one class and of pixels without class are left out instead of 0.
    ignore_mixed_border: the same, but only in the outermost ring (published for ADE20K).
    Raises DatasetError when superpatches do not tile the map.
    """
    if any(length % side for length in labels.shape[-2:]):
        raise DatasetError(
            f'a label map of {labels.shape[-2]} x {labels.shape[-1]} pixels does not divide into superpatches of '
            f'{side}: crop or resize images to multiples of {side}.'
        )
    blocks = label_blocks(labels, (side, side))
    blocks = torch.where(blocks == 0, IGNORE, blocks) if zero_is_ignore else blocks
    ignored = blocks == IGNORE
    nothing, some = ignored.all(-1), ignored.any(-1)
    lowest = blocks.masked_fill(ignored, torch.iinfo(blocks.dtype).max).amin(-1)
    highest = blocks.masked_fill(ignored, -1).amax(-1)
    one_class = (lowest == highest) & ~nothing
    found = (one_class & ~some).long()
    found[nothing] = 1 if share_ignored else IGNORE
    left_out = torch.full_like(nothing, ignore_mixed)
    if ignore_mixed_border:
        left_out[:, [0, -1], :] = True
        left_out[:, :, [0, -1]] = True
    found[one_class & some & left_out] = IGNORE
    return found
