"""Mistakes swept through the options objects and the verbs of mmseg_tr.apis, as tests.faults does for networks.

python -m tests.faults_of_verbs [PART,... [SECONDS]] prints a line for every fault and the counts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import mmengine.config.config
import torch

from mmseg_tr import Predictor
from mmseg_tr.apis.app import AppOptions
from mmseg_tr.apis.benchmark import BenchmarkOptions, benchmark
from mmseg_tr.apis.check_dataset import check_dataset
from mmseg_tr.apis.compare import compare
from mmseg_tr.apis.compare.options import CompareOptions
from mmseg_tr.apis.export import ExportOptions, export
from mmseg_tr.apis.infer import InferOptions, infer
from mmseg_tr.apis.logs import find_logs
from mmseg_tr.apis.new_config import NewConfigOptions, new_config
from mmseg_tr.apis.report import ReportOptions, build_report
from mmseg_tr.apis.reproduce import ReproduceOptions
from mmseg_tr.apis.show.attention import AttentionOptions
from mmseg_tr.apis.show.merging import ShowMergingOptions, show_merging
from mmseg_tr.apis.show.view import open_view
from mmseg_tr.apis.test import EvaluateOptions, evaluate
from mmseg_tr.apis.train import TrainOptions, train
from mmseg_tr.apis.tune import TuneOptions, tune
from mmseg_tr.apis.tune.search import Budget
from mmseg_tr.checkpoints import convert
from mmseg_tr.checkpoints.folder import save_pretrained
from tests.faults import SLOW, VALUES, inside, outcome
from tests.hostile import Room, limit_memory, quiet, room, trial

OPTIONS: dict[type, dict[str, Any]] = {
    **dict.fromkeys((AppOptions, BenchmarkOptions, CompareOptions, ExportOptions, InferOptions, ReportOptions), {}),
    **dict.fromkeys((ReproduceOptions, AttentionOptions, ShowMergingOptions, EvaluateOptions, TrainOptions), {}),
    TuneOptions: {},
    Budget: dict(loss=1.0),
    NewConfigOptions: dict(images='a', labels='b', classes=['c']),
}


def of_fields() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Every field of every options object."""
    for kind, usual in OPTIONS.items():
        for field in fields(kind):
            yield f'{kind.__name__}.{field.name}', partial(_built, kind, usual, field.name)


def _built(function: Callable[..., Any], usual: dict[str, Any], key: str, value: Any) -> Any:
    given = {name: part() if callable(part) else part for name, part in usual.items()}
    return function(**given | {key: value})


