"""What a merge decided, in the words of the golden data, read from the public record of the merge."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from mmseg_tr.reduction import Merge
from mmseg_tr.reduction.algm import automatic_threshold


def same_for_all(counts: np.ndarray) -> np.ndarray:
    """One number for the batch where the batch decides together, else one an image."""
    return counts[:1] if (counts == counts[0]).all() else counts


def all_scores(merge: Merge) -> torch.Tensor:
    """Best similarity of every source, -inf for protected ones, (B, ceil(T/2))."""
    return F.pad(torch.cat(merge.similarity), (merge.protected, 0), value=-torch.inf)


def local_decisions(
    merge: Merge, grid: tuple[int, int], window: tuple[int, int], threshold: float, num_prefix: int
) -> dict[str, np.ndarray]:
    """sims (B, nW), order (B, r), r and count of a local merge of images that keep equally many tokens."""
    (_, w), (wh, ww) = grid, window
    sims = merge.similarity[0]
    before = merge.index.shape[1]
    r = (before - np.array(merge.lengths)) // (wh * ww - 1)
    place = merge.index[:, num_prefix:].numpy() - num_prefix
    # the first patch that went to place k lies in the k-th selected window
    first = [[int(np.flatnonzero(row == k)[0]) for k in range(r[0])] for row in place]
    row, column = np.divmod(np.array(first, dtype=np.int64).reshape(len(place), -1), w)
    count = (sims >= torch.tensor(threshold, dtype=torch.float32).item()).sum(1)
    return dict(
        sims=sims.numpy(),
        order=row // wh * (w // ww) + column // ww,
        r=same_for_all(r),
        count=count.numpy(),
    )


def global_decisions(merge: Merge, layer: int, num_prefix: int) -> dict[str, np.ndarray]:
    """node_max (B, ceil(T/2)), threshold, r, count, src_idx, dst_idx (B, r) and unm_idx of a global, joint merge."""
    score = all_scores(merge)
    mean, deviation = automatic_threshold(score[:, max((num_prefix + 1) // 2, 1) :], layer)
    threshold = mean.mean() + deviation.mean()
    return matching_decisions(merge) | dict(
        threshold=threshold.reshape(1).numpy(),
        count=((score >= threshold) & score.isfinite()).sum(1).numpy(),
    )


def matching_decisions(merge: Merge) -> dict[str, np.ndarray]:
    """node_max (B, ceil(T/2)), r, src_idx, dst_idx (B, r) and unm_idx of a bipartite matching, r one for all."""
    score = all_scores(merge)
    place = merge.index.numpy()
    sources, destinations = place[:, ::2], place[:, 1::2]
    src, dst, kept = [], [], []
    for row, targets, of_row in zip(sources, destinations, score):
        moved = np.isin(row, targets)
        best_first = of_row.argsort(descending=True, stable=True).numpy()
        src.append(best_first[moved[best_first]])
        dst.append([int(np.flatnonzero(targets == row[source])[0]) for source in src[-1]])
        kept.append(np.flatnonzero(~moved)[np.argsort(row[~moved])])
    return dict(
        node_max=score.numpy(),
        r=same_for_all(place.shape[1] - np.array(merge.lengths)),
        src_idx=np.stack(src),
        dst_idx=np.array(dst, dtype=np.int64).reshape(len(dst), -1),
        unm_idx=np.stack(kept),
    )
