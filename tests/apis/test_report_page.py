"""What the report's page holds; tests/tools/test_report.py clicks through it."""

import base64
import json
import zlib

import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmseg_tr.apis.report import Report, Seen, Shown, labels_of
from mmseg_tr.apis.report.page import Arrays, explain, page_data, render
from mmseg_tr.reduction.observe import Merged
from mmseg_tr.visualization.pixels import resized

METHODS = {'segmenter': {}, 'tome': dict(type='ToMe', form='dense', r=0.3), 'other': dict(type='ToMe', r=8)}
ROWS = (
    dict(
        name='segmenter', method='plain', settings={}, miou=50.0, gmacs=0.4, fps=100.0, throughput=None, agreement=100
    ),
    dict(name='tome', method='ToMe', settings=METHODS['tome'], miou=49.5, gmacs=0.3, fps=150.0, throughput=None),
)


def seen(prediction):
    groups = np.arange(16).reshape(4, 4)
    return Seen(
        np.full((8, 8), prediction, np.uint8),
        [Merged(1, 'layer 1', '', groups, 16), Merged(2, 'layer 2', '', groups, 16)],
    )


def report(**changes):
    picture = Shown('a </script><b>', np.zeros((8, 8, 3), np.uint8), None, dict(zip(METHODS, map(seen, (0, 1, 1)))))
    settings = dict(
        title='T', summary='S', methods=METHODS, pictures=[picture], classes=['x', 'y'], palette=[[0, 0, 0], [9, 9, 9]]
    )
    return Report(**settings | changes)


def held(page):
    """The data inside a page, as its script reads it."""
    text = page.partition('<script type="application/json" id="data">')[2].partition('</script>')[0]
    return json.loads(text)


def test_methods_of_one_type_are_told_apart():
    assert labels_of(METHODS) == {'segmenter': 'plain', 'tome': 'ToMe, dense', 'other': 'ToMe, r=8'}
    assert labels_of({'a': dict(type='ACT'), 'b': dict(type='ACT')}) == {'a': 'ACT, a', 'b': 'ACT, b'}


def test_a_name_cannot_end_the_script():
    page = render(report())
    assert held(page)['pictures'][0]['name'] == 'a </script><b>'
    assert page.count('</script>') == 2


def test_equal_arrays_are_kept_once_and_come_back():
    data = page_data(report())
    seen = data['pictures'][0]['seen']
    assert seen[1]['prediction'] == seen[2]['prediction'] != seen[0]['prediction']
    assert len({entry['groups'] for method in seen for entry in method['entries']}) == 1
    assert [method['changed'] for method in seen] == [0.0, 1.0, 1.0]
    raw = zlib.decompress(base64.b64decode(data['arrays'][seen[0]['entries'][0]['groups']]))
    assert np.array_equal(np.frombuffer(raw, '<i2').reshape(4, 4), np.arange(16).reshape(4, 4))


def test_many_groups_take_wider_numbers():
    arrays = Arrays()
    assert arrays.add(np.array([70000]), '<i4') == 0 == arrays.add(np.array([70000]), '<i4')
    groups = np.arange(200 * 200).reshape(200, 200)
    merged = [Merged(1, 'layer 1', '', groups, groups.size)]
    prediction = np.zeros((200, 200), np.uint8)
    picture = Shown('a', np.zeros((200, 200, 3), np.uint8), None, dict.fromkeys(METHODS, Seen(prediction, merged)))
    entry = page_data(report(pictures=[picture]))['pictures'][0]['seen'][0]['entries'][0]
    assert entry['wide']


def test_points_are_explained_against_the_plain_model():
    compared = report(rows=ROWS, about=dict(batch_size=8))
    told = dict(explain(ROWS[1], compared))
    assert told['mIoU'] == '49.5 % (-0.5 points)'
    assert told['images/s, single'] == '150 (1.50 times the plain model)'
    assert told['GMACs'] == '0.300 (-25 %)'
    assert told['settings'] == 'form=dense, r=0.3'
    assert dict(explain(ROWS[0], compared))['mIoU'] == '50.0 %'


def test_only_what_every_row_has_becomes_an_axis():
    data = page_data(report(rows=ROWS, about=dict(batch_size=8)))
    assert list(data['axes']) == ['fps', 'gmacs']
    assert page_data(report())['axes'] == {}


def test_labels_keep_their_classes_at_another_size():
    label = np.array([[0, 255], [7, 3]], np.uint8)
    large = resized(label, (4, 6))
    assert large.shape == (4, 6) and set(np.unique(large)) == {0, 3, 7, 255}
