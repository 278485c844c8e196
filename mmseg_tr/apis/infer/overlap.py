"""Reading and writing beside the network: one thread each, in order, with a bounded number of pictures in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar('T')
END: Any = object()


def read_ahead(items: Iterable[T], ahead: int) -> Iterator[T]:
    """Yield items in order, taken by a thread of their own: at most `ahead` before they are asked for.

    What taking an item raises is raised here, in its turn. Closing the generator waits for the item that is being taken
    and takes no further one.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, 'read') as pool:
        waiting = deque(pool.submit(next, source, END) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not END:
                waiting.append(pool.submit(next, source, END))
                yield item
        finally:
            for future in waiting:
                future.cancel()


class Writer:
    """Runs jobs in order in a thread of their own, at most `ahead` of them waiting.

    What a job raises is raised by the next add() that has to wait, or at the end. When the `with` block ends with an
    exception, the running job is finished and those that wait are dropped.
    """

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.pool = ThreadPoolExecutor(1, 'write')
        self.waiting: deque[Future] = deque()

    def add(self, job: Callable[..., None], *arguments: Any) -> None:
        """Run job(*arguments) after the jobs before it; wait while too many are left."""
        while len(self.waiting) >= self.ahead:
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(job, *arguments))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self.waiting and kind is None:
                self.waiting.popleft().result()
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)
