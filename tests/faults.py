"""Mistakes swept through the public Python API: each must be accepted or refused in one sentence.

python -m tests.faults prints a line for every fault and the counts.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmseg_tr import Host, apply, create_model, disabled, from_pretrained, remove, summary
from mmseg_tr.errors import InputError, WriteError
from mmseg_tr.nn import LinearDecoder, MaskTransformer, MixVisionTransformer, ViT
from mmseg_tr.nn.encoders import timm
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.reduction import REDUCTIONS, Tokens, build_reduction

VALUES = [
    *(None, True, False, -1, 0, 1, 1.5, -0.5, 10**30, 10**400, 2**63, math.nan, math.inf, -math.inf, 1e308, 1j),
    *('', 'nonsense', '3', b'x', [], [1], [None], (1, 2), (-1, 3), (0.5, 1), ('a', 'b'), [[1]], {}, {'a': 1}),
    *(np.array([1, 2]), np.float32(0.5), np.int64(2), torch.tensor([1.0, 2.0]), object(), print, Path('x'), range(3)),
]
VIT = dict(arch=dict(embed_dim=16, depth=4, num_heads=2, patch_size=8), img_size=32)
MIT = dict(
    arch=dict(embed_dims=8, num_layers=(1, 2), num_heads=(1, 2), patch_sizes=(7, 3), strides=(4, 2), sr_ratios=(2, 1)),
    out_indices=(0, 1),
)
SLOW = {10**30, 2**63}  # as a number of layers these are a question of time


def _of_arch(build: Callable[..., Any], usual: dict[str, Any], key: str) -> Callable[..., Any]:
    """Build a network whose arch has another entry."""
    return lambda value: build(**usual | dict(arch=usual['arch'] | {key: value}))


def _with(build: Callable[..., Any], usual: dict[str, Any], key: str) -> Callable[..., Any]:
    return lambda value: build(**usual | {key: value})


def _settings(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ('kwargs', 'options', 'merging')]


def constructors() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Every argument of networks, heads and methods: its name, and what builds with a value of it."""
    for build, usual in ((ViT, VIT), (MixVisionTransformer, MIT)):
        for key in _settings(build):
            yield f'{build.__name__}.{key}', _with(build, usual, key)
        for key in usual['arch']:
            yield f'{build.__name__}.arch.{key}', _of_arch(build, usual, key)
    for key in ('mlp_ratio', 'init_values', 'reg_tokens', 'class_token', 'qkv_bias', 'distilled'):
        yield f'ViT.arch.{key}', _of_arch(ViT, VIT, key)
    for key in _settings(MaskTransformer):
        yield f'MaskTransformer.{key}', _with(MaskTransformer, dict(num_classes=3, embed_dim=16), key)
    for key in _settings(LinearDecoder):
        yield f'LinearDecoder.{key}', _with(LinearDecoder, dict(num_classes=3, embed_dim=16), key)
    for key in ('num_classes', 'head', 'channels', 'dropout', 'resolution'):
        build = _with(lambda **settings: SegFormer(MixVisionTransformer(**MIT), **settings), dict(num_classes=3), key)
        yield f'SegFormer.{key}', build
    for name, method in REDUCTIONS.items():
        for key in _settings(method):
            yield f'{name}.{key}', _with(lambda name=name, **settings: _bound(name, settings), {}, key)
    for key in ('name', 'method', 'num_classes', 'pretrained'):
        usual = dict(name='segmenter', num_classes=3, **VIT)
        yield f'create_model.{key}', _with(create_model, usual, key)
    yield 'build_reduction', build_reduction
    for key in ('budget', 'tokens', 'calibrate', 'img_size', 'decoder', 'decoder_depth', 'decoder_dim'):
        usual = dict(name='segmenter', method='EViT', num_classes=3, **VIT)
        yield f'create_model.{key}', _with(create_model, usual, key)


def _bound(name: str, settings: dict[str, Any]) -> Any:
    reduction = build_reduction(dict(type=name, **settings))
    return reduction.bind(4, (4, 4), 1) if reduction.backbone == 'ViT' else reduction.bind_stages((1, 2))


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def host() -> nn.Module:
    return timm.create_model('test_vit', num_classes=0, img_size=32).eval()


