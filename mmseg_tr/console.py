"""What a tool may say on the terminal: whether other packages print there, and how far long work is."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress

VERBOSE = 'MMSEG_TR_VERBOSE'
EVERY, EVERY_IN_A_FILE = 0.5, 30.0  # seconds between two states of a line
COUNTED = re.compile(r'(.*?)(\d+) of (\d+)')


def verbose() -> bool:
    """Whether the output of other packages is asked for."""
    return bool(os.environ.get(VERBOSE))


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what other packages print inside, such as pycocotools' steps, unless the run is verbose."""
    with nullcontext() if verbose() else redirect_stdout(io.StringIO()):
        yield


class Pace:
    """Rate and time left of work that is counted."""

    def __init__(self, done: int = 0) -> None:
        self.start, self.first = time.perf_counter(), done

    def per_second(self, done: int) -> float:
        """Return how much is done per second."""
        return (done - self.first) / max(time.perf_counter() - self.start, 1e-9)

    def rate(self, done: int) -> str:
        """Return the same with three digits, '2.35'."""
        rate = self.per_second(done)
        return f'{rate:.0f}' if rate >= 1000 else f'{rate:.3g}'

    def left(self, done: int, total: int) -> str:
        """Return the time that the rest takes at this rate, '0:01:20'; a dash before anything is done."""
        rate = self.per_second(done)
        if rate <= 0:
            return '-'
        seconds = int(max(total - done, 0) / rate)
        return f'{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}'


class Counted:
    """Adds rate and time left to texts that count, such as 'testing 3 of 24 images'."""

    def __init__(self) -> None:
        self.what: tuple[str, int] | None = None
        self.last, self.pace = 0, Pace()

    def __call__(self, text: str) -> str:
        """Return the text, with rate and time left from the second of a kind on."""
        found = COUNTED.search(text)
        if found is None:
            return text
        what, done, total = found[1], int(found[2]), int(found[3])
        if self.what != (what, total) or done < self.last:  # other work, or the same from the start
            self.what, self.pace = (what, total), Pace(done)
        self.last = done
        if done <= self.pace.first:
            return text
        return f'{text}, {self.pace.rate(done)}/s, {self.pace.left(done, total)} left'


class Line:
    """One line on a terminal, replaced by its next state; in a file a line now and then."""

    def __init__(self) -> None:
        self.last, self.open = time.perf_counter(), False

    def begin(self) -> None:
        """Remove the line; the first state of other work is due after the usual time."""
        self.close()
        self.last = time.perf_counter()

    def due(self) -> bool:
        """Whether the last state is old enough for another one."""
        return time.perf_counter() - self.last >= (EVERY if sys.stderr.isatty() else EVERY_IN_A_FILE)

    def show(self, text: str) -> None:
        """Show a state, cut to the width of the terminal."""
        self.last, self.open = time.perf_counter(), sys.stderr.isatty()
        if self.open:
            print(f'\r{text[: width() - 1]}\x1b[K', end='', file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the line from the terminal."""
        if self.open:
            print('\r\x1b[K', end='', file=sys.stderr, flush=True)
            self.open = False


LINE = Line()  # a terminal has one


def width() -> int:
    """Columns of the terminal that stderr is; 80 where they are not known."""
    with suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80
