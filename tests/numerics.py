"""Random networks and batches under every method: shapes, sizes, places, repetition, and images that differ alone.

python -m tests.numerics [TRIALS [NAME]] prints every fault, and a table of near ties: of so many images, how many have
another result in a batch than alone, by method, kind of picture and precision of decisions.
"""

from __future__ import annotations

import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.nn import MixVisionTransformer, ViT
from mmseg_tr.reduction import REDUCTIONS, Tokens
from mmseg_tr.reduction.segformerpp.settings import PRESETS
from tests.reduction.methods import DEPTH, METHODS, PATCH, PREFIXES, patch_sizes, pictures

KINDS = ('constant', 'flat', 'noise', 'photograph')
CLOSE = 1e-4  # of the largest feature: the last digit of the plain network is 1e-6 of it


def images_of(kind: str, batch: int, grid: tuple[int, int], seed: int) -> Tensor:
    """Return pictures of a kind, (batch, 3, H, W)."""
    shape = (grid[0] * PATCH, grid[1] * PATCH)
    if kind == 'photograph':
        found = torch.from_numpy(photograph_batch(8, shape)).float()[torch.randperm(8)[:batch]]
        return (found - 127.5) / 64
    if kind == 'flat':
        return pictures(batch, grid, seed)
    return torch.randn(batch, 3, *(shape if kind == 'noise' else (1, 1))).expand(-1, -1, *shape).contiguous()


@dataclass(frozen=True)
class Trial:
    """What is drawn. conserves: whether every patch stays part of a token; None for a MiT."""

    name: str
    network: torch.nn.Module
    images: Tensor
    kind: str
    precision: str
    conserves: bool | None

    def maps(self, images: Tensor) -> list[Tensor]:
        return list(self.network(images))


def settings_in(settings: dict[str, Any], precision: str) -> dict[str, Any] | None:
    """Return settings with a precision; None for a method that has none."""
    if precision == 'float32':
        return settings
    return settings | dict(precision=precision) if hasattr(REDUCTIONS[settings['type']], 'precision') else None


def drawn(number: int, name: str = '') -> Iterator[Trial]:
    """The trials of a number, one a method and precision, on the same images."""
    chance = random.Random(number)
    torch.manual_seed(number)
    kind, batch = chance.choice(KINDS), chance.randint(2, 8)
    grid = chance.randint(4, 14), chance.randint(4, 14)
    prefix, width = chance.choice(list(PREFIXES)), chance.choice((16, 64, 128))
    images = images_of(kind, batch, grid, number)
    for precision in ('float32', 'float64'):
        for method in METHODS:
            settings = settings_in(method.settings, precision)
            if name in method.name and method.takes(prefix) and settings is not None:
                vit = vit_of(width, prefix, grid, number)
                vit.reduction = vit.fitted(settings)
                yield Trial(method.name, vit, images, kind, precision, method.conserves)
        preset = chance.choice([preset for preset in PRESETS if preset != 'original'])
        if name in 'SegFormerPP':
            yield Trial('SegFormerPP', mit(preset, precision, number), images, kind, precision, None)


def vit_of(width: int, prefix: int, grid: tuple[int, int], seed: int) -> ViT:
    torch.manual_seed(seed)
    arch = dict(embed_dim=width, depth=DEPTH, num_heads=2, patch_size=PATCH, **PREFIXES[prefix])
    vit = ViT(arch, img_size=(grid[0] * PATCH, grid[1] * PATCH)).eval()
    for weight in vit.parameters():
        weight.data.add_(torch.randn_like(weight), alpha=0.1)
    return vit


def mit(preset: str, precision: str, seed: int) -> MixVisionTransformer:
    torch.manual_seed(seed)
    dims = dict(embed_dims=8, num_layers=(1,) * 4, num_heads=(1, 1, 2, 2), patch_sizes=(7, 3, 3, 3))
    arch = dims | dict(strides=(4, 2, 2, 2), sr_ratios=(8, 4, 2, 1))
    return MixVisionTransformer(arch, reduction=dict(type='SegFormerPP', preset=preset, precision=precision)).eval()


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= CLOSE * one.abs().max())


def wrong_tokens(trial: Trial, tokens: Tokens) -> Iterator[str]:
    """What is wrong with the tokens that leave a network."""
    patches = tokens.grid[0] * tokens.grid[1]
    counts, index = [count - tokens.num_prefix for count in tokens.counts], tokens.places()
    if index.min() < (-1 if tokens.gaps else 0) or any(index[b].max() >= counts[b] for b in range(len(counts))):
        yield 'places out of range'
    if trial.conserves and any(abs(float(size.sum()) - patches) > 1e-3 for size in patch_sizes(tokens)):
        yield f'sizes do not sum to {patches}'


@torch.no_grad()
def faults(trial: Trial) -> Iterator[str]:
    """What is wrong in a trial."""
    maps, batch = trial.maps(trial.images), len(trial.images)
    if any(level.shape[0] != batch or not level.isfinite().all() for level in maps):
        yield 'shapes or numbers'
    if not all(map(torch.equal, maps, trial.maps(trial.images))):
        yield 'another result in a second call'
    if isinstance(trial.network, ViT):
        yield from wrong_tokens(trial, trial.network.forward_tokens(trial.images))
    spoiled = trial.images.clone()
    spoiled[0] = torch.nan
    if any(not level[1:].isfinite().all() for level in trial.maps(spoiled)):
        yield 'NaN reaches another image'


@torch.no_grad()
def near_ties(trial: Trial) -> int:
    """Return how many images have another result alone."""
    together = trial.maps(trial.images)
    alone = [trial.maps(image[None]) for image in trial.images]
    return sum(not all(same(level[n], one[0]) for level, one in zip(together, maps)) for n, maps in enumerate(alone))


def main(trials: str = '20', name: str = '') -> int:
    """Draw so many batches; returns the number of faults."""
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    start, count, found = time.perf_counter(), 0, 0
    ties: Counter[tuple[str, ...]] = Counter()
    images: Counter[tuple[str, ...]] = Counter()
    for number in range(int(trials)):
        for trial in drawn(number, name):
            count += 1
            for fault in faults(trial):
                found += 1
                print(f'{number}: {trial.name}, {trial.kind}, {trial.precision} -> {fault}', flush=True)
            key = trial.name, trial.precision, trial.kind
            ties[key] += near_ties(trial)
            images[key] += len(trial.images)
    print(f'{count} trials, {found} faults; {images.total()} images, {ties.total()} differ alone, '
          f'{time.perf_counter() - start:.0f} s')  # fmt: skip
    for method, precision in dict.fromkeys((method, precision) for method, precision, _ in images):
        cells = (f'{kind} {ties[method, precision, kind]}/{images[method, precision, kind]}' for kind in KINDS)
        print(f'{method:20s} {precision}  {", ".join(cells)}')
    return found


if __name__ == '__main__':
    sys.exit(min(main(*sys.argv[1:]), 1))
