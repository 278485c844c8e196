"""A signal that ends a program, however the exceptions that it causes come."""

import os
import signal
import subprocess
import threading
import time
from pickle import UnpicklingError

import pytest

from mmseg_tr import signals
from mmseg_tr.errors import ConfigError, DatasetError


@pytest.fixture
def handled():
    with signals.raised_once():
        yield


@pytest.fixture
def patient(monkeypatch):
    """For tests in which a signal comes: a busy machine may bring it late."""
    monkeypatch.setattr(signals, 'LATE', 20)


def later(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_a_signal_is_found_behind_what_a_library_made_of_it(handled):
    with pytest.raises(RuntimeError) as caught:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        except KeyboardInterrupt as error:
            raise RuntimeError('of a library') from error
    assert signals.stopped_by(caught.value) == signal.SIGTERM


def of_torch() -> RuntimeError:
    error = RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly')
    error.__cause__ = RuntimeError('DataLoader worker (pid 7) is killed by signal: Terminated. ')
    return error


@pytest.mark.parametrize('seconds', [0.05, 0.3])
@pytest.mark.parametrize(
    'error',
    [of_torch(), ConnectionResetError(104, 'reset'), EOFError(), FileNotFoundError(2, 'no socket'), UnpicklingError()],
    ids=lambda error: type(error).__name__,
)
def test_a_process_that_ends_first_does_not_hide_the_signal(handled, patient, error, seconds):
    """A signal to a group reaches its processes one after the other, and what fails for want of one can be anything."""
    later(seconds)
    assert signals.stopped_by(error) == signal.SIGTERM


def test_a_signal_that_was_lost_on_the_way_is_known(handled):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    assert signals.stopped_by(EOFError()) == signal.SIGTERM
    assert signals.stopped_by(DatasetError('of a reader that lost its process')) == signal.SIGTERM


class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)


def test_a_signal_during_a_destructor_is_not_dropped(handled):
    with pytest.raises(KeyboardInterrupt):
        one = Destroyed()
        del one
        time.sleep(20)
        pytest.fail('the signal was dropped')
    assert signals.stopped_by(KeyboardInterrupt()) == signal.SIGTERM


class Failing:
    def __del__(self):
        later(0.1)
        raise EOFError('of a process that ended first')


def test_what_a_destructor_misses_of_an_ended_process_is_not_shown(handled, patient, capfd):
    with pytest.raises(KeyboardInterrupt):
        one = Failing()
        del one
        time.sleep(20)
        pytest.fail('the signal was dropped')
    assert capfd.readouterr().err == ''


def test_other_exceptions_of_destructors_are_shown(monkeypatch):
    shown = []
    monkeypatch.setattr('sys.unraisablehook', lambda dropped: shown.append(dropped.exc_type))
    with signals.raised_once():
        monkeypatch.setattr(f'{__name__}.later', lambda seconds: None)
        one = Failing()
        del one
    assert shown == [EOFError]


def raises(number, frame):
    raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Terminated. ')


@pytest.mark.parametrize('before', [0, 0.05])
def test_processes_that_the_signal_ends_raise_nothing(patient, before):
    """torch raises from its handler of SIGCHLD, wherever the program is by then."""
    known = signal.signal(signal.SIGCHLD, raises)
    try:
        with signals.raised_once():
            child = subprocess.Popen(['sleep', '60'])
            try:
                child.terminate()
                time.sleep(before)
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(20)
            except (KeyboardInterrupt, RuntimeError) as error:
                if isinstance(error, RuntimeError):  # raised before this process sent itself the signal
                    later(0.1)
                assert signals.stopped_by(error) == signal.SIGTERM
            time.sleep(0.2)
            child.wait()
        assert signal.getsignal(signal.SIGCHLD) is raises
    finally:
        signal.signal(signal.SIGCHLD, known)


def test_mistakes_wait_for_nothing_and_other_errors_not_long(handled):
    start = time.monotonic()
    assert signals.stopped_by(ConfigError('x')) is None
    assert signals.stopped_by(None) is None
    assert time.monotonic() - start < signals.LATE
    assert signals.stopped_by(of_torch()) is None  # a process that ended by itself


def test_nothing_is_remembered_after_the_run(handled):
    with pytest.raises(KeyboardInterrupt), signals.raised_once():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    assert signals.stopped_by(ConfigError('x')) is None
