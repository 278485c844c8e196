"""What `python -m benchmarks` measures: suites of rows, each of one kind and complete in itself."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.fileio import load
from torch import nn

from mmseg_tr.apis.config import load_config
from mmseg_tr.errors import ConfigError
from mmseg_tr.paths import CONFIGS
from mmseg_tr.reduction import Reduction, build_reduction, find_method, method_names

PRESETS = ('bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample')
SHARED = ('bsm_hq_share4', 'bsm_fast_share4')  # one matching per four blocks, unlike the published setting
PLAIN = {'shipped_kept': 'plain, memory kept', 'fusion': 'with its head'}  # the label of rows without merging
METHODS = method_names('ViT')  # a bare name takes the method's defaults for the network
TINY = 'segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'
ADAPTIVE_TINY = 'algm/algm_vit-tiny-p8_photo-mosaic-128x128.py'


@dataclass(frozen=True)
class Row:
    """One measurement: name, unique in its suite; kind, of benchmarks.run.KINDS; and that kind's settings.

    targets: the least that some of its numbers must be.
    """

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """seconds: of the whole suite; no row is begun after them. row_seconds: of timing one row, about."""

    name: str
    seconds: float
    row_seconds: float
    rows: tuple[Row, ...]
    images: int = 8
    device: str = 'cpu'
    amp: str | None = None
    compiled: tuple[bool, ...] = (False,)


def suite_of(name: str) -> Suite:
    """Return a suite by its name. Raises ConfigError."""
    if name not in SUITES:
        raise ConfigError(f'suite must be one of {", ".join(SUITES)}, got {name!r}.', parameters=['suite'])
    return SUITES[name]()


def chosen_rows(suite: Suite, patterns: Sequence[str] | None) -> tuple[Row, ...]:
    """The rows whose name or kind one of the patterns names, such as 'algm*' or 'growth'. Raises ConfigError."""
    if not patterns:
        return suite.rows
    for pattern in patterns:
        if not any(_matches(row, pattern) for row in suite.rows):
            raise ConfigError(
                f'rows must be names or kinds of the suite {suite.name}, got {pattern!r}.', parameters=['rows']
            )
    return tuple(row for row in suite.rows if any(_matches(row, pattern) for pattern in patterns))


def _matches(row: Row, pattern: str) -> bool:
    return pattern == row.kind or fnmatch.fnmatchcase(row.name, pattern)


def published_rows() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every published row of a method under Segmenter: name, config and metafile entry."""
    for family in (name.lower() for name in METHODS):
        metafile = CONFIGS / family / 'metafile.yml'
        for model in load(str(metafile))['Models'] if metafile.is_file() else ():
            config = model['Config'].removeprefix('local_configs/')
            own = Path(config).parent.name == family  # some tables have plain rows, too
            if own and not any(part in config for part in ('photo-mosaic', 'policy', '_fcn_', '_upernet_')):
                yield model['Name'], config, model['Metadata']


def _reduced(batch_of: Any, keep: Any = lambda name: True) -> list[Row]:
    return [
        Row(f'{name} b{batch}', 'reduced', dict(config=config, batch=batch, published=metadata.get('GMACs')))
        for name, config, metadata in published_rows()
        if keep(name)
        for batch in batch_of(name)
    ]


def _mit(kind: str, archs: Sequence[str], sizes: Sequence[tuple[int, int]], mergings: Sequence[str] = ('',)) -> list:
    rows = []
    for arch in archs:
        for size in sizes:
            for merging in mergings:
                name = f'mit-{arch} {size[0]}x{size[1]} {merging}'.strip()
                settings = dict(arch=arch, size=size) | (dict(merging=merging) if merging else {})
                rows.append(Row(name if merging else f'{name} {PLAIN.get(kind, "plain")}', kind, settings))
    return rows


def cpu() -> Suite:
    """Every published row; for two cores and an hour and a half."""
    large = ('_h16', '_h24', '_r0.2', '_r0.5', '_k0.5', '_k0.9', 'a18', 'a10-24')  # of Cityscapes one row a method
    rows = _reduced(
        lambda name: (1, 8) if 'vit-s16_ade20k' in name or 'vit-ti16' in name else (1,),
        lambda name: not ('vit-l16_cityscapes' in name and name.endswith(large)) and 'a10-24x24' not in name,
    )
    small = [row for row in rows if 'vit-l16' not in row.name]
    sizes, archs = ((512, 1024), (1024, 1024)), ('b0', 'b1', 'b2', 'b3', 'b4', 'b5')
    improvements = [
        Row(f'{name} plain', 'improvements', dict(config=f'segmenter/segmenter_{name}.py'))
        for name in ('vit-s16_ade20k-512x512', 'vit-l16_ade20k-640x640')
    ]
    rest = [
        *_mit('shipped', archs, sizes),
        *_mit('shipped_kept', ('b0', 'b2', 'b5'), sizes),
        *_mit('fusion', ('b0', 'b2'), sizes),
        *_mit('merged', ('b2',), sizes, PRESETS),
        *_mit('merged', ('b5',), sizes[1:], PRESETS),
        *_mit('merged', ('b2', 'b5'), sizes[1:], SHARED),
        *_copies(('algm/algm_vit-s16_ade20k-512x512.py',), 32),
        *_onnx('segmenter/segmenter_vit-s16_ade20k-512x512.py'),
    ]
    # last: rows that may be dropped when time is up
    slow = [
        *_training(('algm/algm_vit-s16_ade20k-512x512.py', 'cts/cts_vit-s16_ade20k-512x512.py'), 'b2', (512, 512), 1),
        *_growth('vit_tiny_patch16_384', (256, 512, 1024, 2048)),
    ]
    others = [row for row in rows if row not in small]
    first = [row for row in others if 'ade20k' in row.name]
    ordered = improvements + small + rest + first + slow + [row for row in others if row not in first]
    return Suite('cpu', seconds=90 * 60, row_seconds=6, rows=tuple(ordered))


