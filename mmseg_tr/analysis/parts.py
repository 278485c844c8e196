"""Which part of a network is at work: told by hooks on its modules and by the profiler scopes of merging and restoring.

Only torch and timm are needed here, as everywhere that a plain network is counted or timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import nn

from mmseg_tr.nn import ViT

PARTS = (
    'embedding',
    'encoder_attention',
    'encoder_mlp',
    'merging',
    'restoring',
    'backbone',
    'other',
    'decoder',
    'enlargement',
)
SCOPES = {'mmseg_tr::merge': 'merging', 'mmseg_tr::restore': 'restoring'}


@dataclass
class PartTracker:
    """The part that is at work: the innermost scope of SCOPES if one is open, else the last part that was entered."""

    entered: str
    scopes: list[str | None] = field(default_factory=list)

    @property
    def part(self) -> str:
        return next((scope for scope in reversed(self.scopes) if scope), self.entered)

    def enter(self, part: str) -> None:
        self.entered = part

    def open_scope(self, name: str) -> None:
        self.scopes.append(SCOPES.get(name))

    def close_scope(self) -> None:
        self.scopes.pop()


@contextmanager
def track_parts(model: nn.Module) -> Iterator[PartTracker]:
    """Follow a forward of `model` through PARTS.

    Of a network with mmseg_tr.nn.ViT: embedding (patches, positions), encoder_attention and encoder_mlp (each with the
    norm in front of it and the residual behind it), other (the final norm), decoder. Of any other segmentor: backbone,
    decoder (neck and head). Enlargement is entered by the caller.
    """
    vit = find_vit(model)
    tracker = PartTracker('embedding' if vit is not None else 'backbone' if hasattr(model, 'backbone') else 'other')
    with ExitStack() as hooks:

        def enter(part: str, module: nn.Module | None, *, behind: bool = False) -> None:
            if module is None:
                return
            if behind:
                handle = module.register_forward_hook(lambda *_: tracker.enter(part))
            else:
                handle = module.register_forward_pre_hook(lambda *_: tracker.enter(part))
            hooks.callback(handle.remove)

        if vit is not None:
            for block in vit.blocks:
                enter('encoder_attention', block.norm1)
                enter('encoder_mlp', block.norm2)
            enter('other', vit.norm)
        enter('decoder', getattr(model, 'backbone', None), behind=True)
        enter('decoder', getattr(model, 'decoder', None))
        yield tracker


def find_vit(model: nn.Module) -> ViT | None:
    """The first ViT of this package inside `model`, or None."""
    return next((module for module in model.modules() if isinstance(module, ViT)), None)
