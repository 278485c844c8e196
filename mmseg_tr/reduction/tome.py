"""ToMe: token merging by bipartite soft matching (Bolya et al., ICLR 2023), in its original and its dense form.

The matchings are pure functions of matching.py that return a Merge: bipartite_matching(), kth_matching() and
random_matching(); Merge.apply(), reduce() and unmerge() carry them out. parse_r() is the published schedule.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction, check_seed, seeded_uniform
from mmseg_tr.reduction.matching import Merge, bipartite_matching, kth_matching, random_matching, stat_dtype
from mmseg_tr.reduction.tokens import Tokens


def parse_r(num_layers: int, r: int | list | tuple[int, float]) -> list:
    """Tokens to merge in every layer (the published schedule).

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


class ToMe(Reduction):
    """Merge the most similar tokens in every layer, without any training.

    r: tokens to merge per layer: a whole number, a fraction of the tokens that enter (0 < r < 1), a list of these per
        layer (filled up with zeros), or dict(mean=8, slope=-1.0), the published decreasing schedule (slope from -1 to
        1). Never more than half of the tokens merge in a layer.
    form: 'original' merges between attention and MLP, compares keys averaged over heads, and restores at the end;
        'dense' (published by Expedite for dense prediction) merges and unmerges round attention and round the MLP,
        compares the normed tokens themselves, and keeps the length of the residual stream.
    matching: 'bipartite'; 'kth': of every k tokens one remains, r is left out; 'random': sources are drawn, repeatably
        by seed, and all but one token may merge. Class, distillation and register tokens never merge.
    prop_attn: a token counts in attention as often as it has patches; None is the published choice, True in the
        original form and False in the dense one, which forgets sizes.
    k: for matching='kth': a whole number from 1 on, or a list per layer (filled up with ones); 2 by default.
    Raises ConfigError for settings outside these.
    """

    FORMS = ('original', 'dense')
    MATCHINGS = ('bipartite', 'kth', 'random')

    def __init__(
        self,
        r=None,
        form: str = 'original',
        matching: str = 'bipartite',
        prop_attn: bool | None = None,
        seed: int = 0,
        k=None,
    ) -> None:
        if form not in self.FORMS:
            raise ConfigError(f'form={form!r} is unknown: it is one of {", ".join(map(repr, self.FORMS))}.')
        if matching not in self.MATCHINGS:
            raise ConfigError(f'matching={matching!r} is unknown: it is one of {", ".join(map(repr, self.MATCHINGS))}.')
        if not (prop_attn is None or isinstance(prop_attn, bool)):
            raise ConfigError(f'prop_attn={prop_attn!r} must be True, False, or None for the published choice.')
        if prop_attn and form == 'dense':
            raise ConfigError("prop_attn=True needs sizes, which form='dense' forgets: leave it out.")
        if matching == 'kth' and r is not None:
            raise ConfigError(f"matching='kth' merges as k says: leave r={r!r} out.")
        if matching != 'kth' and k is not None:
            raise ConfigError(f"k={k!r} belongs to matching='kth': leave it out for {matching!r}.")
        self.form, self.matching = form, matching
        self.prop_attn = form == 'original' if prop_attn is None else bool(prop_attn)
        self.seed = check_seed(seed)
        self.k = _check_k(2 if k is None else k)
        self.r = None if matching == 'kth' else _check_r(r)
        self.schedule: tuple[int, ...] | None = None  # of dict(mean=, slope=), once the depth is known

    def check(self, depth: int, grid: tuple[int, int], num_prefix: int) -> None:
        for name, setting in (('r', self.r), ('k', self.k)):
            if isinstance(setting, tuple) and len(setting) > depth:
                raise ConfigError(f'{name} lists {len(setting)} layers, but the backbone has {depth}: shorten it.')
        if isinstance(self.r, dict):
            if self.schedule is not None and len(self.schedule) != depth:
                raise ConfigError(
                    f'this ToMe spreads r={self.r} over {len(self.schedule)} layers, and now meets {depth}: '
                    'give every backbone a reduction of its own.'
                )
            self.schedule = tuple(parse_r(depth, (self.r['mean'], self.r['slope'])))
        self._warn_if_idle(num_prefix + grid[0] * grid[1], num_prefix)

    def amount(self, layer: int, num_tokens: int, num_prefix: int) -> int:
        """How many of these tokens, prefix included, a layer merges away."""
        free, asked = max(num_tokens - num_prefix, 0), self._of_layer(layer)
        if self.matching == 'kth':
            return free // asked * (asked - 1)
        r = int(num_tokens * asked) if isinstance(asked, float) else asked
        return min(r, max(free - 1, 0) if self.matching == 'random' else free // 2)

    def _asked(self) -> tuple | int | float:
        """The setting of all layers, or a tuple of theirs."""
        if self.matching == 'kth':
            return self.k
        if isinstance(self.r, dict) and self.schedule is None:
            raise ConfigError(f'r={self.r} needs the depth of the backbone: call check() first.')
        return self.r if self.schedule is None else self.schedule

    def _of_layer(self, layer: int) -> int | float:
        """The setting of a layer; layers beyond a list merge nothing."""
        asked = self._asked()
        if not isinstance(asked, tuple):
            return asked
        return asked[layer - 1] if layer <= len(asked) else int(self.matching == 'kth')

    def _warn_if_idle(self, num_tokens: int, num_prefix: int) -> None:
        """Say so when no layer merges any of the tokens that enter the network."""
        asked = self._asked()
        if not any(self.amount(layer, num_tokens, num_prefix) for layer in range(1, len(_listed(asked)) + 1)):
            setting = f'k={asked}' if self.matching == 'kth' else f'r={asked}'
            warnings.warn(f'ToMe: {setting} merges none of {num_tokens} tokens.', stacklevel=1)

    def matched(self, metric: Tensor, tokens: Tokens, layer: int, call: int) -> Merge | None:
        """Which tokens of metric (B, T, C) merge; None where none do. call: which of a layer's matchings this is."""
        num_tokens, num_prefix = metric.shape[1], tokens.num_prefix
        r = self.amount(layer, num_tokens, num_prefix)
        if not r:
            return None
        if self.matching == 'kth':
            return kth_matching(metric, self._of_layer(layer), num_prefix)
        if self.matching == 'bipartite':
            return bipartite_matching(metric, r, num_prefix)
        # the same draw for every image, so that batch mates do not matter
        numbers = seeded_uniform(num_tokens - num_prefix, self.seed, layer, call)
        return random_matching(metric, r, numbers.to(metric.device, non_blocking=True), num_prefix)

    def attention(self, attend, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor | None]:
        if layer == 1:
            self._warn_if_idle(y.shape[1], tokens.num_prefix)
        if self.form == 'dense':
            return self._shortened(attend, y, tokens, layer, 0), None
        merges = self.amount(layer, y.shape[1], tokens.num_prefix) > 0
        sized = self.prop_attn and tokens.size is not None
        if not sized and not merges:
            return attend(y, tokens), None
        ((q, k, v),) = attend.heads(y, tokens)
        size = tokens.size if sized else None
        return attend.output([attend.attend(q, k, v, size)], y, tokens), k if merges else None

    def after_attention(self, tokens: Tokens, layer: int, seen: Tensor | None) -> Tokens:
        if seen is None:
            return tokens
        with record_function('mmseg_tr::merge'):
            keys = seen.detach().mean(1, dtype=stat_dtype(seen))  # (B, H, T, d) -> (B, T, d)
            return tokens.merge(self.matched(keys, tokens, layer, 0), layer)

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        if self.form == 'original':
            return mlp(y)
        return self._shortened(lambda x, _: mlp(x), y, tokens, layer, 1)

    def _shortened(self, branch, y: Tensor, tokens: Tokens, layer: int, call: int) -> Tensor:
        """branch on merged tokens: plain means go in, and every token receives what its merged token got."""
        with record_function('mmseg_tr::merge'):
            merge = self.matched(y, tokens, layer, call)
            short = y if merge is None else merge.apply(y, None, tokens.counts)[0]
        if merge is None:
            return branch(y, tokens)
        out = branch(short, tokens.replace(x=short, size=None, index=None))
        with record_function('mmseg_tr::merge'):
            return merge.unmerge(out, tokens.counts)


def _listed(setting) -> tuple:
    return tuple(setting) if isinstance(setting, (list, tuple)) else (setting,)


def _whole(value, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_k(k) -> int | tuple[int, ...]:
    entries = _listed(k)
    if not entries or not all(_whole(entry, 1) for entry in entries):
        raise ConfigError(f'k={k!r} must be a whole number from 1 on, or a list of them, one per layer.')
    return entries if isinstance(k, (list, tuple)) else k


def _check_r(r) -> int | float | tuple | dict:
    if isinstance(r, tuple):
        raise ConfigError(
            f'r={r!r} could be a list per layer or a published pair: write r={list(r)} or r=dict(mean=..., slope=...).'
        )
    if isinstance(r, dict):
        slope = r.get('slope')
        number = isinstance(slope, (int, float)) and not isinstance(slope, bool) and -1 <= slope <= 1
        if set(r) != {'mean', 'slope'} or not _whole(r['mean'], 0) or not number:
            raise ConfigError(
                f'r={dict(r)} is no schedule: write dict(mean=8, slope=-1.0), a whole mean from 0 on and a slope '
                'from -1 to 1.'
            )
        return dict(r)
    entries = _listed(r)
    for entry in entries:
        if not _whole(entry, 0) and not (isinstance(entry, float) and 0 < entry < 1):
            raise ConfigError(
                f'r={r!r} must be a whole number from 0 on, a fraction between 0 and 1, a list of these, or '
                'dict(mean=, slope=).'
            )
    if not entries:
        raise ConfigError('r=[] names no layer: leave reduction=None for the plain model.')
    return entries if isinstance(r, list) else r
