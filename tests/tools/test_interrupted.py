"""A training killed at any moment leaves its last complete checkpoint, and --resume reaches the same end."""

import json
import os
import signal
from pathlib import Path

import pytest

import mmseg_tr.apis.train  # noqa: F401  which the forks then need not import
from tests.tools import interrupted
from tests.tools.command import fork, use_cpu


@pytest.fixture(scope='module')
def lines(tmp_path_factory):
    """What the program prints: a line for every training."""
    folder = tmp_path_factory.mktemp('interrupted')
    printed = folder / 'lines.txt'
    child = fork(printed, lambda: run(folder), seconds=900)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = printed.read_text()
    logs = ''.join(path.read_text()[-2000:] for path in folder.glob('*.log')) if status else ''
    assert status == 0, text + logs
    return [json.loads(line) for line in text.splitlines() if line.startswith('{')]


def run(folder: Path) -> int:
    """Run the program on the CPU, as `python -m tests.tools.interrupted` would."""
    use_cpu()
    interrupted.main(folder)
    return 0


@pytest.fixture(scope='module')
def trainings(lines):
    """The undisturbed training, and the list of those that were killed and resumed."""
    whole, *killed = (line for line in lines if 'moment' in line)
    return whole, killed


def test_the_moments_cover_the_training_and_were_deadly(trainings):
    whole, killed = trainings
    assert whole['ended'] == 0
    assert whole['steps'] > 40
    at_steps = [training for training in killed if 'fatal' in training['moment']]
    assert len(at_steps) >= 10
    assert all(training['ended'] == signal.SIGKILL for training in at_steps)
    assert {training['left']['iter'] for training in at_steps} == {0, 1, 2, 3}


def test_what_is_left_is_complete(trainings):
    """Every file loaded, or the program would have failed; the last checkpoint's best one is there too."""
    for training in trainings[1]:
        if training['left'] and training['left']['iter']:
            assert training['left']['best_is_there'], training


def test_resuming_reaches_the_same_end(trainings):
    whole, killed = trainings
    for training in killed:
        assert training['resumed'] == 0, training
        assert training['end']['weights'] == whole['end']['weights'], training
        # A best checkpoint may be left over: none is ever removed that the last checkpoint does not know.
        names = [name for name in training['end']['names'] if not name.startswith('best')]
        assert names == ['iter_3.pth'], training
        assert training['end']['best_is_there'], training


def test_a_signal_ends_a_training_in_one_line_that_says_how_to_continue(lines):
    """Ctrl-C reaches the worker processes too, and may come again while they end."""
    signalled = [line for line in lines if 'signal' in line]
    assert len(signalled) == 3
    for training in signalled:
        assert training['ended'] == 128 + training['signal'], training
        (line,) = training['said']
        assert line.startswith('train.py: interrupted') and line.endswith('--resume'), line
        # the one that last_checkpoint names, which a newer one may just have joined
        assert any(path in line for path in training['left']), line
