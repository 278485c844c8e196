"""A signal that ends a program, however the exceptions that it causes come."""

import os
import signal
import threading
import time

import pytest

from mmseg_tr import signals

WORKER = 'DataLoader worker (pid 7) is killed by signal: Terminated. '


@pytest.fixture
def handled():
    with signals.raised_once():
        yield


def later(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_a_signal_is_found_behind_what_a_library_made_of_it(handled):
    with pytest.raises(RuntimeError) as caught:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt as error:
            raise RuntimeError('of a library') from error
    assert signals.stopped_by(caught.value) == signal.SIGTERM


@pytest.mark.parametrize('seconds', [0.05, 0.3])
def test_a_worker_that_ends_first_does_not_hide_the_signal(handled, seconds):
    """A signal to a group reaches its processes one after the other."""
    error = RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly')
    error.__cause__ = RuntimeError(WORKER)
    later(seconds)
    assert signals.stopped_by(error) == signal.SIGTERM


def test_a_signal_that_was_lost_on_the_way_is_known(handled):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signals.stopped_by(RuntimeError(WORKER)) == signal.SIGTERM


def test_other_errors_are_none_and_wait_for_nothing(handled):
    start = time.monotonic()
    assert signals.stopped_by(ValueError('x')) is None
    assert time.monotonic() - start < signals.LATE
    assert signals.stopped_by(RuntimeError(WORKER)) is None  # a worker that ended by itself
