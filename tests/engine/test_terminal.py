"""The terminal shows what a person needs, log files everything."""

import io
import logging
from types import SimpleNamespace

import pytest

from mmseg_tr.engine import terminal
from mmseg_tr.engine.terminal import SHOWN, ProgressLine, quieten


def test_the_terminal_gets_warnings_and_what_is_marked_and_the_file_gets_all(tmp_path):
    logger, stream = logging.Logger('run'), io.StringIO()
    logger.addHandler(logging.StreamHandler(stream))
    logger.addHandler(logging.FileHandler(tmp_path / 'run.log'))
    quieten(logger)
    quieten(logger)
    logger.info('hooks in a table')
    logger.info('scores are in scores.yml', extra=SHOWN)
    logger.warning('labels were checked in part')
    logger.warning('The prefix is not set in metric class IoUMetric.')
    assert stream.getvalue().splitlines() == ['scores are in scores.yml', 'warning: labels were checked in part']
    assert len((tmp_path / 'run.log').read_text().splitlines()) == 4


def test_one_line_shows_rate_and_time_left_and_scores_are_a_table(capsys, monkeypatch):
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr(terminal.time, 'perf_counter', lambda: next(clock))
    line = ProgressLine()
    runner = SimpleNamespace(
        iter=79, max_iters=200, work_dir='work', cfg=dict(filename='a/algm.py'),
        message_hub=SimpleNamespace(log_scalars={}, get_scalar=None),
    )  # fmt: skip
    line.before_train(SimpleNamespace(iter=0))
    line.after_train_iter(runner, 79)
    line.after_test_epoch(runner, dict(mIoU=66.604))
    line.after_train(runner)
    out, err = capsys.readouterr()
    assert err.splitlines() == ['train 80 of 200, 2 updates/s, 0:01:00 left']
    assert 'mIoU' in out and '66.60' in out and 'algm.py' in out and 'work' in out


@pytest.mark.parametrize('option', ['-v', '--verbose'])
def test_verbose_sets_the_variable(option, monkeypatch):
    import argparse

    from mmseg_tr.cli.options import verbose_argument

    monkeypatch.setenv(terminal.VERBOSE, '')
    parser = argparse.ArgumentParser()
    verbose_argument(parser)
    assert not terminal.verbose()
    parser.parse_args([option])
    assert terminal.verbose()
