"""SegFormer of Hugging Face transformers, whose attention merges tokens as SegFormer++ does.

Nothing of transformers is imported: a network is known by its class. Attention and stages get a forward of their own;
a stage hands its blocks one object per forward, through which later blocks use the matching of an earlier one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.applied import Switch
from mmseg_tr.hosts.budget import Target
from mmseg_tr.hosts.carried import carried_by, carry
from mmseg_tr.hosts.host import Grid, other_release
from mmseg_tr.hosts.patch import Forward, set_forward
from mmseg_tr.nn.attention import scaled_attention
from mmseg_tr.reduction import Reduction, Tokens
from mmseg_tr.reduction.segformerpp.mergers import Matchings
from mmseg_tr.reduction.tokens import as_map, as_tokens

KINDS = ('SegformerModel',)
NEEDED = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'sequence_reduction_ratio')


@dataclass
class StagesApplied(Switch):
    """Of a network of several stages. method: the strategy. depths: blocks of each stage."""

    method: Reduction
    depths: tuple[int, ...]


@dataclass
class Known:
    """The matchings that the last block of a stage used, in one forward."""

    matchings: Matchings = Matchings()


class StageForward(Forward):
    """One stage. Where the method halves the image, it returns the map of the whole one, every value twice."""

    def __call__(self, x: Tensor, *args: Any, host_module: nn.Module | None = None, **kwargs: Any) -> Tensor:
        original = self.original(host_module)
        if self.applied.disabled or not x.shape[0]:
            return original(x, *args, **kwargs)
        if not self.applied.method.downsample:
            return original(x, *args, mmseg_tr_known=Known(), **kwargs)
        module = host_module or self.module
        carried = carried_by(x)
        if carried is not None:
            small = as_map(carried.x, carried.grid)
        else:
            small = x[..., : x.shape[-2] // 2 * 2 : 2, : x.shape[-1] // 2 * 2 : 2]
        grid, whole = (patch_grid(module, (image.shape[-2], image.shape[-1])) for image in (small, x))
        out = original(small, *args, mmseg_tr_known=Known(), **kwargs)
        flat = out.dim() == 3  # the last stage of a network that returns tokens
        features = as_map(out, grid) if flat else out
        enlarged = F.interpolate(features, size=whole)
        result = as_tokens(enlarged)[0] if flat else enlarged.contiguous()
        carry(result, Tokens(as_tokens(features)[0], grid))
        return result


def patch_grid(stage: nn.Module, size: Grid) -> Grid:
    """Return the grid of the patches that a stage makes of an image or map of this size."""
    conv = stage.patch_embeddings.proj
    sizes = zip(size, conv.kernel_size, conv.stride, conv.padding)
    return tuple((side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding in sizes)


class StageAttentionForward(Forward):
    """Attention of one block with merged queries, keys and values. stage, block: its place, from 0."""

    def __init__(self, applied: Switch, module: nn.Module, stage: int, block: int) -> None:
        super().__init__(applied, module)
        self.stage, self.block = stage, block

    def __call__(
        self,
        y: Tensor,
        height: int,
        width: int,
        *args: Any,
        host_module: nn.Module | None = None,
        mmseg_tr_known: Known | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        module, merging = host_module or self.module, self.applied.method.merging[self.stage]
        if mmseg_tr_known is None or (merging.queries is None and merging.keys is None):
            return self.original(host_module)(y, height, width, *args, **kwargs)
        if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
            raise ConfigError('an attention mask does not fit merged tokens: use mmseg_tr.disabled(model) here.')
        grid, ratio = (height, width), module.sequence_reduction_ratio
        source, key_grid = y, grid
        if ratio > 1:
            source, key_grid = module.sequence_reduction(y, height, width), (height // ratio, width // ratio)
        if self.block == 0 and not merging.reaches(grid, key_grid):
            number = self.stage + 1
            warnings.warn(
                f'the image is too small for this reduction: stage {number} merges less or not at all.', stacklevel=2
            )
        known = Matchings() if merging.compares(self.block) else mmseg_tr_known.matchings
        source, of_keys = merging.merge_keys(source, key_grid, known.keys)
        (short, unmerge), of_queries = merging.merge_queries(y, grid, known.queries)
        mmseg_tr_known.matchings = Matchings(of_queries, of_keys)
        layers = ((module.q_proj, short), (module.k_proj, source), (module.v_proj, source))
        q, k, v = (layer(x).unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2) for layer, x in layers)
        x = scaled_attention(q, k, v, dropout=module.attention_dropout if module.training else 0.0)
        return unmerge(module.o_proj(x.transpose(1, 2).flatten(2))), None


@dataclass(frozen=True)
class SegformerTarget(Target):
    """A SegformerModel."""

    def check(self) -> None:
        for number, stage in enumerate(self.network.stages, 1):
            missing = [name for name in ('patch_embeddings', 'blocks') if not hasattr(stage, name)]
            for block in getattr(stage, 'blocks', ()):
                attention = getattr(block, 'attention', None)
                missing += [name for name in NEEDED if not hasattr(attention, name)]
            if missing:
                raise other_release(self.network, missing[0], f'stage {number} of ', since='5.24')

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(stage.blocks) for stage in self.network.stages)

    @property
    def depth(self) -> int:
        return len(self.network.stages)

    @property
    def width(self) -> int:
        return self.network.config.hidden_sizes[-1]

    @property
    def grid(self) -> Grid:
        return (1, 1)

    @property
    def image_size(self) -> Grid:
        return (512, 512)

    def check_fits(self, method: type[Reduction] | Reduction) -> None:
        if method.backbone != 'MiT':
            raise ConfigError(f'{method.name} is for a {method.backbone}, not for a SegFormer, which has stages.')

    def bind(self, strategy: Reduction) -> Reduction:
        stages: Any = strategy
        return stages.bind_stages(self.depths)

    def install(self, network: nn.Module, strategy: Reduction) -> None:
        applied = StagesApplied(strategy, self.depths)
        for number, stage in enumerate(network.stages):
            set_forward(stage, StageForward(applied, stage))
            for place, block in enumerate(stage.blocks):
                attention = block.attention
                set_forward(attention, StageAttentionForward(applied, attention, number, place))


def segformer_target(model: nn.Module) -> SegformerTarget | None:
    """Return a SegformerModel of transformers; None for another network.

    Raises ConfigError where its modules are those of another release.
    """
    kind = type(model)
    if not kind.__module__.startswith('transformers.models.segformer.') or kind.__name__ not in KINDS:
        return None
    if getattr(model, 'stages', None) is None:
        raise other_release(model, 'stages', since='5.24')
    return SegformerTarget(model)
