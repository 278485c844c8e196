"""A method whose network keeps at most a share of the plain one's multiply-adds, or so many tokens after each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.budget import Target
from mmseg_tr.reduction import Reduction, build_reduction, find_method
from mmseg_tr.reduction.checks import check_number
from mmseg_tr.reduction.ladder import Ladder


@dataclass(frozen=True)
class Candidate:
    """Settings of fixed shapes that keep to a budget, one way to spend it.

    ladder: the name of what they were chosen from. strategy: fitted to the network. work: multiply-adds, as a share of
    the plain network's. loss: of Target.loss(), None where it was not measured.
    """

    ladder: str
    settings: Any
    strategy: Reduction
    work: float
    loss: float | None = None


def within_budget(asked: dict[str, Any], budget: float, target: Target, plain: float) -> Iterator[Candidate]:
    """Yield the mildest settings within the budget of every ladder of the method that reaches it.

    asked: the method's type, and settings that stay. target, plain: as Target.plain() returns them. Raises ConfigError
    for a budget outside (0, 1], for a method without fixed shapes, and for a budget below what it can reach.
    """
    check_number('budget', budget, 0, 1, open_below=True)
    method, reached, least = find_method(asked.get('type')), False, None

    def candidate(ladder: Ladder, rung: int) -> Candidate:
        built = build_reduction(ladder.rungs[rung])  # type: ignore[arg-type]  # fixed ladders have one method a rung
        assert built is not None  # a ladder has no plain model
        strategy = target.bind(built)
        return Candidate(ladder.name, ladder.rungs[rung], strategy, target.work(strategy) / plain)

    for ladder in method.fixed_ladder(asked, target.depth, target.grid):
        if not ladder.rungs:
            continue
        best = candidate(ladder, -1)
        if best.strategy.adaptive:
            continue
        least = best.work if least is None else min(least, best.work)
        if best.work > budget:
            continue
        mild, strong = -1, len(ladder.rungs) - 1  # the last that is too mild, and one that is within
        while strong - mild > 1:
            middle = (mild + strong) // 2
            milder = candidate(ladder, middle)
            if milder.work <= budget:
                strong, best = middle, milder
            else:
                mild = middle
        reached = True
        yield best
    if least is None:
        raise ConfigError(f'budget must be left out for {method.name}: it has no settings that give fixed shapes.')
    if not reached:
        raise ConfigError(
            f'budget must be {min(least, 1):.2f} or more: {method.name} cannot save more here, got {budget}.'
        )


def calibrated(candidates: Iterable[Candidate], target: Target, images: Tensor) -> list[Candidate]:
    """Return the candidates with their loss for images (B, C, H, W), the least first; one alone is not measured."""
    candidates = list(candidates)
    if len(candidates) == 1:
        return candidates
    plain = target.results_of(images)
    found = [replace(one, loss=target.loss(one.strategy, images, plain)) for one in candidates]
    return sorted(found, key=lambda one: one.loss)  # type: ignore[arg-type, return-value]  # each has one


def method_within(asked: dict[str, Any], budget: float, target: Target, images: Tensor | None = None) -> Reduction:
    """Return settings of fixed shapes with which the network keeps to a budget, fitted to it.

    asked: the method's type, and settings that stay. images: (B, C, H, W), on which of several ways to spend the budget
    the one is chosen that changes the network's results least; without, the first. Raises as within_budget().
    """
    target, plain = target.plain()
    candidates = within_budget(asked, budget, target, plain)
    if images is None:
        return next(candidates).strategy
    return calibrated(candidates, target, images)[0].strategy


def method_with_tokens(asked: dict[str, Any], tokens: Any, target: Target) -> Reduction:
    """Return settings of fixed shapes that leave these numbers of patch tokens, see Reduction.with_tokens().

    Raises ConfigError for numbers that cannot be.
    """
    built = build_reduction(find_method(asked.get('type')).with_tokens(asked, tokens, target.depth, target.grid))
    assert built is not None
    return target.bind(built)


def fixed_form(asked: dict[str, Any], budget: Any, tokens: Any, calibrate: Any, target: Target) -> Reduction:
    """Return method_within() or method_with_tokens(). Raises ConfigError where both are given, or unusable images."""
    if budget is not None and tokens is not None:
        raise ConfigError(f'one of budget and tokens must be given, got budget={budget!r} and tokens={tokens!r}.')
    if calibrate is not None and (budget is None or not isinstance(calibrate, Tensor) or calibrate.dim() != 4):
        raise ConfigError('calibrate must be images as a tensor (B, C, H, W), and goes with budget.')
    if tokens is not None:
        return method_with_tokens(asked, tokens, target)
    return method_within(asked, budget, target, calibrate)
