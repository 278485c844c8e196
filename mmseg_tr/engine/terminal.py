"""What a run says on the terminal: warnings, one line of progress, results as a table. Log files get everything.

The environment variable MMSEG_TR_VERBOSE, which the option -v sets, brings mmengine's own output instead.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from mmseg_tr.console import LINE, Pace, verbose

TOOL = 'MMSEG_TR_TOOL'  # set while a tool runs
SHOWN = dict(shown=True)  # `extra` of a log entry that a person needs
# warnings of mmengine about itself, which a user cannot act on
NOISE = (
    'The prefix is not set in metric class', '"FileClient" will be deprecated', '"HardDiskBackend" is the alias',
    '`save_param_scheduler` is True but',
)  # fmt: skip
PACKAGES = r'mm(cv|det|engine|pose|seg)(\.|$)'


def needed(record: logging.LogRecord) -> bool:
    """Whether an entry goes to the terminal: warnings, and what was marked as SHOWN; all if the run is verbose."""
    if verbose():
        return True
    if record.levelno >= logging.WARNING:
        return not any(text in record.getMessage() for text in NOISE)
    return bool(getattr(record, 'shown', False))


def quieten(logger: logging.Logger) -> None:
    """Let only what is needed reach the terminal."""
    for handler in logger.handlers:
        terminal = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        if terminal and needed not in handler.filters:
            handler.addFilter(needed)
            handler.setFormatter(Plain(handler.formatter))


class Plain(logging.Formatter):
    """The text alone, 'warning: ' before a warning; if the run is verbose, as `full` formats it."""

    def __init__(self, full: logging.Formatter | None) -> None:
        super().__init__()
        self.full = full or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        if verbose():
            return self.full.format(record)
        LINE.close()
        text = record.getMessage()
        return f'{record.levelname.lower()}: {text}' if record.levelno >= logging.WARNING else text


def quieten_packages() -> None:
    """In a tool, keep what OpenMMLab's packages say about themselves from the terminal, unless the run is verbose.

    These are entries of mmengine's own logger and warnings raised in their code, which a user cannot act on.
    """
    if not os.environ.get(TOOL):
        return
    quieten(MMLogger.get_current_instance())
    if not verbose():
        warnings.filterwarnings('ignore', module=PACKAGES)


class ProgressLine(Hook):
    """One line with the share done, the rate, the time left and the loss; then the scores as a table."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.pace = Pace()

    def before_train(self, runner: Any) -> None:
        self.begin(runner.iter)

    def before_val_epoch(self, runner: Any) -> None:
        self.begin()

    def before_test_epoch(self, runner: Any) -> None:
        self.begin()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        loss = runner.message_hub.get_scalar('train/loss') if 'train/loss' in runner.message_hub.log_scalars else None
        more = '' if loss is None else f', loss {loss.mean(10):.4f}'
        self.tell('train', runner.iter + 1, runner.max_iters, f'updates/s{{}}{more}')

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.tell('validate', batch_idx + 1, len(runner.val_dataloader), 'batches/s{}')

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.tell('test', batch_idx + 1, len(runner.test_dataloader), 'batches/s{}')

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        LINE.close()
        if metrics:
            print(f'after {runner.iter} updates: {", ".join(_written(metrics))}', flush=True)
        self.begin(runner.iter)

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        LINE.close()
        if metrics:
            console = Console()
            table = score_table(metrics, console.width)
            table.title = os.path.basename(str(runner.cfg.get('filename') or '')) or None
            console.print(table)

    def after_train(self, runner: Any) -> None:
        LINE.close()
        print(f'checkpoints and logs: {runner.work_dir}', flush=True)

    def begin(self, done: int = 0) -> None:
        """Start to measure the rate, with this much done."""
        LINE.begin()
        self.pace = Pace(done)

    def tell(self, what: str, done: int, total: int, units: str) -> None:
        """Show the state, if the last one is old enough."""
        if LINE.due():
            left = f', {self.pace.left(done, total)} left'
            LINE.show(f'{what} {done} of {total}, {self.pace.rate(done)} {units.format(left)}')


def score_table(metrics: Mapping[str, float], width: int) -> Table:
    """Return scores as a table, a column for each; a row for each where a terminal of this width has no room."""
    values = {name: _rounded(value) for name, value in metrics.items()}
    if sum(max(len(name), len(value)) + 3 for name, value in values.items()) < width:
        table = Table(*values)
        table.add_row(*values.values())
        return table
    table = Table('score', 'value')
    for row in values.items():
        table.add_row(*row)
    return table


def _written(metrics: Mapping[str, float]) -> list[str]:
    return [f'{name} {_rounded(value)}' for name, value in metrics.items()]


def _rounded(value: float) -> str:
    """Percent with two decimals, shares with four."""
    return f'{float(value):.{4 if abs(float(value)) <= 1 else 2}f}'