def verbs(here: Room) -> dict[str, tuple[Callable[..., Any], type | None, dict[str, Any]]]:
    """Verbs with the options object that they take, and usual arguments; those that are functions are called anew."""
    config, file, data = str(here.config), str(here.checkpoint), here.folder / 'data'
    picture = str(data / 'images' / '00.png')
    algm = 'type=ALGM,layers=(1,2),threshold=0.9'
    out = partial(tempfile.mkdtemp, dir=here.folder)
    small = dict(device='cpu', images=2, batch_size=1, repeats=1)
    view = open_view(config, file, reduction=algm, device='cpu')
    predictor = Predictor(config, file, device='cpu')
    return {
        'train': (train, TrainOptions, dict(config=config, work_dir=out, cfg_options={'train_cfg.max_iters': 1})),
        'evaluate': (evaluate, EvaluateOptions, dict(config=config, checkpoint=file, work_dir=out)),
        'infer': (infer, InferOptions, dict(config=config, checkpoint=file, inputs=[picture], out=out, device='cpu')),
        'benchmark': (
            benchmark,
            BenchmarkOptions,
            dict(config=config, device='cpu', batch_sizes=(1,), repeats=1, seconds=0.1, published=False),
        ),
        'export': (
            lambda out, **given: export(out=f'{out}/a.pt2' if str(out).startswith('/') else out, **given),
            ExportOptions,
            dict(config=config, checkpoint=file, out=out),
        ),
        'compare': (compare, CompareOptions, dict(configs=[config], checkpoint=file, reductions=(algm,), **small)),
        'tune': (
            tune,
            TuneOptions,
            dict(config=config, checkpoint=file, budget=Budget(loss=50.0), reduction=algm, work_dir=out, **small),
        ),
        'build_report': (
            build_report,
            ReportOptions,
            dict(configs=[config], checkpoint=file, inputs=[picture], reductions=(algm,), device='cpu'),
        ),
        'show_merging': (show_merging, ShowMergingOptions, dict(view=view, inputs=[picture], out=out)),
        'open_view': (open_view, None, dict(config=config, checkpoint=file, reduction=algm, device='cpu')),
        'new_config': (
            lambda out, **given: new_config(NewConfigOptions(out=f'{out}/c.py', **given)),
            NewConfigOptions,
            dict(images=str(data / 'images'), labels=str(data / 'labels'), classes=['a', 'b', 'c'], out=out),
        ),
        'Predictor': (
            Predictor,
            None,
            dict(
                config=config, checkpoint=file, reduction=None, native=False, device='cpu', amp=None, cfg_options=None
            ),
        ),
        'Predictor.predict': (predictor.predict, None, dict(pictures=[picture], batch_size=1)),
        'Predictor.draw': (predictor.draw, None, dict(picture=picture)),
        'check_dataset': (check_dataset, None, dict(config=config, cfg_options=None)),
        'convert': (convert, None, dict(src=file, variant=None, trust=False)),
        'save_pretrained': (
            save_pretrained,
            None,
            dict(checkpoint=file, folder=out, config=None, row=None, comparison=None, force=True, name=None),
        ),
        'find_logs': (find_logs, None, dict(inputs=[])),
    }


def of_verbs(here: Room, part: str = '') -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Every argument of every verb, and every field of its options."""
    for name, (function, kind, usual) in verbs(here).items():
        keys = [*usual, *(field.name for field in fields(kind) if field.name not in usual)] if kind else list(usual)
        for key in keys:
            if any(wanted in f'{name}.{key}' for wanted in part.split(',')):
                yield f'{name}.{key}', partial(_built, function, usual, key)


def sweep_options(places: Callable[[int, int], bool] = lambda number, value: True) -> Iterator[tuple[str, str]]:
    """Each value for each field, of those that places(field, value) chooses: a name and the outcome."""
    for number, (name, build) in enumerate(of_fields()):
        for place, value in enumerate(VALUES):
            if places(number, place):
                yield f'{name}={value!r:.40}', outcome(partial(build, value))


def sweep_verbs(
    here: Room, part: str = '', places: Callable[[int, int], bool] = lambda number, value: True
) -> Iterator[tuple[str, str]]:
    """As sweep_options(), of verbs that run; files go into the room."""
    work = here.folder / 'work'
    work.mkdir()
    with inside(work):
        for number, (name, call) in enumerate(of_verbs(here, part)):
            for place, value in enumerate(VALUES):
                endless = isinstance(value, int) and value in SLOW and 'repeats' in name
                if endless or not places(number, place):
                    continue
                with quiet():
                    found = trial(partial(call, value), here.mark)
                yield f'{name}={value!r:.40}', 'accepted' if found == 'loads' else found


def main(part: str = '', seconds: str = 'inf') -> int:
    """Sweep everything for at most so many seconds; returns the number of faults."""
    torch.set_num_threads(1)
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)
    start, faults = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder, room(Path(folder)) as here:
        limit_memory()
        for title, sweep in (('options', sweep_options()), ('verbs', sweep_verbs(here, part))):
            counts: Counter[str] = Counter()
            for name, found in sweep:
                known = found in ('accepted', 'refused')
                counts[found if known else 'faults'] += 1
                if not known:
                    print(f'{name} -> {found}', flush=True)
                if time.perf_counter() - start > float(seconds):
                    break
            print(f'{title}: {dict(counts)}, {time.perf_counter() - start:.0f} s', flush=True)
            faults += counts['faults']
    return faults


if __name__ == '__main__':
    sys.exit(min(main(*sys.argv[1:]), 1))
