"""The terminal shows what a person needs, log files everything."""

import io
import logging
from types import SimpleNamespace

import pytest
import rich.console

from mmseg_tr import console
from mmseg_tr.console import VERBOSE
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
    clock = [0]
    monkeypatch.setattr(console.time, 'perf_counter', lambda: clock[0])
    line = ProgressLine()
    runner = SimpleNamespace(
        iter=79, max_iters=200, work_dir='work', cfg=dict(filename='a/algm.py'),
        message_hub=SimpleNamespace(log_scalars={}, get_scalar=None),
    )  # fmt: skip
    line.before_train(SimpleNamespace(iter=0))
    clock[0] = 40
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

    monkeypatch.setenv(VERBOSE, '')
    parser = argparse.ArgumentParser()
    verbose_argument(parser)
    assert not console.verbose()
    parser.parse_args([option])
    assert console.verbose()


def test_texts_that_count_get_rate_and_time_left_and_others_stay(monkeypatch):
    clock, counted = [0], console.Counted()
    monkeypatch.setattr(console.time, 'perf_counter', lambda: clock[0])
    assert counted('building') == 'building'
    assert counted('testing 4 of 24 images') == 'testing 4 of 24 images'
    clock[0] = 5
    assert counted('testing 14 of 24 images') == 'testing 14 of 24 images, 2/s, 0:00:05 left'
    assert counted('testing 2 of 24 images') == 'testing 2 of 24 images'  # the same from the start
    clock[0] = 10
    assert counted('testing 3 of 24 images') == 'testing 3 of 24 images, 0.2/s, 0:01:45 left'
    assert counted('full set: testing 14 of 24 images') == 'full set: testing 14 of 24 images'  # other work


def test_many_scores_are_rows_and_no_name_is_cut(capsys):
    scores = {f'coco/AP @{number}': number / 10 for number in range(12)}
    for width in (40, 80, 500):
        rich.console.Console(width=width).print(terminal.score_table(scores, width))
        said = capsys.readouterr().out
        assert all(name in said for name in scores) and '0.3000' in said and '…' not in said
        assert len(said.splitlines()) == (5 if width == 500 else 16)


def test_a_line_fits_the_terminal_and_leaves_it_clean_and_a_file_gets_no_control_characters(monkeypatch):
    long = 'train 80 of 200 ' * 20
    for live, width in ((True, 20), (False, 80)):
        stream = io.StringIO()
        stream.isatty = lambda live=live: live
        monkeypatch.setattr(console.sys, 'stderr', stream)
        monkeypatch.setattr(console, 'width', lambda width=width: width)
        line = console.Line()
        line.show(long)
        line.close()
        text = stream.getvalue()
        assert text == (f'\r{long[:19]}\x1b[K\r\x1b[K' if live else f'{long}\n')


def test_an_error_stands_alone_where_a_line_of_progress_was(monkeypatch):
    from mmseg_tr.cli.options import run_tool
    from mmseg_tr.errors import ConfigError

    def main(argv):
        console.LINE.show('train 80 of 200')
        raise ConfigError('no such key.')

    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(console.sys, 'stderr', stream)
    assert run_tool(main) == 2
    screen = stream.getvalue().rpartition('\x1b[K')
    assert screen[0].endswith('\r') and screen[2].strip().endswith(': no such key.') and not console.LINE.open
