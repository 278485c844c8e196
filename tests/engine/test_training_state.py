"""What is taken up from a checkpoint: never text that is run, never a path; and damaged states are told at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.engine.training_state import check_training_state, keep_training_state, overruled, own_name
from mmseg_tr.errors import CheckpointError

SOUND = dict(
    meta=dict(epoch=0, iter=4, seed=0, config='run me', cfg='text', time='now'),
    message_hub=dict(
        log_scalars={'loss': dict(log_history=torch.ones(2), count_history=torch.ones(2), max_length=9), 'odd': 3},
        runtime_info=dict(
            best_ckpt='/elsewhere/best_mIoU_iter_2.pth', last_ckpt='/x.pth', keep_ckpt_ids=[2, '../3', -1, True]
        ),
        resumed_keys=dict(loss=True),
    ),
    optimizer={},
    state_dict={},
)  # fmt: skip
VALUES = st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(), max_size=2) | st.floats()
PLACES = ('meta', 'meta.iter', 'meta.epoch', 'meta.seed', 'message_hub', 'message_hub.log_scalars',
          'message_hub.runtime_info', 'message_hub.resumed_keys', 'optimizer', 'param_schedulers')  # fmt: skip


def changed(place, value):
    content = {key: dict(part) for key, part in SOUND.items()}
    *folders, name = place.split('.')
    (content[folders[0]] if folders else content)[name] = value
    return content


def test_only_what_resuming_needs_is_kept():
    content = changed('state_dict', {})
    keep_training_state(content)
    assert content['meta'] == dict(epoch=0, iter=4, seed=0)
    hub = content['message_hub']
    assert hub['runtime_info'] == dict(best_ckpt='best_mIoU_iter_2.pth', keep_ckpt_ids=[2])
    assert list(hub['log_scalars']) == ['loss']
    keep_training_state(content)
    assert content['message_hub']['runtime_info'] == hub['runtime_info']


@pytest.mark.parametrize(
    'path',
    ['/home/me/thesis', '../best', 'iter_3.pth', 'best_/..', 3, None, 'C:\\best', 'best_x/y.pth/', ['best_a.pth']],
)
def test_no_other_file_is_a_best_checkpoint(path):
    assert own_name(path) is None


@pytest.mark.parametrize('path', ['best_mIoU_iter_2.pth', '/a/b/best_PCK@0.1_epoch_3.pth', 'C:\\w\\best_x_iter_1.pth'])
def test_a_best_checkpoint_is_known_by_its_name(path):
    assert own_name(path).startswith('best_') and '/' not in own_name(path) and '\\' not in own_name(path)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_a_state_is_sound_or_refused_in_one_sentence(place, value):
    content = changed(place, value)
    try:
        check_training_state(content, 'file.pth', 10)
    except CheckpointError as error:
        assert 'file.pth' in str(error)
    else:
        keep_training_state(content)


def test_a_training_longer_than_the_config_is_refused():
    with pytest.raises(CheckpointError, match='max_iters=3'):
        check_training_state(SOUND, 'file.pth', 3)


def test_settings_that_are_not_taken_up_are_named():
    assert overruled(dict(lr=1, power=2), dict(lr=1, power=3)) == [
        'power=2 of the config is not in force: the resumed training continues with 3'
    ]
