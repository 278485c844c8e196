"""ToMe: token merging by bipartite soft matching (Bolya et al., ICLR 2023), in its original and its dense form.

The matchings are pure functions of matching.py that return a Merge: bipartite_matching(), kth_matching() and
random_matching(); Merge.apply(), reduce() and unmerge() carry them out. parse_r() is the published schedule.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Inside, Reduction
from mmseg_tr.reduction.checks import (
    check_choice,
    check_flag,
    check_integer,
    check_left,
    check_precision,
    check_tokens,
)
from mmseg_tr.reduction.ladder import Grid, Ladder, rungs
from mmseg_tr.reduction.matching import bipartite_matching, kth_matching, random_matching, unordered_matching
from mmseg_tr.reduction.merge import Merge, identity, joined_similarity
from mmseg_tr.reduction.ops import deciding, deciding_dtype, seeded_uniform
from mmseg_tr.reduction.tokens import Tokens
from mmseg_tr.reduction.tome_checks import check_k, check_r, listed


def parse_r(num_layers: int, r: int | list[Any] | tuple[int, float]) -> list[Any]:
    """Return tokens to merge in every layer (the published schedule).

    r: a number for every layer; a list, filled up with zeros; or (mean, slope): the numbers run in a line around the
    mean, from twice the mean to 0 for slope -1, from 0 to twice the mean for slope 1. One layer gets the mean.
    """
    if isinstance(r, list):
        return r + [0] * (num_layers - len(r))
    mean, slope = r if isinstance(r, tuple) else (r, 0.0)
    if num_layers == 1:
        return [mean]
    first = int(mean * (1 - slope))
    step = (2 * mean - first - first) / (num_layers - 1)
    return [int(first + step * layer) for layer in range(num_layers)]


@dataclass(frozen=True)
class ToMe(Reduction):
    """Merge the most similar tokens in every layer, without any training.

    r: tokens to merge per layer: an integer, a fraction of the tokens that enter (0 < r < 1), a list of these per
        layer (filled up with zeros), or dict(mean=8, slope=-1.0), the published decreasing schedule (slope from -1 to
        1); by default 8, in the dense form 0.3. Never more than half of the tokens merge in a layer.
    form: 'original' merges between attention and MLP, compares keys averaged over heads, and restores at the end;
        'dense' (published by Expedite for dense prediction) merges and unmerges around attention and around the MLP,
        compares the normed tokens themselves, and keeps the length of the residual stream.
    matching: 'bipartite'; 'kth': of every k tokens one remains, r is left out; 'random': sources are drawn, repeatable
        by seed, and all but one token may merge. Class, distillation and register tokens never merge.
    prop_attn: a token counts in attention as often as it has patches; None is the published choice, True in the
        original form and False in the dense one, which forgets sizes.
    match_every: in the dense form, one matching for so many layers, which the attention of the first decides, for
        attention and MLP of all of them. 1: attention and MLP of every layer have their own (published).
    k: for matching='kth': a positive integer, or a list per layer (filled up with ones); 2 by default.
    precision: of similarities and other decisions, 'float32' or 'float64', see docs/methods/index.md.
    Raises ConfigError for settings outside these.
    """

    r: Any = None
    form: str = 'original'
    matching: str = 'bipartite'
    prop_attn: bool | None = None
    seed: int = 0
    k: Any = None
    precision: str = 'float32'
    match_every: int = 1
    # of dict(mean=, slope=), once the depth is known
    schedule: tuple[int, ...] | None = field(default=None, init=False, repr=False)

    count_rule: ClassVar[str] = 'expedite'
    FORMS: ClassVar[tuple[str, ...]] = ('original', 'dense')
    MATCHINGS: ClassVar[tuple[str, ...]] = ('bipartite', 'kth', 'random')

    def __post_init__(self) -> None:
        dense, kth = self.form == 'dense', self.matching == 'kth'
        check_choice('form', self.form, self.FORMS)
        check_choice('matching', self.matching, self.MATCHINGS)
        if self.prop_attn is not None:
            check_flag('prop_attn', self.prop_attn)
        if self.prop_attn and dense:
            raise ConfigError("prop_attn must be left out with form='dense', which forgets sizes, got True.")
        if kth and self.r is not None:
            raise ConfigError(f"r must be left out with matching='kth', where k sets how many merge, got {self.r!r}.")
        if not kth and self.k is not None:
            raise ConfigError(f'k must be left out with matching={self.matching!r}, got {self.k!r}.')
        check_integer('seed', self.seed)
        check_precision(self.precision)
        check_integer('match_every', self.match_every, 1)
        if self.match_every > 1 and not dense:
            raise ConfigError(f"match_every must be 1 with form='original', which merges anew, got {self.match_every}.")
        k = check_k(2 if self.k is None else self.k) if kth else None
        r = None if kth else check_r((0.3 if dense else 8) if self.r is None else self.r)
        self._settle(r=r, k=k, prop_attn=not dense if self.prop_attn is None else self.prop_attn)

    @property
    def remaining(self) -> str:  # type: ignore[override]  # its form decides
        return 'set' if self.form == 'original' else 'all'

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Return the defaults: the dense form, 30 % of the tokens in every layer."""
        return dict(form='dense', r=0.3)

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return tokens to merge per layer: a number where the settings have one (or a schedule's mean), else a
        fraction."""
        form, r = own.get('form', 'original'), own.get('r')
        name = f'{cls.name}, {form} form'
        if own.get('matching') == 'kth':
            return [Ladder(f'{name}, one of k remains', rungs(own, 'k', range(2, 17)))]
        most = max(7 * math.prod(grid) // (8 * depth), 1)  # an eighth of the tokens is left at the end
        if isinstance(r, Mapping):
            steps: Sequence[Any] = [dict(r, mean=mean) for mean in range(1, most + 1)]
        elif isinstance(r, Sequence):
            raise ConfigError(f'r must be one number for every layer to be tuned, such as r=8, got {r!r}.')
        elif isinstance(r, float) or (r is None and form == 'dense'):
            steps = [round(0.02 * step, 2) for step in range(1, 26)]
        else:
            steps = range(1, most + 1)
        return [Ladder(name, rungs(own, 'r', steps))]

    @classmethod
    def with_tokens(cls, own: Mapping[str, Any], tokens: Sequence[int], depth: int, grid: Grid) -> dict[str, Any]:
        """Return settings that leave these numbers after each layer, or inside each in the dense form."""
        left, dense = math.prod(grid), own.get('form', cls.form) == 'dense'
        numbers = tokens if isinstance(tokens, list | tuple) else (tokens,)
        amounts = []
        for layer, number in enumerate(check_tokens(numbers, min(len(numbers), depth), left, falls=not dense), 1):
            amounts.append(check_left(f'layer {layer}', number, left))
            left = left if dense else number
        return {**own, 'r': amounts}

    def settings(self) -> dict[str, Any]:
        """Return the settings, r of each layer as a list: a tuple could be a published pair."""
        return super().settings() | dict(r=list(self.r) if isinstance(self.r, tuple) else self.r)

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        for name, setting in (('r', self.r), ('k', self.k)):
            if isinstance(setting, tuple) and len(setting) > depth:
                raise ConfigError(f'{name} must list at most {depth} layers, the depth of the backbone, got {setting}.')
        fitted: ToMe = self
        if isinstance(self.r, dict):
            fitted = self._with(schedule=tuple(parse_r(depth, (self.r['mean'], self.r['slope']))))
        fitted._warn_if_idle(num_prefix + math.prod(grid), num_prefix)
        return fitted

    def amount(self, layer: int, num_tokens: int, num_prefix: int) -> int:
        """Return how many of these tokens, prefix included, a layer merges away."""
        free, asked = max(num_tokens - num_prefix, 0), self._of_layer(layer)
        if self.matching == 'kth':
            return free // int(asked) * (int(asked) - 1)
        r = int(num_tokens * asked) if isinstance(asked, float) else asked
        return min(r, max(free - 1, 0) if self.matching == 'random' else free // 2)

    def _asked(self) -> tuple[Any, ...] | int | float:
        """Return the setting of all layers, or a tuple of theirs."""
        if self.matching == 'kth':
            return self.k
        if isinstance(self.r, dict) and self.schedule is None:
            raise ConfigError(f'r={self.r} must be spread over the layers first: call bind().')
        return self.r if self.schedule is None else self.schedule

    def _of_layer(self, layer: int) -> int | float:
        """Return the setting of a layer; layers beyond a list merge nothing."""
        asked = self._asked()
        if not isinstance(asked, tuple):
            return asked
        return asked[layer - 1] if layer <= len(asked) else int(self.matching == 'kth')

    def _warn_if_idle(self, num_tokens: int, num_prefix: int) -> None:
        """Warn if no layer merges any of the tokens that enter the network."""
        asked = self._asked()
        if not any(self.amount(layer, num_tokens, num_prefix) for layer in range(1, len(listed(asked)) + 1)):
            setting = f'k={asked}' if self.matching == 'kth' else f'r={asked}'
            warnings.warn(f'ToMe: {setting} merges none of {num_tokens} tokens.', stacklevel=1)

    def matched(self, metric: Tensor, tokens: Tokens, layer: int, call: int, undone: bool = False) -> Merge | None:
        """Return which tokens of metric (B, T, C) merge; None if none do. call: which of a layer's matchings this is.

        undone: whether the merge is undone, so that the order of the merged tokens does not matter.
        """
        num_tokens, num_prefix = metric.shape[1], tokens.num_prefix
        r = self.amount(layer, num_tokens, num_prefix)
        if not r:
            return None
        metric = deciding(metric, self.precision)
        if self.matching == 'kth':
            return kth_matching(metric, int(self._of_layer(layer)), num_prefix)
        if self.matching == 'bipartite':
            return (unordered_matching if undone else bipartite_matching)(metric, r, num_prefix)
        # the same draw for every image, so that batch mates do not matter
        numbers = seeded_uniform(num_tokens - num_prefix, self.seed, layer, call)
        return random_matching(metric, r, numbers.to(metric.device, non_blocking=True), num_prefix)

    def inside(self, attend: Any, y: Tensor, tokens: Tokens, layer: int, part: str) -> Sequence[Inside]:
        """Return the matching that the dense form is about to make, on the same tokens."""
        if self.form == 'original':
            return ()
        merge = self._of_part(y, tokens, layer, int(part == 'mlp'), False) or identity(y)
        places = merge.index[0, tokens.num_prefix :] - tokens.num_prefix
        return [Inside(part, places, merge.lengths[0] - tokens.num_prefix, joined_similarity(merge))]

    def attended(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor, Tokens]:
        merge = self._of_part(y, tokens, layer, 0, False) if self.form == 'dense' else None
        if merge is not None:
            y, tokens = merge.apply(y, None, tokens.counts)[0], tokens.merge(merge, layer)
        return super().attended(attend, y, tokens, layer)

    def key_sizes(self, tokens: Tokens) -> Tensor | None:
        return tokens.size if self.prop_attn else None

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        if layer == 1:
            self._warn_if_idle(y.shape[1], tokens.num_prefix)
        if self.form == 'dense':
            branch, merge = self._shortened(attend, y, tokens, layer, 0)
            return branch, merge if self.match_every > 1 else None
        merges = self.amount(layer, y.shape[1], tokens.num_prefix) > 0
        size = self.key_sizes(tokens)
        if size is None and not merges:
            return attend(y, tokens), None
        ((q, k, v),) = attend.heads(y, tokens)
        return attend.output([attend.attend(q, k, v, size)], y, tokens), k if merges else None

    def after_attention(self, tokens: Tokens, layer: int, seen: Any) -> Tokens:
        if seen is None:
            return tokens
        if isinstance(seen, Merge):
            return tokens if seen is tokens.memo else tokens.replace(memo=seen)
        with record_function('mmseg_tr::merge'):
            # (B, H, T, d) -> (B, T, d)
            keys = seen.detach().mean(1, dtype=deciding_dtype(seen, self.precision))
            merge = self.matched(keys, tokens, layer, 0)
            return tokens if merge is None else tokens.merge(merge, layer)

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        if self.form == 'original':
            return mlp(y)
        return self._shortened(lambda x, _: mlp(x), y, tokens, layer, 1)[0]

    def _of_part(self, y: Tensor, tokens: Tokens, layer: int, call: int, undone: bool = True) -> Merge | None:
        """Return the matching of a layer's attention (call 0) or MLP (call 1) in the dense form: its own or a shared
        one."""
        place = (layer - 1) % self.match_every + call if self.match_every > 1 else 0
        return tokens.handed_on(y, place, 2 * self.match_every) or self.matched(y, tokens, layer, call, undone)

    def _shortened(
        self, branch: Callable[..., Tensor], y: Tensor, tokens: Tokens, layer: int, call: int
    ) -> tuple[Tensor, Merge | None]:
        """Run a branch on merged tokens: plain means go in, and every token receives what its merged token got."""
        with record_function('mmseg_tr::merge'):
            merge = self._of_part(y, tokens, layer, call)
            short = y if merge is None else merge.apply(y, None, tokens.counts)[0]
        if merge is None:
            return branch(y, tokens), None
        out = branch(short, tokens.replace(x=short, size=None, index=None, inner=merge))
        with record_function('mmseg_tr::merge'):
            return merge.unmerge(out, tokens.counts), merge
