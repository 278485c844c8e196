"""Ctrl-C and the signals that end a program, as one KeyboardInterrupt."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name))
QUIET = 5.0  # seconds in which a repeated signal is ignored, so that cleanup is not interrupted

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
    """Return the signal that caused an exception, also where a library turned it into another one; None for others."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return _first[0] if _first else signal.SIGINT
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
