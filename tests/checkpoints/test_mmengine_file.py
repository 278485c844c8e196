"""Classes and colours in the meta of a checkpoint that mmengine wrote."""

import math

import pytest

from mmseg_tr.checkpoints.mmengine_file import class_names

GOOD = dict(classes=('road', 'car'), palette=[[0, 1, 2], (3, 4, 255)])


@pytest.mark.parametrize('spelling', [dict(dataset_meta=GOOD), {key.upper(): value for key, value in GOOD.items()}])
def test_names_and_colours_become_plain_lists(spelling, recwarn):
    assert class_names(spelling) == dict(classes=['road', 'car'], palette=[[0, 1, 2], [3, 4, 255]])
    assert class_names({}) == class_names(None) == {}
    assert not recwarn


@pytest.mark.parametrize('key', ['classes', 'palette'])
@pytest.mark.parametrize('wrong', ['road', 7, [None], [[0, 1]], [[0, 1, 256]], [[0, 1, math.nan]], {1: 2}, [b'road']])
def test_what_is_not_valid_is_left_out_and_named(key, wrong):
    with pytest.warns(UserWarning, match=f'{key} .*left out'):
        found = class_names(dict(dataset_meta={**GOOD, key: wrong}))
    assert set(found) == {'classes', 'palette'} - {key}


def test_a_dataset_meta_that_is_no_dict_is_named():
    with pytest.warns(UserWarning, match='dataset_meta must|dataset_meta .*left out'):
        assert class_names(dict(dataset_meta=['road'])) == {}
