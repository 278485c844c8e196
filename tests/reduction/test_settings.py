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
        (dict(type='ALGMM'), "reduction type must be one of .*ALGM.*got 'ALGMM': did you mean ALGM"),
        (dict(layers=(1, 3)), 'reduction type .*got None'),
        (dict(type=['ALGM']), 'reduction type .*got'),
        ('algn', "reduction type .*got 'algn': did you mean ALGM"),
        (8, 'reduction must be .*got 8'),
        (algm(tau=0.9), "no setting 'tau': its settings are layers, window, threshold, batch"),
        (algm(batch='alone'), "'per_image', 'joint'"),
        (algm(layers=(1, 5)), 'layers=.*from 1 to 4, .*got 5'),
        (algm(layers=(0, 2)), 'layers=.*got 0'),
        (algm(layers=(1, 2.0)), 'layers=.*got 2.0'),
        (algm(layers=(True, 2)), 'layers=.*got True'),
        (algm(layers=(2, 2)), r'layers must .*got \(2, 2\)'),
        (algm(layers=(3, 1)), r'layers must ascend, such as \(1, 3\)'),
        (algm(layers=()), 'layers must .*got .*reduction=None'),
        (algm(layers=3), 'layers must be a list'),
        (algm(layers='13'), 'layers must be a list'),
        (algm(layers=None), 'layers must be a list'),
        (algm(window=(9, 2)), r'window must fit into the patch grid \(8, 8\), got \(9, 2\)'),
        (algm(window=(2, 9)), 'window must fit into the patch grid'),
        (algm(window=(1, 1)), 'window must be .*two patches or more'),
        (algm(window=(0, 4)), 'window must be'),
        (algm(window=2), 'window must be'),
        (algm(window=(2, 2, 2)), 'window must be'),
        (algm(window=(2.0, 2)), 'window must be'),
        (algm(window=None), 'window must be'),
        (algm(threshold=float('nan')), 'threshold must be a number at least -1'),
        (algm(threshold=float('inf')), 'threshold must be a number at least -1'),
        (algm(threshold=-1.01), 'threshold must be a number at least -1'),
        (algm(threshold='0.9'), 'threshold must be a number at least -1'),
        (algm(threshold=True), 'threshold must be a number at least -1'),
        (algm(threshold=None), 'threshold must be a number at least -1'),
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
