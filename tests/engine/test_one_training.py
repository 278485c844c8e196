"""A folder holds one training at a time, and is free again however that ends."""

import os
import signal
import time
from multiprocessing import get_context

import pytest

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmseg_tr.engine.start import one_training
from mmseg_tr.errors import ConfigError

FORK = get_context('fork')


def hold(folder, ready):
    with one_training(str(folder)):
        if os.fork():  # as a data-loading process, which may outlive a training that is killed
            ready.set()
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """Another training into tmp_path."""
    ready = FORK.Event()
    process = FORK.Process(target=lambda: (os.setpgid(0, 0), hold(tmp_path, ready)))
    process.start()
    assert ready.wait(60)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def test_a_second_training_is_refused_and_a_killed_one_holds_nothing(other, tmp_path):
    for _ in range(2):
        with pytest.raises(ConfigError, match='in use') as caught, one_training(str(tmp_path)):
            pytest.fail('two trainings share a folder')
        assert str(tmp_path) in str(caught.value) and caught.value.parameters == ('work_dir',)
    with one_training(str(tmp_path / 'next')):
        pass
    os.kill(other.pid, signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with one_training(str(tmp_path)):
        pass


def test_one_after_the_other_and_a_mistake_between_is_no_matter(tmp_path):
    with pytest.raises(ValueError, match='mistake'), one_training(str(tmp_path)):
        raise ValueError('mistake')
    for _ in range(2):
        with one_training(str(tmp_path)):
            pass


def test_a_link_in_place_of_the_lock_overwrites_nothing(tmp_path):
    (tmp_path / 'thesis').write_text('x')
    (tmp_path / '.training.lock').symlink_to('thesis')
    with one_training(str(tmp_path)):
        pass
    assert (tmp_path / 'thesis').read_text() == 'x'


def test_a_file_in_place_of_the_folder_is_left_to_the_run_to_tell(tmp_path):
    (tmp_path / 'file').write_text('x')
    with one_training(str(tmp_path / 'file')):
        pass