def cpu_small() -> Suite:
    """One row of every kind and method on networks small enough for tests."""
    methods = [
        Row(f'{name} b{batch}', 'reduced', dict(config=TINY, reduction=name, batch=batch, ratio=1.4))
        for name in METHODS
        for batch in (1, 2)
    ]
    rows = [
        Row('tiny plain', 'improvements', dict(config=TINY)),
        *methods,
        *_mit('shipped', ('b0',), ((64, 64),)),
        *_mit('shipped_kept', ('b0',), ((64, 64),)),
        *_mit('fusion', ('b0',), ((64, 64),)),
        *_mit('merged', ('b0',), ((64, 96),), (*PRESETS, *SHARED)),
        Row(f'training {Path(ADAPTIVE_TINY).stem}', 'training', dict(config=ADAPTIVE_TINY, batch=2)),
        Row('training mit-b0 bsm_hq', 'training', dict(arch='b0', size=(64, 64), merging='bsm_hq', batch=2)),
        *(Row(f'growth {Path(c).stem}', 'growth', dict(config=c, sides=(64, 96, 128))) for c in (TINY, ADAPTIVE_TINY)),
        *_copies((ADAPTIVE_TINY,), 4),
        *_onnx(TINY, {'model.backbone.arch.depth': 2}),  # translating a network takes seconds a layer
        *_fixed(compiled=False, batch=2),
        Row('joint', 'joint', dict(config=ADAPTIVE_TINY, batch=2, threads=1, ratio=1.4, more=dict(batch='joint'))),
        *_applied(ADAPTIVE_TINY, 'vit_tiny_patch16_384', (64, 64)),
        Row('path', 'path', dict(config=TINY, images=2, size=(96, 160), present=3), dict(inside=0.75)),
    ]
    return Suite('cpu-small', seconds=300, row_seconds=0.1, rows=tuple(rows), images=4)


def gpu() -> Suite:
    """Every published row in bfloat16, one image and 32, compiled and not; one GPU."""
    sizes = ((512, 1024), (1024, 1024))
    rows = [
        Row(f'{name} plain', 'improvements', dict(config=f'segmenter/segmenter_{name}.py'))
        for name in ('vit-s16_ade20k-512x512', 'vit-l16_ade20k-640x640')
    ]
    rows += _reduced(lambda name: (1, 32))
    rows += _mit('shipped', ('b0', 'b1', 'b2', 'b3', 'b4', 'b5'), sizes)
    rows += _mit('fusion', ('b0', 'b2'), sizes)
    rows += _mit('merged', ('b0', 'b2', 'b5'), sizes, PRESETS)
    rows += _mit('merged', ('b2', 'b5'), sizes[1:], SHARED)
    rows += _training(('algm/algm_vit-s16_ade20k-512x512.py', 'algm/algm_vit-l16_ade20k-640x640.py'), 'b5', (1024,) * 2)
    rows += _growth('vit_small_patch16_384', (256, 512, 1024, 2048))
    rows += _copies(('algm/algm_vit-s16_ade20k-512x512.py', 'algm/algm_vit-l16_ade20k-640x640.py'), 32)
    return Suite('gpu', 3600, 10, tuple(rows), images=64, device='cuda', amp='bf16', compiled=(False, True))


def _training(configs: Sequence[str], arch: str, size: tuple[int, int], batch: int = 2) -> list[Row]:
    rows = [Row(f'training {Path(config).stem}', 'training', dict(config=config, batch=batch)) for config in configs]
    for merging in PRESETS:
        settings = dict(arch=arch, size=size, merging=merging, batch=batch)
        rows.append(Row(f'training mit-{arch} {size[0]}x{size[1]} {merging}', 'training', settings))
    return rows


