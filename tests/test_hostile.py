"""A part of the sweeps of tests/hostile.py and tests/hostile_texts.py: nothing runs, nothing is lost, one sentence."""

import random

import mmengine.config.config
import pytest

from tests import hostile, hostile_texts

QUICK = ('test', 'train --resume', 'pretrained=', 'convert_checkpoint', 'Predictor', 'save_pretrained', 'open_model')


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.config, 'FormatCode', lambda text, **_: (text, True))
        with hostile.room(tmp_path_factory.mktemp('hostile')) as here:
            yield here


def test_every_kind_of_hostile_file_by_a_way_that_is_drawn(here):
    drawn = random.Random(1)
    ways = {kind: drawn.choice(QUICK) for kind in hostile.KINDS if drawn.random() < 0.4 or kind.startswith('python')}
    found = {(way, kind): hostile.outcome(here, way, kind) for kind, way in ways.items()}
    assert {trial: what for trial, what in found.items() if what not in hostile.KNOWN} == {}
    assert len(found) > 60 and set(found.values()) == set(hostile.KNOWN)


def test_texts_with_other_values_and_nested_ones_are_read_or_refused_in_one_sentence(tmp_path):
    slow = ('list of logs', 'log', 'transformers config')
    found = list(hostile_texts.sweep(tmp_path, lambda name, number: number % (300 if name in slow else 29) == 7))
    assert [trial for trial in found if trial[2] not in hostile.KNOWN] == []
    assert len({name for name, _, _ in found}) > 9 and len(found) > 60
