"""Ctrl-C and the signals that end a program, as one KeyboardInterrupt."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mmseg_tr.errors import chain

ENDING = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name))
QUIET = 5.0  # seconds in which a repeated signal is ignored, so that cleanup is not interrupted
LATE = 0.5  # seconds by which a signal to a group of processes may reach one later than another
WORKER = 'DataLoader worker'  # how the message of torch begins when one of its processes has ended

_first: tuple[int, float] | None = None  # number and time of the signal that is being handled


@contextmanager
def raised_once() -> Iterator[None]:
    """Turn the first of SIGINT, SIGTERM and SIGHUP into a KeyboardInterrupt and ignore repeated ones for a while.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    global _first
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _first = None
    before = {number: signal.signal(number, _handle) for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    global _first
    now = time.monotonic()
    if _first is None or now - _first[1] > QUIET:
        _first = _first or (number, now)
        raise KeyboardInterrupt


def ignore() -> None:
    """Ignore these signals: the program is ending."""
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def stopped_by(error: BaseException | None) -> int | None:
    """Return the signal that caused an exception, also where a library turned it into another one; None for others.

    A signal to all processes may end a data-loading process before it reaches this one, which is then waited for.
    """
    try:
        if _ended_worker(error) and not _recent():
            time.sleep(LATE)
        interrupted = any(isinstance(one, KeyboardInterrupt) for one in chain(error))
    except KeyboardInterrupt:  # it came meanwhile
        interrupted = True
    if interrupted or (_ended_worker(error) and _recent()):
        return _first[0] if _first else signal.SIGINT
    return None


def _ended_worker(error: BaseException | None) -> bool:
    return any(str(one).startswith(WORKER) for one in chain(error))


def _recent() -> bool:
    """Whether a signal is being handled."""
    return _first is not None and time.monotonic() - _first[1] < QUIET