def _growth(arch: str, sides: tuple[int, ...]) -> list[Row]:
    rows = {'plain': None} | {name: name for name in METHODS}
    return [
        Row(f'growth {name}', 'growth', dict(arch=arch, reduction=method, sides=sides)) for name, method in rows.items()
    ]


def _copies(configs: Sequence[str], batch: int) -> list[Row]:
    return [Row(f'copies {Path(config).stem}', 'copies', dict(config=config, batch=batch)) for config in configs]


def _onnx(config: str, options: dict[str, Any] | None = None) -> list[Row]:
    return [Row(f'onnx {name}', 'onnx', dict(config=config, reduction=name, options=options)) for name in METHODS]


def targets() -> Suite:
    """What the methods must reach in time, as ratios; for two cores and a quarter of an hour."""
    config = 'segmenter/segmenter_vit-s16_ade20k-512x512.py'
    published = [row for row in _reduced(lambda name: (1,)) if 'vit-s16_ade20k' in row.name]
    adaptive = published[0].settings
    rows = [replace(row, targets=dict(efficiency=0.97)) for row in published]
    families = {Path(row[1]).parent.name for row in published_rows()}  # for a plain ViT, at another size
    families -= {Path(row.settings['config']).parent.name for row in published}
    rows += [
        Row(
            f'{form.name} vit-s16 b1',
            'fixed',
            form.budget(config, 1),
            dict(efficiency=0.95 if form.gives_back else 0.97),
        )
        for form in demo_forms()
        if Path(form.config).parent.name in families and not form.attention_alone
    ]
    rows += _applied(adaptive['config'], 'vit_small_patch16_384', (512, 512))
    rows += [
        Row(f'joint {Path(adaptive["config"]).stem} b4, threads: {threads}', 'joint', joint, dict(of_ideal=0.95))
        for threads in (1, 2)
        for joint in (adaptive | dict(batch=4, threads=threads, more=dict(batch='joint')),)
    ]
    photographs = dict(config=config, images=20, size=(1250, 1600))
    rows += [
        Row('path vit-s16', 'path', photographs | dict(present=16), dict(inside=0.75)),
        Row('path vit-s16, every class', 'path', photographs, dict(inside=0.75)),
    ]
    rows += [replace(row, targets=dict(of_copies=0.95)) for row in _copies((adaptive['config'],), 32)]
    for presets, least in ((PRESETS[:2], 0.95), (SHARED, 1.0)):
        merged = _mit('merged', ('b5',), ((1024, 1024),), presets)
        rows += [Row(row.name, row.kind, row.settings | dict(images=1), dict(of_ideal=least)) for row in merged]
    return Suite('targets', seconds=30 * 60, row_seconds=12, rows=(*_fixed(compiled=True), *rows), images=4)


@dataclass(frozen=True)
class DemoForm:
    """A method of the demo in one of its forms, under a config. strategy: None where it is a network of its own."""

    name: str
    config: str
    strategy: Reduction | None

    @property
    def attention_alone(self) -> bool:
        """Whether all tokens stay between layers and reach the MLPs."""
        return self.gives_back and type(self.strategy).mlp is Reduction.mlp

    @property
    def gives_back(self) -> bool:
        """Whether every layer returns all tokens."""
        return self.strategy is not None and self.strategy.remaining == 'all'

    def budget(self, config: str, batch: int, compiled: bool = False) -> dict[str, Any]:
        """Settings of a row at a fixed budget."""
        share = 0.85 if self.attention_alone else 0.7
        return dict(config=config, method=self.config, batch=batch, budget=share, compiled=compiled)


def demo_forms() -> list[DemoForm]:
    """Every method under the demo's network, in each of its forms."""
    found = []
    for family in (name.lower() for name in METHODS):
        for file in sorted((CONFIGS / family).glob(f'*{Path(TINY).stem.partition("_")[2]}*.py')):
            reduction = dict(load_config(str(file)).model.backbone.reduction)
            own_network = issubclass(find_method(reduction['type']), nn.Module)
            strategy = None if own_network else build_reduction(reduction)
            found.append(DemoForm(family + file.stem.partition('128x128')[2], f'{family}/{file.name}', strategy))
    return found


def _fixed(compiled: bool, batch: int = 8) -> list[Row]:
    """The demo's network under every method at a fixed budget."""
    rows = []
    for form in demo_forms():
        least = {} if form.strategy is None else dict(time_ratio=0.95, compiled_ratio=1.0)
        settings = form.budget(TINY, batch, compiled)
        rows.append(Row(f'fixed {form.name}', 'fixed', settings, least | dict(batch_efficiency=0.9)))
    return rows


def _applied(config: str, arch: str, size: tuple[int, int]) -> list[Row]:
    settings = dict(config=config, arch=arch, size=size, budget=0.7)
    return [Row(f'applied {arch}', 'applied', settings, dict(idle_ratio=1 / 1.03, of_own=0.95))]


SUITES = {'cpu-small': cpu_small, 'cpu': cpu, 'gpu': gpu, 'targets': targets}
