"""Settings that a method refuses when the model is built, each in a sentence that names what is allowed."""

from __future__ import annotations

import pytest

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction import ALGM, build_reduction
from tests.reduction.methods import METHODS, tiny_vit


def algm(**settings) -> dict:
    return dict(type='ALGM', layers=(1, 3), window=(2, 2), threshold=0.9) | settings


@pytest.mark.parametrize(
    ('reduction', 'said'),
    [
        (dict(type='ALGMM'), "'ALGMM' is unknown: it is one of .*ALGM"),
        (dict(layers=(1, 3)), 'None is unknown'),
        (dict(type=['ALGM']), 'is unknown'),
        ('ALGM', "write for example reduction=dict\\(type='ALGM'"),
        (algm(tau=0.9), "no setting 'tau': its settings are layers, window, threshold, batch"),
        (algm(batch='alone'), "'per_image', 'joint'"),
        (algm(layers=(1, 5)), 'holds 5: .* from 1 to 4, the depth of the backbone'),
        (algm(layers=(0, 2)), 'holds 0'),
        (algm(layers=(1, 2.0)), 'holds 2.0'),
        (algm(layers=(True, 2)), 'holds True'),
        (algm(layers=(2, 2)), 'twice'),
        (algm(layers=(3, 1)), r'must ascend: write layers=\(1, 3\)'),
        (algm(layers=()), 'leave reduction=None'),
        (algm(layers=3), 'no list of layer numbers'),
        (algm(layers='13'), 'no list of layer numbers'),
        (algm(layers=None), 'no list of layer numbers'),
        (algm(window=(9, 2)), r'larger than the patch grid \(8, 8\)'),
        (algm(window=(2, 9)), 'larger than the patch grid'),
        (algm(window=(1, 1)), 'two patches or more'),
        (algm(window=(0, 4)), 'is no window'),
        (algm(window=2), 'is no window'),
        (algm(window=(2, 2, 2)), 'is no window'),
        (algm(window=(2.0, 2)), 'is no window'),
        (algm(window=None), 'is no window'),
        (algm(threshold=float('nan')), 'finite number from -1 on'),
        (algm(threshold=float('inf')), 'finite number from -1 on'),
        (algm(threshold=-1.01), 'finite number from -1 on'),
        (algm(threshold='0.9'), 'finite number from -1 on'),
        (algm(threshold=True), 'finite number from -1 on'),
        (algm(threshold=None), 'finite number from -1 on'),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(reduction, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(reduction)


def test_threshold_above_one_is_allowed_with_a_warning():
    with pytest.warns(UserWarning, match='above 1: no window is that similar, so nothing merges locally'):
        assert ALGM(threshold=1.5).threshold == 1.5


@pytest.mark.parametrize('threshold', [-1, 0, 1, 0.88])
def test_thresholds_of_cosines_are_accepted_in_silence(threshold, recwarn):
    assert ALGM(threshold=threshold).threshold == threshold
    assert not recwarn


@pytest.mark.parametrize('method', METHODS, ids=str)
def test_settings_are_not_consumed_and_lists_do_as_well_as_tuples(method):
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in method.settings.items()}
    before = dict(settings)
    first, second = build_reduction(settings), build_reduction(settings)
    assert settings == before and vars(first) == vars(second)
    assert build_reduction(first) is first and build_reduction(None) is None
