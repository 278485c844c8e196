"""Golden data as pytest cases: one case a test, compared array by array.

A family's tests are a table from kind to a function that runs our code on one case. What the harness holds to: every
case of the manifest runs, an unknown kind fails, every array of the file is either taken as an input or compared, and
an array that nothing asks for fails by name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent

# (family, kind) -> what is missing. These cases are skipped by name; the table is empty in the end.
PENDING: dict[tuple[str, str], str] = {}

# a name may end in how the array was thinned out or computed: logits_s4, logits_sub2, prob_f64_sub3
SUFFIX = re.compile(r'^(?P<base>.*?)(?P<f64>_f64)?(?:_s(?:ub)?(?P<step>\d+))?$')


def golden_root() -> Path:
    """The folder the environment names, else the one beside the checkout, else the committed subset."""
    named = os.environ.get('MMSEG_TR_GOLDEN')
    if named:
        return Path(named)
    beside = HERE.parents[2] / 'shared' / 'golden'
    return beside if beside.is_dir() else HERE.parent / 'golden'


@dataclass
class Case:
    """One case of a manifest.

    take(name) hands out an input, compare(name, value) holds an output against every array of that name, thinned-out
    ones included; finish() fails for what was neither, and for a case that compared nothing.
    """

    family: str
    folder: Path
    entry: dict
    seen: set[str] = field(default_factory=set)
    compared: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.entry['name']

    @property
    def kind(self) -> str:
        return self.entry['kind']

    @property
    def settings(self) -> dict:
        return self.entry['settings']

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / self.entry['file'], allow_pickle=False) as file:
            return dict(file)

    def release(self) -> Path:
        """The folder of checkpoint.pth and variant.yml, the case's own or the one its settings name."""
        if 'checkpoint' in self.settings:
            return self.folder / self.settings['checkpoint']
        own = [file for file in self.entry.get('files', []) if Path(file).name == 'checkpoint.pth']
        return (self.folder / own[0]).parent

    def meaning(self, name: str) -> str:
        described = self.entry.get('arrays', {}).get(name, '')
        return described if isinstance(described, str) else described.get('meaning', '')

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def take(self, name: str) -> Tensor:
        """An input, as a tensor of its stored type."""
        self.seen.add(name)
        return torch.from_numpy(self.arrays[name])

    def variants(self, base: str) -> dict[str, dict]:
        """Array names that stand for `base`, with what their suffix says."""
        found = {}
        for name in self.arrays:
            match = SUFFIX.match(name)
            if match['base'] == base or name == base:
                plain = name == base
                found[name] = dict(f64=bool(match['f64']) and not plain, step=1 if plain else int(match['step'] or 1))
        return found

    def holds(self, base: str, f64: bool | None = None) -> bool:
        """Whether the case has `base` under any suffix; f64 asks for the float64 run or for the other."""
        found = self.variants(base).values()
        return any(f64 is None or suffix['f64'] == f64 for suffix in found)

    def compare(self, base: str, value, *, f64: bool = False, where: np.ndarray | None = None) -> None:
        """Hold `value` against the arrays named `base` with any suffix, where the case has them.

        f64: value comes from a float64 run and is compared with the arrays of one, at the case's f64_atol.
        where: compare only these elements.
        """
        for name, suffix in self.variants(base).items():
            if suffix['f64'] == f64:
                self.seen.add(name)
                step = suffix['step']
                got = as_array(value)
                self._hold(name, got[..., ::step, ::step] if step > 1 else got, self.arrays[name], f64, where)
        if f'{base}_shape' in self.arrays and not f64:
            self.seen.add(f'{base}_shape')
            self._hold(f'{base}_shape', np.array(as_array(value).shape), self.arrays[f'{base}_shape'], f64, None)

    def _hold(self, name: str, got: np.ndarray, want: np.ndarray, f64: bool, where: np.ndarray | None) -> None:
        self.compared += 1
        if 'batch item 0 only' in self.meaning(name):
            got = got[:1]
        if got.shape != want.shape:
            self.wrong.append(f'{name} has shape {got.shape} instead of {want.shape}')
            return
        if where is not None:
            got, want = got[where], want[where]
        if want.dtype.kind in 'iub':
            if got.dtype.kind not in 'iub':
                self.wrong.append(f'{name} is {got.dtype}, not whole numbers')
            elif not np.array_equal(got, want):
                self.wrong.append(f'{name} differs in {int((got != want).sum())} of {want.size} whole numbers')
            return
        tolerance = self.entry['tolerance']
        atol, rtol = (tolerance.get('f64_atol', 1e-9), 0) if f64 else (tolerance['atol'], tolerance['rtol'])
        close = np.isclose(got, want, atol=atol, rtol=rtol, equal_nan=True)
        if not close.all():
            worst = np.nanmax(np.abs(got - want)[~close])
            self.wrong.append(f'{name} differs in {(~close).sum()} of {want.size} numbers, by {worst:.3g} at worst')

    def expect(self, what: str, got, want) -> None:
        """Hold a plain value against one that the settings name."""
        if got != want:
            self.wrong.append(f'{what} is {got} instead of {want}')

    def finish(self) -> None:
        problems = list(self.wrong)
        unknown = sorted(set(self.arrays) - self.seen)
        if unknown:
            problems.append(f'nothing here knows the arrays {", ".join(unknown)} of kind {self.kind}')
        if not self.compared:
            problems.append('no array was compared')
        if problems:
            pytest.fail(f'{self.family}/{self.name}: ' + '; '.join(problems), pytrace=False)


def as_array(value) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def golden_cases(family: str) -> list:
    """A pytest parameter per case of the family's manifest, its name as id; one that skips where there is no data."""
    folder = golden_root() / family
    manifest = folder / 'manifest.json'
    if not manifest.is_file():
        reason = f'no golden data of family {family}: there is no {manifest} (MMSEG_TR_GOLDEN names another folder)'
        return [pytest.param(None, id='no-golden-data', marks=pytest.mark.skip(reason=reason))]
    parameters = []
    for entry in json.loads(manifest.read_text(encoding='utf-8'))['cases']:
        marks = [pytest.mark.golden(family=family, case=entry['name'], kind=entry['kind'])]
        parameters.append(pytest.param((folder, entry), id=entry['name'], marks=marks))
    return parameters


def run_case(family: str, folder: Path, entry: dict, kinds: dict[str, Callable[[Case], None]]) -> None:
    """Run one case by its kind, or skip it when its kind is not delivered yet."""
    case = Case(family, folder, entry)
    missing = PENDING.get((family, case.kind))
    if missing:
        print(f'{family}/{case.name}: kind {case.kind} waits for {missing}')
        pytest.skip(f'kind {case.kind} waits for {missing}')
    if case.kind not in kinds:
        pytest.fail(f'{family}/{case.name}: kind {case.kind!r} is unknown: {", ".join(kinds)} are known', pytrace=False)
    with torch.no_grad():
        kinds[case.kind](case)
    case.finish()