def calls(folder: Path) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Every argument of what works on networks: hosts, tokens, models that are saved."""
    for key in ('method', 'budget', 'tokens', 'calibrate', 'host', 'positions', 'keep_rate'):
        yield f'apply.{key}', _with(lambda **given: apply(host(), **given), dict(method='EViT'), key)
    for field in fields(Host):
        layout = dict(blocks='blocks', grid=(2, 2))
        yield f'Host.{field.name}', _with(lambda **given: apply(host(), 'ALGM', host=Host(**given)), layout, field.name)
    for function in (apply, remove, disabled, summary):
        yield f'{function.__name__}.model', partial(function, **dict(method='ALGM') if function is apply else {})
    applied = apply(host(), 'ALGM')
    for key in ('image', 'repeats', 'seconds', 'instead'):
        usual = dict(image=torch.rand(1, 3, 32, 32), repeats=1, seconds=0.01, instead=0)
        yield f'summary.{key}', _with(partial(summary, applied), usual, key)
    tokens = Tokens(torch.rand(2, 5, 3), grid=(2, 2), num_prefix=1)
    merged = tokens.keep(torch.tensor([[0, 1], [2, 3]]))
    yield 'Tokens.from_map', Tokens.from_map
    for name in ('keep', 'restore', 'to_map'):
        yield f'Tokens.{name}', lambda value, name=name: getattr(merged, name)(value)
    model = create_model('segmenter', num_classes=3, **VIT)
    for key in ('folder', 'row', 'comparison', 'force', 'name'):
        yield f'save_pretrained.{key}', _with(model.save_pretrained, dict(folder=folder / key, force=True), key)
    model.save_pretrained(folder / 'saved')
    for key in ('source', 'revision'):
        yield f'from_pretrained.{key}', _with(from_pretrained, dict(source=folder / 'saved'), key)
    yield 'transform', model.transform


def images() -> Iterator[tuple[str, Any]]:
    """Inputs of a network of 3 channels, by a name."""
    for value in VALUES:
        yield f'image={value!r:.40}', value
    for shape in (
        (3, 32, 32),
        (1, 32, 32),
        (1, 4, 32, 32),
        (1, 1, 32, 32),
        (1, 3, 0, 32),
        (1, 3, 32, 0),
        (1, 3, 32),
        (),
    ):
        yield f'shape {shape}', torch.zeros(shape)
    for dtype in (torch.uint8, torch.int64, torch.float16, torch.float64, torch.bool, torch.complex64):
        yield f'{dtype}', torch.zeros(1, 3, 32, 32).to(dtype)
    for shape in ((0, 3, 32, 32), (1, 3, 1, 1), (1, 3, 1, 40), (2, 3, 5, 7)):
        yield f'small {shape}', torch.zeros(shape)


def networks() -> Iterator[tuple[str, nn.Module]]:
    """A tiny network under every method, in eval mode."""
    yield 'ViT', ViT(**VIT).eval()
    yield 'MiT', MixVisionTransformer(**MIT).eval()
    for name, method in REDUCTIONS.items():
        if method.backbone == 'ViT':
            yield f'ViT, {name}', ViT(**VIT, reduction=name).eval()
    keys = dict(kv_mode='bsm', kv_r=0.5, kv_sx=2, kv_sy=2)
    yield 'MiT, bsm', MixVisionTransformer(**MIT, reduction=[keys, keys]).eval()
    yield 'MiT, downsample', MixVisionTransformer(**MIT, reduction='downsample').eval()


def outcome(call: Callable[[], Any]) -> str:
    """'accepted', 'refused', or what else was raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            call()
    except (InputError, WriteError) as error:
        return 'refused' if '\n' not in str(error).strip() else f'several lines: {error}'
    except Exception as error:  # what is looked for
        return f'{type(error).__name__}: {str(error)[:100]}'.replace('\n', ' ')
    return 'accepted'


def sweep_constructors(places: Callable[[int, int], bool] = lambda number, value: True) -> Iterator[tuple[str, str]]:
    """Each value for each argument, of those that places(argument, value) chooses: a name and the outcome."""
    with torch.device('meta'):
        for number, (name, build) in enumerate(constructors()):
            for place, value in enumerate(VALUES):
                deep = isinstance(value, int) and value in SLOW and ('depth' in name or 'iterations' in name)
                if places(number, place) and not deep:
                    yield f'{name}={value!r:.40}', outcome(partial(build, value))


def sweep_calls(
    folder: Path, places: Callable[[int, int], bool] = lambda number, value: True
) -> Iterator[tuple[str, str]]:
    """As sweep_constructors(), of functions that run; files go into the folder."""
    with inside(folder):
        for number, (name, call) in enumerate(calls(folder)):
            for place, value in enumerate(VALUES):
                if places(number, place):
                    yield f'{name}={value!r:.40}', outcome(partial(call, value))


def sweep_images(chosen: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, str]]:
    """Each input for each network, of those that are chosen by name."""
    for name, network in networks():
        if not chosen(name):
            continue
        for text, image in images():
            yield f'{name}: {text}', outcome(partial(network, image))


def main() -> int:
    """Sweep everything; returns the number of faults."""
    faults = 0
    folder = Path(tempfile.mkdtemp())
    for sweep in (sweep_constructors, partial(sweep_calls, folder), sweep_images):
        counts: Counter[str] = Counter()
        for name, found in sweep():
            known = found in ('accepted', 'refused')
            counts[found if known else 'faults'] += 1
            if not known:
                print(f'{name} -> {found}', flush=True)
        print(getattr(sweep, 'func', sweep).__name__, dict(counts), flush=True)
        faults += counts['faults']
    return faults


if __name__ == '__main__':
    sys.exit(min(main(), 1))
