"""Description of a network: where its blocks are, their parts, and the grid of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.rope import Rotary
from mmseg_tr.nn.attention import SelfAttention
from mmseg_tr.options import Options
from mmseg_tr.reduction.checks import check_integer, check_pair

Grid = tuple[int, int]
# what run_block() reads of a block -> the name that timm's blocks have for it; other blocks may have less
PARTS = ('norm1', 'attn', 'ls1', 'drop_path1', 'norm2', 'mlp', 'ls2', 'drop_path2')


# the path of a part of a block; a function of the block; None for what it does not have
Part = str | Callable[[Any], Any] | None


@dataclass(frozen=True)
class Queries(Options):
    """Tokens that a network puts before all others on the way into one of its blocks.

    count: how many. layer: number of that block, from 1.
    """

    count: int
    layer: int


@dataclass(frozen=True)
class Host(Options):
    """Where a pre-norm vision transformer keeps what a token-reduction method needs.

    blocks: path of the list of blocks from the network, 'encoder.layers'. prefix: tokens before the patches (class,
    registers). grid: (h, w) of the patches; None where it depends on the image, which then needs patch_embed.
    patch_embed: path of the module that takes the image, patch_size, and pads where images are filled up to whole
    patches; also for methods that decide there which patches share a token.
    norm: path of the final norm, if there is one. norm_pre: of one between the positions and the first block.
    parts: names in a block, for those that are not called as in timm: norm1, attn, ls1 and drop_path1 (on the branch of
    attention), norm2, mlp, ls2 and drop_path2; None for what a block does not have, or a function that makes the part
    of a block.
    attention: from the attention module to its pieces, as nn.attention.SelfAttention, which takes modules laid out as
    timm's Attention. class_token: the first prefix token is one. image_size: (H, W) that a budget counts at.
    rotary: how the blocks get rotary positions, if they do. queries: that join before a block, if some do. numbers:
    paths of buffers that the forward reads as numbers.
    """

    blocks: str
    prefix: int = 1
    grid: Grid | None = None
    norm: str | None = 'norm'
    patch_embed: str | None = None
    patch_size: Grid = (16, 16)
    pads: bool = False
    parts: Mapping[str, Part] = field(default_factory=dict)
    attention: Callable[[Any], Any] = SelfAttention
    class_token: bool = True
    image_size: Grid | None = None
    rotary: Rotary | None = None
    queries: Queries | None = None
    numbers: tuple[str, ...] = ()
    norm_pre: str | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for values of other types, and numbers out of range."""
        super().__post_init__()
        check_integer('prefix', self.prefix)
        for name in ('grid', 'patch_size', 'image_size'):
            if getattr(self, name) is not None:
                check_pair(name, getattr(self, name), '(rows, columns) of 1 or more')

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError, naming what is missing, unless the network has everything described here."""
        for name in ('blocks', 'norm', 'patch_embed', 'norm_pre'):
            path = getattr(self, name)
            if path is not None and submodule(model, path) is None:
                raise ConfigError(f'{name} must be the path of a module of {type(model).__name__}, got {path!r}.')
        blocks = submodule(model, self.blocks)
        if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
            raise ConfigError(f'blocks must be the path of a ModuleList or Sequential, got {self.blocks!r}.')
        if self.grid is None and self.patch_embed is None:
            raise ConfigError('a Host needs grid=(h, w), or patch_embed and patch_size for images of any size.')
        names = BlockView.names(self.parts)
        for number, block in enumerate(blocks, 1):
            for part in ('norm1', 'attn', 'norm2', 'mlp'):
                if part_of(block, names[part]) is None:
                    raise ConfigError(
                        f'block {number} is a {type(block).__name__} without {names[part]!r}: name its {part} in parts.'
                    )


def block_list(network: nn.Module, host: Host) -> nn.ModuleList | nn.Sequential:
    """Return the blocks of a network that Host.check() accepts."""
    blocks = submodule(network, host.blocks)
    assert isinstance(blocks, nn.ModuleList | nn.Sequential)
    return blocks


def other_release(model: nn.Module, missing: str, place: str = '', since: str = '4.57') -> ConfigError:
    """Return the error for a network of transformers without a module that this package reads.

    place: 'stage 1 of '. since: the first release whose networks of this class are supported.
    """
    return ConfigError(
        f'{place}{type(model).__name__} of this release of transformers has no {missing}: {since} or newer is needed.'
    )


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a dotted path, or None."""
    found: nn.Module | None = module
    for name in path.split('.') if path else ():
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


def part_of(block: nn.Module, part: Part) -> Any:
    """Return a part of a block, or None."""
    return part(block) if callable(part) else None if part is None else submodule(block, part)


class BlockView:
    """A block as run_block() reads it: the parts under timm's names, and the pieces of its attention."""

    def __init__(self, parts: Mapping[str, Part], attention: Callable[[Any], Any]) -> None:
        self.parts, self.pieces = self.names(parts), attention

    @staticmethod
    def names(parts: Mapping[str, Part]) -> dict[str, Part]:
        """Return every part of PARTS with its name in the block. Raises ConfigError for another part."""
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            raise ConfigError(f'parts must be named as {", ".join(PARTS)}, got {unknown[0]!r}.')
        return {part: parts.get(part, part) for part in PARTS}

    def __call__(self, block: nn.Module) -> BlockParts:
        found: dict[str, Any] = {}
        for part, name in self.parts.items():
            module = part_of(block, name)
            found[part] = nothing if module is None else module
            if isinstance(module, Tensor):
                found[part] = Scale(module)
        return BlockParts(**found, attend=self.pieces(found['attn']))


@dataclass
class BlockParts:
    """The parts of one block. attend: pieces of its attention."""

    norm1: Any
    attn: Any
    ls1: Any
    drop_path1: Any
    norm2: Any
    mlp: Any
    ls2: Any
    drop_path2: Any
    attend: Any

    @property
    def attention(self) -> nn.Module:
        return self.attn


@dataclass(frozen=True)
class Scale:
    """LayerScale of a block that keeps its factors as a parameter."""

    factors: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.factors * x


def nothing(x: Any) -> Any:
    """Stand in for a part that a block does not have."""
    return x
