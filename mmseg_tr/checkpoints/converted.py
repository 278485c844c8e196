"""The result of a conversion, the same for every source format."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmseg_tr.errors import CheckpointError


@dataclass(frozen=True)
class Converted:
    """A checkpoint in this package's layout, not yet written.

    what: the recognised format of the source. config: text of the config for it, None if the source does not
    determine one. dropped: keys of the source left out. notes: what the user should know.
    testable: whether the config names a dataset, so that tools/test.py can run it.
    """

    what: str
    state_dict: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    testable: bool = False


def refuse_variant(variant: object, path: Path, what: str) -> None:
    """Raise CheckpointError where a description is given for a file that needs none."""
    if variant is not None:
        raise CheckpointError(f'{path} is {what} and needs no description: leave variant out.', parameters=['variant'])
