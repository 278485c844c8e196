"""Image encoders of SAM in timm and transformers: maps (B, h, w, C), windows, relative positions.

Nothing of transformers is imported: a network is known by its class. A method works on the tokens of the whole grid,
but in attention on those of the windows, as if each window were an image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.applied import Applied
from mmseg_tr.hosts.budget import BlocksTarget
from mmseg_tr.hosts.carried import carried_by, carry, full
from mmseg_tr.hosts.host import BlockView, Grid, Host, block_list, other_release
from mmseg_tr.hosts.patch import AttentionForward, BlockForward, Call, ThroughModule, set_forward, wrap_sequence
from mmseg_tr.hosts.relative import RelativeAttention, SamAttention
from mmseg_tr.hosts.timm import check_patch_drop
from mmseg_tr.reduction import REDUCTIONS, Merge, Reduction, Tokens
from mmseg_tr.reduction.base import Inside
from mmseg_tr.reduction.observe import Watcher, mean_and_lowest
from mmseg_tr.reduction.ops import per_image
from mmseg_tr.reduction.windows import GridWindows

ensure_torchvision()  # timm imports torchvision

from timm.models.vision_transformer_sam import Attention, Block, VisionTransformerSAM  # noqa: E402


@dataclass
class GridApplied(Applied):
    """Of a network whose blocks take maps (B, h, w, C). window: (h, w) of its windows, if it has some."""

    window: Grid | None = None

    def enter(self, x: Tensor, layer: int) -> Tokens:
        carried = carried_by(x)
        if carried is not None:
            return carried
        if x.dim() != 4:
            raise ConfigError(f'block {layer} must get a map (B, h, w, C), got the shape {tuple(x.shape)}.')
        grid, flat = (x.shape[1], x.shape[2]), x.flatten(1, 2)
        return Tokens(flat, grid, window=self.window, trace=(per_image(flat.shape[1], x.shape[0]),) * (layer - 1))

    def leave(self, tokens: Tokens) -> Tensor:
        x = full(tokens).unflatten(1, tokens.grid)
        carry(x, tokens)
        return x


@dataclass
class ThroughWindows(ThroughModule):
    """As ThroughModule, window by window. windowed: whether this block attends in windows."""

    windowed: bool = False

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        grid = tokens.rectangle or tokens.grid
        windows = GridWindows(grid, tokens.window if self.windowed and tokens.window else grid)
        parts = windows.split(y.unflatten(1, grid))  # (B * windows, h, w, C)
        inner, method = Tokens(parts.flatten(1, 2), windows.size, memo=tokens.memo), self.method
        if isinstance(method, Watcher):
            method.note(self.merged_in(method.method, inner, windows, layer), tokens, layer)
            method = method.method
        call = Call(method, self.attend, inner, layer)
        branch = self.module(parts, call)
        branch = branch[0] if isinstance(branch, tuple) else branch
        return windows.join(branch).flatten(1, 2), call.seen

    def merged_in(self, method: Reduction, inner: Tokens, windows: GridWindows, layer: int) -> list[Inside]:
        """Return what merges inside attention in all windows of one image."""
        found = []
        for number in range(inner.x.shape[0]):
            memo = inner.memo
            if isinstance(memo, Merge) and memo.index.shape[0] == inner.x.shape[0]:
                memo = replace(memo, index=memo.index[number : number + 1], lengths=memo.lengths[:1])
            one = inner.replace(x=inner.x[number : number + 1], memo=memo)
            found.append(method.inside(self.attend, one.x, one, layer, 'attention'))
        joined = []
        for parts in zip(*found):
            starts = [sum(part.tokens for part in parts[:number]) for number in range(len(parts))]
            places = torch.stack([part.places + start for part, start in zip(parts, starts)])
            places = windows.join(places.unflatten(1, windows.size)[..., None]).flatten()
            similarity = mean_and_lowest(part.similarity for part in parts)
            joined.append(Inside(parts[0].part, places, sum(part.tokens for part in parts), similarity))
        return joined


class SamBlockForward(BlockForward):
    """One block on a map, whose attention may run in windows."""

    def through(self, module: Any, attention: nn.Module, attend: Any) -> ThroughModule:
        return ThroughWindows(self.applied.method, attention, attend, windowed=module.window_size > 0)


class SamAttentionForward(AttentionForward):
    """Attention on maps (B, h, w, C)."""

    def __call__(  # type: ignore[override]  # transformers names its argument
        self, hidden_states: Tensor, call: Any = None, *, host_module: nn.Module | None = None, **kwargs: Any
    ) -> Any:
        if not isinstance(call, Call):
            given = () if call is None else (call,)
            return self.original(host_module)(hidden_states, *given, **kwargs)
        branch, call.seen = call.method.attention(call.attend, hidden_states.flatten(1, 2), call.tokens, call.layer)
        branch = branch.unflatten(1, hidden_states.shape[1:3])
        return (branch, None) if call.attend.returns_weights else branch


@dataclass(frozen=True)
class SamTarget(BlocksTarget):
    """An image encoder of SAM. window: (h, w) of its windows, if it has some; settings are for a window then."""

    window: Grid | None = None

    @property
    def grid(self) -> Grid:
        return self.window or super().grid

    def check_fits(self, method: type[Reduction] | Reduction) -> None:
        super().check_fits(method)
        if method.remaining == 'set':
            fitting = sorted({known.name for known in REDUCTIONS.values() if known.remaining != 'set'})
            raise ConfigError(
                f'{method.name} leaves tokens that form no grid, which the windows and relative positions of this '
                f'network need: {", ".join(fitting)} fit.'
            )

    def bind(self, strategy: Reduction) -> Reduction:
        self.check_fits(strategy)
        return super().bind(strategy)

    def install(self, network: nn.Module, strategy: Reduction) -> None:
        blocks = block_list(network, self.host)
        view = BlockView(self.host.parts, self.host.attention)
        applied = GridApplied(strategy, 0, None, len(blocks), view, window=self.window)
        block: Any
        for layer, block in enumerate(blocks, 1):
            set_forward(block, SamBlockForward(applied, block, layer))
            set_forward(block.attn, SamAttentionForward(applied, block.attn))
        wrap_sequence(blocks, applied)


def sam_target(model: nn.Module) -> SamTarget | None:
    """Return an image encoder of SAM; None for another network.

    Raises ConfigError where its parts are not those that this package knows.
    """
    kind = type(model)
    if kind is VisionTransformerSAM:
        host = timm_layout(model)
    elif kind.__module__ == 'transformers.models.sam.modeling_sam' and kind.__name__ == 'SamVisionEncoder':
        host = transformers_layout(model)
    else:
        return None
    sides = {block.window_size for block in block_list(model, host)} - {0}
    if len(sides) > 1:
        raise ConfigError(f'windows must have one size in all blocks, got {sorted(sides)}.')
    side = max(sides, default=0)
    return SamTarget(model, host, (side, side) if side else None)


def timm_layout(model: Any) -> Host:
    """Return how a VisionTransformerSAM of timm is laid out. Raises ConfigError for parts that are not plain."""
    for number, block in enumerate(model.blocks, 1):
        if type(block) is not Block or type(block.attn) is not Attention or block.attn.rope is not None:
            raise ConfigError(f'block {number} is not a plain block of SAM in timm, or has rotary positions.')
    check_patch_drop(model)
    embed = model.patch_embed
    return Host(
        blocks='blocks',
        prefix=0,
        norm=None,
        patch_embed='patch_embed',
        patch_size=tuple(embed.patch_size),
        attention=RelativeAttention,
        class_token=False,
        image_size=tuple(embed.img_size),
    )


def transformers_layout(model: Any) -> Host:
    """Return how a SamVisionEncoder of transformers is laid out. Raises ConfigError for modules of another release."""
    blocks = getattr(model, 'layers', ())
    names = ('qkv', 'proj', 'use_rel_pos', 'num_attention_heads', 'dropout')
    missing = [name for block in blocks for name in names if not hasattr(block.attn, name)] if blocks else ['layers']
    if missing:
        raise other_release(model, missing[0])
    side, patch = model.config.image_size, model.config.patch_size
    return Host(
        blocks='layers',
        prefix=0,
        norm=None,
        patch_embed='patch_embed',
        patch_size=(patch, patch),
        parts=dict(norm1='layer_norm1', ls1=None, drop_path1=None, norm2='layer_norm2', ls2=None, drop_path2=None),
        attention=SamAttention,
        class_token=False,
        image_size=(side, side),
    )
