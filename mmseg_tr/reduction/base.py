"""The contract between a token-reduction method and its backbone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.ladder import Dial, Grid, Ladder
from mmseg_tr.reduction.tokens import Tokens

Self = TypeVar('Self', bound='Reduction')


@dataclass(frozen=True)
class Embedded:
    """Patch tokens with their positions added, before the prefix tokens join them.

    x: (B, T, C). index: (B, N) int64, the token that represents each patch; None when every patch has its own.
    size: (B, T), patches per token; None for one each. memo: as Tokens.memo.
    """

    x: Tensor
    index: Tensor | None = None
    size: Tensor | None = None
    memo: Any = None


@dataclass(frozen=True)
class Inside:
    """What merges only inside a layer, for one image. part: 'attention', 'mlp', 'head 2'.

    places: (N,) int64, equal for patches that share a token there. tokens: how many tokens represent the N patches.
    similarity: mean and lowest similarity of what joined; None where nothing joined or nothing is compared.
    """

    part: str
    places: Tensor
    tokens: int
    similarity: tuple[float, float] | None = None


def mean_merged(forwards: Iterable[Tokens], layers: Sequence[int]) -> dict[int, float]:
    """Return the mean number of tokens per image that each layer merged in these forwards."""
    totals, images = dict.fromkeys(layers, 0), 0
    for tokens in forwards:
        images += tokens.num_images
        before = (tokens.num_prefix + tokens.grid[0] * tokens.grid[1]) * tokens.num_images
        for step in tokens.steps:
            after = sum(step.merge.lengths)
            totals[step.layer] += before - after
            before = after
    return {layer: total / images for layer, total in totals.items()}


class Reduction:
    """A token-reduction method, given to a backbone as its `reduction`.

    The backbone owns the loop over blocks and calls the methods below at fixed points, in this order for every layer
    (layers count from 1). A strategy is frozen and holds settings only: the state of one forward is kept in the
    Tokens. Strategies are frozen dataclasses whose fields are the settings; __post_init__ checks them.

    Class attributes that the rest of the package reads:
    name: in tables and messages. count_rule: the rule of analysis.mac_rules that its papers count by.
    dial: the setting that controls how much an adaptive method saves, if there is one.
    backbone: 'ViT' or 'MiT'. needs_class_token: a backbone without a class token refuses the method.
    remaining: what leaves a layer: 'all' tokens, for methods that merge inside a layer, a smaller 'rectangle' of them,
    or a 'set' without a grid. Hosts with windows and positions of a grid take the first two.
    adaptive: whether the image decides how many tokens remain or attend. indexed: whether Tokens.index holds which
    token represents a patch in the attention of every layer, which attention maps need.
    """

    name: ClassVar[str] = ''
    count_rule: ClassVar[str] = 'segmenter'
    backbone: ClassVar[str] = 'ViT'
    dial: ClassVar[Dial | None] = None
    needs_class_token: ClassVar[bool] = False
    remaining: ClassVar[str] = 'set'
    indexed: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if 'name' not in vars(cls):
            cls.name = cls.__name__

    @property
    def adaptive(self) -> bool:
        return False

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Return default settings of the method for a network of this width, depth and patch grid."""
        return {}

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return ladders for tune: settings in ascending order of reduction; empty without any.

        own: settings to keep, type included; the first ladder holds the layers (or form) that they name.
        """
        return []

    @classmethod
    def fixed_ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """As ladder(), of settings with fixed shapes, from which a budget chooses."""
        return cls.ladder(own, depth, grid)

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings of fixed shapes that leave these numbers of patch tokens after (or in) the layers that
        reduce.

        own: settings to keep, type included. Raises ConfigError for numbers that cannot be, or without such a form.
        """
        raise ConfigError(f'tokens must be left out for {cls.name}: give it a budget.')

    def settings(self) -> dict[str, Any]:
        """Return dict(type=..., ...) from which build_reduction() rebuilds this strategy."""
        listed = dataclasses.fields(self)  # type: ignore[arg-type]  # every strategy is a dataclass
        named = {field.name: getattr(self, field.name) for field in listed if field.init}
        return dict(type=type(self).__name__, **named)

    def portable_settings(self) -> dict[str, Any]:
        """Return settings() for a model whose weights come with it: without files of this machine."""
        return self.settings()

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        """Return the strategy fitted to a backbone of this depth, patch grid and number of prefix tokens.

        Called when the model is built; the strategy itself does not change. Raises ConfigError for settings that such
        a backbone cannot follow.
        """
        return self

    def unexportable(self) -> str | None:
        """Return why these settings cannot run with fixed shapes, and what to set instead; None if they can."""
        return None

    def undecided(self) -> str | None:
        """Why the method cannot decide in a network that has no weights for it, and what to do; None if it can."""
        return None

    def fixed_by(self, forwards: Iterable[Tokens]) -> Reduction:
        """Return an adaptive method's form of fixed shapes; each count is the mean over these forwards.

        Raises ConfigError for a method that has no such form, or decides nothing.
        """
        raise ConfigError(f'{self.name} with these settings has no counts to average: they do not depend on the image.')

    def closed_forms(self, grid: Grid, width: int) -> dict[tuple[str, str], int]:
        """Return the multiply-adds of an image that the published counter adds by formula, by (part, kind) as in
        MacCount."""
        return {}

    def embed(self, project: Callable[[Tensor], Tensor], image: Tensor, padded: Tensor, position: Tensor) -> Embedded:
        """Patch embedding: project takes pixels (B, 3, H, W) to patch features (B, C, H/ph, W/pw).

        image: unchanged, (B, 3, H, W); padded: the same filled up to whole patches; position: (1, C, h, w).
        """
        return Embedded((project(padded) + position).flatten(2).transpose(1, 2))

    def before_block(self, tokens: Tokens, layer: int) -> Tokens:
        """Before the first norm of a block; layer 1: on the embedded tokens."""
        return tokens

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        """Attention of one block on the normed tokens y, laid out as tokens.x.

        attend: nn.attention.SelfAttention, callable as attend(y, tokens) or piece by piece. Returns the branch of the
        residual, and any of queries, keys or class attention that after_attention() uses.
        """
        return attend(y, tokens), None

    def after_attention(self, tokens: Tokens, layer: int, seen: Any) -> Tokens:
        """Between the attention residual and the MLP. seen: second value that attention() returned."""
        return tokens

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        """MLP of one block on the normed tokens y; returns its branch of the residual."""
        return mlp(y)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        """After the MLP residual of a block."""
        return tokens

    def after_norm(self, tokens: Tokens) -> Tokens:
        """After the backbone's final norm."""
        return tokens

    def inside(self, attend: Any, y: Tensor, tokens: Tokens, layer: int, part: str) -> Sequence[Inside]:
        """Return the merge inside part 'attention' or 'mlp' of a layer, which is undone there; for pictures.

        y: the normed tokens that enter the part, of one image. attend: as in attention(); None for the MLP.
        """
        return ()

    def attended(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor, Tokens]:
        """Return queries and keys of a layer, (1, H, T, d), and their tokens, which know their patches; for pictures.

        Arguments as in attention(), of one image.
        """
        ((q, k, _),) = attend.heads(y, tokens)
        return q, k, tokens

    def key_sizes(self, tokens: Tokens) -> Tensor | None:
        """Return how often each token counts as a key in attention, laid out as Tokens.size; None for once each."""
        return None

    def _with(self: Self, **values: Any) -> Self:
        """Return a copy with these attributes replaced."""
        changed = copy.copy(self)
        changed._settle(**values)
        return changed

    def _settle(self, **values: Any) -> None:
        """Set attributes of a frozen strategy before it is used: in __post_init__ and in copies."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
