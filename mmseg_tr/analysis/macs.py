"""Multiply-adds of a network as it runs: with the remaining tokens, and attention on any kernel.

count = count_macs(Segmenter(encoder, decoder), image)
count.total('segmenter') / 1e9  # the "GFLOPs" of the papers, which are multiply-adds
count.parts('segmenter')        # encoder_attention, encoder_mlp, merging, decoder, ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_tr.analysis.mac_rules import OPERATORS, check_rule, units_of, weights_of
from mmseg_tr.analysis.network import find_backbone, network_of
from mmseg_tr.analysis.remembered import key_of, recall, remember

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
    """The part that is running: the innermost scope of SCOPES if one is open, else the last part that was entered."""

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

    Of a network with a ViT: embedding (patches, positions), encoder_attention and encoder_mlp (each with the norm
    before it and the residual after it), other (the final norm), decoder. Of any other segmentor: backbone, decoder
    (neck and head). Enlargement is entered by the caller.
    """
    backbone = find_backbone(model)
    starts = [] if backbone is None else backbone.part_starts()
    tracker = PartTracker('embedding' if starts else 'backbone' if hasattr(model, 'backbone') else 'other')

    def enter(part: str) -> Callable[..., None]:
        return lambda *_: tracker.enter(part)

    with ExitStack() as hooks:
        decoder = getattr(model, 'decoder', None)
        for part, module in [*starts, *([('decoder', decoder)] if decoder is not None else [])]:
            hooks.callback(module.register_forward_pre_hook(enter(part)).remove)
        if getattr(model, 'backbone', None) is not None:
            hooks.callback(model.backbone.register_forward_hook(enter('decoder')).remove)
        yield tracker


@dataclass(frozen=True)
class MacCount:
    """Work of one forward, or the mean of several, before a rule is applied.

    units: (part, kind) -> units of work; parts are those of PARTS, kinds those of mac_rules.
    unknown: operators that ran and whose cost no rule defines.
    """

    units: Mapping[tuple[str, str], float]
    unknown: frozenset[str] = frozenset()

    def total(self, rule: str = 'all') -> float:
        """Return multiply-adds under a rule of RULES. Raises ConfigError for another."""
        return sum(self.by_operator(rule).values())

    def by_operator(self, rule: str = 'all') -> dict[str, float]:
        """Return multiply-adds by kind of operator, for the kinds that the rule counts."""
        return self._sum(rule, key=1)

    def parts(self, rule: str = 'all') -> dict[str, float]:
        """Return multiply-adds by part of the network, in the order of PARTS; they add up to the total."""
        found = self._sum(rule, key=0)
        return {part: found[part] for part in PARTS if part in found}

    def by_kind(self) -> dict[str, float]:
        """Return units by kind of operator, whatever the part."""
        found: Counter[str] = Counter()
        for (_, kind), units in self.units.items():
            found[kind] += units
        return dict(found)

    def _sum(self, rule: str, key: int) -> dict[str, float]:
        rule = check_rule(rule)
        found: Counter[str] = Counter()
        for what, units in self.units.items():
            weights = weights_of(rule, what[0])
            if what[1] in weights:
                found[what[key]] += weights[what[1]] * units
        return dict(found)

    @classmethod
    def mean(cls, counts: Iterable[MacCount], images: int) -> MacCount:
        """Return the work per image of forwards that took `images` images together."""
        total: Counter[Any] = Counter()
        unknown: frozenset[str] = frozenset()
        for count in counts:
            total.update(count.units)
            unknown |= count.unknown
        return cls({key: units / images for key, units in total.items()}, unknown)


@dataclass
class MacCounter(TorchDispatchMode):
    """Counts every operator that runs inside `with MacCounter() as counter:`; counter.count() is the result.

    Run the forward under torch.inference_mode(): outside it torch splits attention and linear layers up before they
    can be seen, which the rules' products survive and the kinds (softmax of attention, linear or matmul) may not.
    """

    tracker: PartTracker = field(default_factory=lambda: PartTracker('other'))
    units: Counter = field(default_factory=Counter)
    unknown: set[str] = field(default_factory=set)
    supports_higher_order_operators = True

    def __post_init__(self) -> None:
        super().__init__()

    def count(self) -> MacCount:
        return MacCount(dict(self.units), frozenset(self.unknown))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        namespace, _, name = _full_name(func).rpartition('::')
        if namespace == 'profiler':
            if name.startswith('_record_function_enter'):
                self.tracker.open_scope(args[0])
            elif name.startswith('_record_function_exit'):
                self.tracker.close_scope()
            return func(*args, **kwargs)
        key = key_of(func, args, kwargs)
        known = recall(key)
        if known is not None:
            out, units, unknown = known.outputs(), known.units, known.unknown
        else:
            out, units, unknown = self._run(func, namespace, name, args, kwargs)
            remember(key, out, units, unknown)
        for kind, amount in units.items():
            self.units[self.tracker.part, kind] += amount
        self.unknown |= unknown
        return out

    def _run(
        self, func: Any, namespace: str, name: str, args: Any, kwargs: Any
    ) -> tuple[Any, Mapping[str, float], frozenset[str]]:
        """Return what an operator gives, its units by kind, and what of it is unknown."""
        if namespace == 'aten' and name not in OPERATORS:
            inside = MacCounter()
            with inside:  # an operator made of others is counted by them
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out, inside.count().by_kind(), frozenset(inside.unknown)
        out = func(*args, **kwargs)
        units = {} if namespace == 'prim' else units_of(name, func, out, args, kwargs)
        return out, units or {}, frozenset() if units is not None else frozenset([f'{namespace}::{name}'])


def _full_name(func) -> str:
    """'aten::mm' for torch.ops.aten.mm.default."""
    return f'higher_order::{func.name()}' if isinstance(func, HigherOrderOperator) else func._schema.name


def count_macs(model: nn.Module, image: Tensor) -> MacCount:
    """Return the work of one forward from normalised images to logits at their size, for the whole batch.

    model: any network that analysis.network knows how to run, on any device, 'meta' included where it can run there.
    image: (B, 3, H, W) on the model's device. The model runs in eval mode, without gradients; modes are put back.
    SegFormer's heads are counted in the form that was published.
    """
    network = network_of(model)
    with (
        evaluating(model),
        fusing_late(model),
        torch.inference_mode(),
        track_parts(model) as tracker,
        MacCounter(tracker) as counter,
    ):
        scores = network.scores(image)
        tracker.enter('enlargement')
        network.enlarge(scores, image)
    counter.units.update(closed_forms(model, image))
    return counter.count()


def closed_forms(model: nn.Module, image: Tensor) -> dict[tuple[str, str], int]:
    """Return the work that the published counter adds by formula for images (B, C, H, W), in units as in MacCount."""
    backbone = find_backbone(model)
    if backbone is None or backbone.reduction is None:
        return {}
    grid = tuple(-(-side // step) for side, step in zip(image.shape[-2:], backbone.step))
    found = backbone.reduction.closed_forms(grid, backbone.width)
    return {what: len(image) * macs for what, macs in found.items()}


@contextmanager
def fusing_late(model: nn.Module) -> Iterator[None]:
    """Let SegFormer's heads enlarge their levels before they fuse them, as published."""
    heads = [module for module in model.modules() if getattr(module, 'fuses_early', False)]
    for head in heads:
        head.fuses_early = False
    try:
        yield
    finally:
        for head in heads:
            del head.fuses_early  # the class's own is seen again


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode for every module of the models; afterwards each has the mode that it had."""
    modes = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
