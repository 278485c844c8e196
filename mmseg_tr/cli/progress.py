"""What a tool shows while it works: a line with rate and time left on a terminal, a line now and then in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from mmseg_tr.console import Counted, Line


@contextmanager
def working(first: str, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show `first`, and inside the block the texts that the yielded function gets, until it ends.

    console: by default one on stderr.
    """
    console, line, counted = console or Console(stderr=True), Line(), Counted()
    with console.status(first) as status:

        def tell(text: str) -> None:
            text = counted(text)
            if console.is_terminal:
                status.update(escape(text))
            elif line.due():
                line.show(text)

        yield tell
