"""Ctrl-C and the signals that end a program, as one KeyboardInterrupt."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmseg_tr.errors import InputError, WriteError, chain

ENDING = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name))
QUIET = 5.0  # seconds in which a repeated signal is ignored, so that cleanup is not interrupted
LATE = 0.5  # seconds by which a signal to a group of processes may reach one later than another

_first: tuple[int, float] | None = None  # number and time of the signal that is being handled
_of_children: Any = None  # what handled the ends of child processes until that signal came


@contextmanager
def raised_once() -> Iterator[None]:
    """Turn the first of SIGINT, SIGTERM and SIGHUP into a KeyboardInterrupt and ignore repeated ones for a while.

    Python drops an exception that is raised inside a destructor; the signal is then sent again. Outside the main
    thread, where Python allows no handlers, nothing changes.
    """
    global _first, _of_children
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _first = None
    before = {number: signal.signal(number, _handle) for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    hook = sys.unraisablehook
    sys.unraisablehook = lambda dropped: _dropped(dropped, hook)
    try:
        yield
    finally:
        _first, sys.unraisablehook = None, hook
        if _of_children is not None:
            before[signal.SIGCHLD], _of_children = _of_children, None
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    global _first, _of_children
    now = time.monotonic()
    if _of_children is None:
        # torch would raise, wherever the program is by then, for each of its processes that the same signal ends
        _of_children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if _first is None or now - _first[1] > QUIET:
        _first = _first or (number, now)
        raise KeyboardInterrupt


def _dropped(dropped: sys.UnraisableHookArgs, hook: Callable[[sys.UnraisableHookArgs], object]) -> None:
    """Send a signal again that a destructor dropped; show other exceptions unless they come from ending."""
    global _first
    came = _first is None and issubclass(dropped.exc_type, Exception) and _comes()
    if _first is None:
        hook(dropped)
    elif came or issubclass(dropped.exc_type, KeyboardInterrupt):
        number, _first = _first[0], None
        # A little later: raised at once, it would end in this hook and be dropped as well.
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


def ignore() -> None:
    """Ignore these signals, and what destructors raise: the program is ending."""
    sys.unraisablehook = lambda dropped: None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def stopped_by(error: BaseException | None) -> int | None:
    """Return the signal that caused an exception, also where a library turned it into another one; None for others.

    A signal to a group may end another process before it reaches this one, and what fails then for want of that
    process can be any exception. So the signal is waited for, unless the exception is one of this package, which
    names its cause.
    """
    interrupted = any(isinstance(one, KeyboardInterrupt) for one in chain(error))
    if not interrupted and isinstance(error, Exception) and not isinstance(error, InputError | WriteError):
        interrupted = _comes()
    if error is None or not (interrupted or _first is not None):
        return None
    return _first[0] if _first else signal.SIGINT


def _comes() -> bool:
    """Wait for a signal; returns whether one came."""
    end = time.monotonic() + LATE
    while _first is None and time.monotonic() < end:
        try:
            time.sleep(LATE / 50)
        except KeyboardInterrupt:
            return True
        except RuntimeError:  # torch's, for another process that ended
            continue
    return _first is not None
