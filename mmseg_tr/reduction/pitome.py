"""PiToMe: spectrum-preserving token merging (Tran et al., NeurIPS 2024)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.profiler import record_function

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.checks import check_number, check_precision, is_number
from mmseg_tr.reduction.ladder import Grid, Ladder, distinct, rungs
from mmseg_tr.reduction.matching import all_join, descending_order, merged_places, source_places
from mmseg_tr.reduction.merge import Merge, identity
from mmseg_tr.reduction.ops import deciding_dtype, per_image, take, unit, without_autocast
from mmseg_tr.reduction.tokens import Tokens

MATCHINGS = ('all', 'bsm')


def removed(num_tokens: int, ratio: float) -> int:
    """Return how many of the patch tokens leave when a share `ratio` remains."""
    return math.floor(num_tokens - num_tokens * ratio)


def similarities(metric: Tensor) -> Tensor:
    """Return the cosine of every two tokens, (B, T, C) -> (B, T, T), float32 at least."""
    with without_autocast(metric):
        u = unit(metric)
        return u @ u.transpose(1, 2)


def energy(similarity: Tensor, margin: float, alpha: float = 1.0) -> Tensor:
    """Return how much of its image resembles a token (equation 4, with s - m above the margin as in the authors' code).

    similarity: (B, T, T). Returns the mean over all tokens, itself included, (B, T).
    """
    above = similarity - margin
    return torch.where(above > 0, above, alpha * (above.exp() - 1)).mean(-1)


@torch.no_grad()
def energy_matching(
    metric: Tensor, r: int, margin: float, alpha: float = 1.0, matching: str = 'all', num_prefix: int = 0
) -> Merge:
    """Merge r patch tokens away, by energy.

    metric: (B, E + T, C). r: at most T // 2. Tokens are ranked by falling energy, lower place first among equals.
    'all': of the 2r of greatest energy those of odd rank go to the most similar one of even rank, all of them;
        merged order: prefix, protected tokens by falling energy, receivers by falling energy.
    'bsm': the odd ranks of all tokens are sources, the even ranks receivers, and the r most similar sources go;
        merged order: prefix, remaining sources by falling similarity, receivers by falling energy.
    """
    if r <= 0:
        return identity(metric)
    similarity = similarities(metric[:, num_prefix:])
    ranked = energy(similarity, margin, alpha).argsort(dim=-1, descending=True, stable=True)  # (B, T)
    candidates, protected = (ranked[:, : 2 * r], ranked[:, 2 * r :]) if matching == 'all' else (ranked, ranked[:, :0])
    sources, receivers = candidates[:, ::2], candidates[:, 1::2]
    columns = receivers[:, None].expand(-1, sources.shape[1], -1)
    score, partner = take(similarity, sources).gather(2, columns).max(dim=-1)  # (B, sources)
    destinations = torch.cat([protected, receivers], 1) + num_prefix
    if matching == 'all':
        return all_join(sources + num_prefix, destinations, partner + protected.shape[1], score, num_prefix)
    of_source = source_places(descending_order(score), partner, r, receivers.shape[1], num_prefix)
    places = merged_places(sources + num_prefix, destinations, of_source, r, num_prefix)
    return Merge(places, per_image(metric.shape[1] - r, metric.shape[0]), (score,))


def margin_of(first: float, layer: int, depth: int) -> float:
    """Return the margin of a layer: `first` in layer 1, falling to first / depth in the last."""
    return first - first * (layer - 1) / depth


@dataclass(frozen=True)
class PiToMe(Reduction):
    """Merge tokens of large uniform regions and protect rare ones, a share of the tokens in every block.

    ratio: share of the patch tokens that remain in each block, from 0.5 to 1 (published: 0.9 to 0.975).
    form: which matching a block uses, see energy_matching(): 'bsm_first' (published for DeiT: 'bsm' in the first half
        of the blocks, 'all' in the others), 'all_first' (for MAE), 'all' (the paper's) or 'bsm' in every block, or a
        list of 'all' and 'bsm', one per block.
    margin: of similarity in the first block, from which it falls linearly towards 0 (published: 0.75; 0.9 and 0.95 for
        other models), or a list with one per block. alpha: weight of similarities below the margin.
    precision: of similarities and other decisions, 'float32' or 'float64', see docs/methods/index.md.
    Merges between attention and MLP, compares keys averaged over heads, averages by size; attention ignores sizes.
    Class, distillation and register tokens never merge. Raises ConfigError for settings outside these.
    """

    ratio: float = 0.925
    form: str | Sequence[str] = 'bsm_first'
    margin: float | Sequence[float] = 0.75
    alpha: float = 1.0
    precision: str = 'float32'
    depth: int | None = field(default=None, init=False, repr=False)  # of the backbone, known to bind()

    FORMS: ClassVar[tuple[str, ...]] = ('bsm_first', 'all_first', 'all', 'bsm')

    def __post_init__(self) -> None:
        check_number('ratio', self.ratio, 0.5, 1)
        check_number('alpha', self.alpha, 0)
        check_precision(self.precision)
        self._settle(form=_check_form(self.form), margin=_check_margin(self.margin))

    @classmethod
    def defaults(cls, width: int, depth: int, grid: Grid) -> dict[str, Any]:
        """Return the defaults: ratio 0.925 in the form for DeiT, a smaller one where 0.925 would merge nothing."""
        return dict(
            ratio=next(ratio for ratio in (0.925, 0.85, 0.5, 1) if removed(math.prod(grid), ratio) or ratio == 1)
        )

    @classmethod
    def ladder(cls, own: Mapping[str, Any], depth: int, grid: Grid) -> list[Ladder]:
        """Return the ratio from 0.99 down to 0.5, in every form."""
        steps = [round(0.99 - 0.01 * step, 2) for step in range(50)]
        steps = [ratio for ratio in steps if removed(math.prod(grid), ratio)]
        forms = distinct([own['form']] if isinstance(own.get('form'), str) else [], cls.FORMS)
        if isinstance(own.get('form'), list | tuple):
            return [Ladder(f'{cls.name}, own forms', rungs(own, 'ratio', steps))]
        return [Ladder(f'{cls.name}, {form}', rungs(own, 'ratio', steps, form=form)) for form in forms]

    def bind(self, depth: int, grid: Grid, num_prefix: int) -> Reduction:
        for name, setting in (('form', self.form), ('margin', self.margin)):
            if isinstance(setting, tuple) and len(setting) != depth:
                raise ConfigError(f'{name} must list one entry for each of the {depth} layers, got {setting}.')
        if not removed(math.prod(grid), self.ratio):
            self._warn_idle(math.prod(grid))
        return self._with(depth=depth)

    def matching_of(self, layer: int) -> str:
        """Return 'all' or 'bsm', the matching of a layer."""
        if isinstance(self.form, tuple):
            return self.form[layer - 1]
        if self.form in MATCHINGS:
            return self.form
        early = layer <= math.ceil(self._depth() / 2)
        return 'bsm' if early == (self.form == 'bsm_first') else 'all'

    def margin_of(self, layer: int) -> float:
        """Return the margin of a layer."""
        margin: Any = self.margin
        return margin[layer - 1] if isinstance(margin, tuple) else margin_of(margin, layer, self._depth())

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor | None]:
        num_tokens = y.shape[1] - tokens.num_prefix
        if not removed(num_tokens, self.ratio):
            if layer == 1 and self.depth is not None:
                self._warn_idle(num_tokens)
            return attend(y, tokens), None
        ((q, k, v),) = attend.heads(y, tokens)
        return attend.output([attend.attend(q, k, v)], y, tokens), k

    def after_attention(self, tokens: Tokens, layer: int, seen: Tensor | None) -> Tokens:
        if seen is None:
            return tokens
        with record_function('mmseg_tr::merge'):
            keys = seen.detach().mean(
                1, dtype=deciding_dtype(seen, self.precision)
            )  # (B, H, E + T, d) -> (B, E + T, d)
            r = removed(keys.shape[1] - tokens.num_prefix, self.ratio)
            settings = (self.margin_of(layer), self.alpha, self.matching_of(layer), tokens.num_prefix)
            return tokens.merge(energy_matching(keys, r, *settings), layer)

    def _depth(self) -> int:
        if self.depth is None:
            raise ConfigError(
                f'form={self.form!r} and margin={self.margin} must be spread over the layers: call bind().'
            )
        return self.depth

    def _warn_idle(self, num_tokens: int) -> None:
        warnings.warn(f'{self.name}: ratio={self.ratio} merges none of {num_tokens} tokens.', stacklevel=2)


def _check_form(form: Any) -> str | tuple[str, ...]:
    if isinstance(form, list | tuple) and form and all(entry in MATCHINGS for entry in form):
        return tuple(form)
    if not isinstance(form, str) or form not in PiToMe.FORMS:
        allowed = ', '.join(map(repr, PiToMe.FORMS))
        raise ConfigError(f"form must be one of {allowed}, or a list of 'all' and 'bsm', got {form!r}.")
    return form


def _check_margin(margin: Any) -> float | tuple[float, ...]:
    entries = tuple(margin) if isinstance(margin, list | tuple) else (margin,)
    if not entries or not all(is_number(entry) for entry in entries):
        raise ConfigError(f'margin must be a number, or a list of them, one per layer, got {margin!r}.')
    return entries if isinstance(margin, list | tuple) else margin
