"""The golden harness itself: what it must not let pass."""

import json

import numpy as np
import pytest

from tests.parity import harness
from tests.parity.harness import Case, golden_cases, golden_root, run_case


@pytest.fixture
def make_case(tmp_path):
    def make(kind='square', tolerance=None, settings=None, **arrays):
        np.savez(tmp_path / 'case.npz', **arrays)
        return tmp_path, dict(
            name='made', kind=kind, file='case.npz', settings=settings or {}, arrays={},
            tolerance=tolerance or dict(atol=1e-5, rtol=0, f64_atol=1e-9),
        )  # fmt: skip

    return make


def square(case: Case) -> None:
    case.compare('out', case.take('x') ** 2)


def failure(folder, entry, kinds=None) -> str:
    with pytest.raises(pytest.fail.Exception) as caught:
        run_case('family', folder, entry, kinds or {'square': square})
    return str(caught.value)


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_equal_arrays_pass_under_every_suffix(make_case):
    wide = np.arange(24, dtype=np.float64).reshape(1, 4, 6)
    thin = dict(out_s2=wide[..., ::2, ::2] ** 2, out_sub3=wide[..., ::3, ::3] ** 2, out_shape=np.array([1, 4, 6]))
    run_case('family', *make_case(x=wide, **thin), {'square': square})


@pytest.mark.parametrize(
    ('arrays', 'said'),
    [
        (dict(x=X, out=X**2 + 1e-4), 'differs in 6 of 6 numbers'),
        (dict(x=X, out=X[:1] ** 2), r'shape (2, 3) instead of (1, 3)'),
        (dict(x=X.astype(int), out=X.astype(int)), 'whole numbers'),
        (dict(x=X, out=X**2, mystery=X), 'knows the arrays mystery'),
        (dict(x=X), 'no array was compared'),
        (dict(x=X, out_f64=X**2), 'out_f64'),
    ],
)
def test_departures_fail_by_name(make_case, arrays, said):
    assert said in failure(*make_case(**arrays))


def test_float64_runs_are_held_to_their_own_tolerance(make_case):
    def sharp(case):
        case.compare('out', case.take('x') + 1e-7, f64=True)

    x = X.astype(np.float64)
    assert 'by 1e-07 at worst' in failure(*make_case(kind='sharp', x=x, out_f64=x), {'sharp': sharp})


def test_unknown_kind_fails(make_case):
    assert "kind 'cube' is unknown" in failure(*make_case(kind='cube', x=X))


def test_pending_kind_is_skipped_with_what_is_missing(make_case, monkeypatch):
    monkeypatch.setitem(harness.PENDING, ('family', 'later'), 'a tool')
    with pytest.raises(pytest.skip.Exception, match='a tool'):
        run_case('family', *make_case(kind='later', x=X), {})


def test_environment_names_the_folder(monkeypatch, tmp_path):
    (tmp_path / 'family').mkdir()
    entry = dict(name='one', kind='square')
    (tmp_path / 'family' / 'manifest.json').write_text(json.dumps(dict(cases=[entry])))
    monkeypatch.setenv('MMSEG_TR_GOLDEN', str(tmp_path))
    assert golden_root() == tmp_path
    (found,) = golden_cases('family')
    assert found.id == 'one' and found.values[0] == (tmp_path / 'family', entry)
    assert found.marks[0].kwargs == dict(family='family', case='one', kind='square')


def test_absent_family_is_skipped_with_a_reason(monkeypatch, tmp_path):
    monkeypatch.setenv('MMSEG_TR_GOLDEN', str(tmp_path))
    (found,) = golden_cases('family')
    assert found.marks[0].name == 'skip' and 'no golden data' in found.marks[0].kwargs['reason']
