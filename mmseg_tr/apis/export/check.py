"""Write an exported network, after checking that the file agrees with the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmseg_tr.apis.export.onnx import read_onnx, require_onnx, write_onnx
from mmseg_tr.apis.export.program import Program, Whole, read_torch, trace, write_torch
from mmseg_tr.errors import ExportError
from mmseg_tr.files import atomic_path

TOLERANCE = 1e-4


def write_checked(
    whole: Whole,
    batch: Tensor,
    out: Path,
    form: str,
    batch_sizes: Sequence[int] = (1, 3),
    *,
    description: Mapping[str, str] | None = None,
    replace: bool = True,
) -> dict[int, float]:
    """Export `whole` to `out` and compare the file with it on the first images of `batch`, which holds two or more.

    description: metadata of the file.
    replace: whether a file that is there, or that another process writes meanwhile, may be replaced.
    Returns the largest difference per batch size. Raises ExportError or WriteError; then `out` is unchanged.
    """
    write, read = (write_onnx, read_onnx) if form == 'onnx' else (write_torch, read_torch)
    if form == 'onnx':
        require_onnx()
    program = trace(whole, batch[:2])
    with atomic_path(out, replace=replace) as unfinished:
        write(program, unfinished, description or {})
        return differences(whole, read(unfinished), batch, batch_sizes)


@torch.no_grad()
def differences(whole: Whole, run: Program, batch: Tensor, batch_sizes: Sequence[int]) -> dict[int, float]:
    """Return the largest difference between the network and its export per batch size. Raises ExportError above 1e-4.

    Where the predicted classes differ, the difference is the logit margin between them.
    """
    found = {}
    for size in batch_sizes:
        image = batch[:size].contiguous()
        expected, exported = whole(image), run(image)
        if not isinstance(expected, Tensor) or expected.shape != exported.shape:
            raise ExportError('the exported network does not return one tensor of the same shape as the network.')
        if whole.output == 'labels' and not torch.equal(expected, exported):
            logits = Whole(whole.model)(image)
            if logits.shape[1] > 1:
                expected, exported = (logits.gather(1, labels[:, None].long()) for labels in (expected, exported))
        found[size] = (expected.double() - exported.double()).abs().max().item()
        if not found[size] <= TOLERANCE:
            raise ExportError(
                f'the exported network differs from the network by {found[size]:.3g} at a batch of {size}, at most '
                f'{TOLERANCE} is allowed: no file was written.'
            )
    return found
