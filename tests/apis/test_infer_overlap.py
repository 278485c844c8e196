"""Reading and writing beside the network: order, bounds, errors, and the same files as one step after the other."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip('mmseg')

from PIL import Image

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.images import Picture
from mmseg_tr.apis.infer.overlap import Writer, read_ahead
from mmseg_tr.apis.infer.segment import Segmenting
from mmseg_tr.apis.infer.write import FAST, StillResults, Writing
from mmseg_tr.engine.preprocess import PictureReader
from mmseg_tr.visualization.attention import picture_png
from tests.tiny import write_config

WAIT = 60  # seconds, far more than a picture takes: what is waited for comes, or never


@dataclass(frozen=True)
class Noting(Segmenting):
    """Segments, and lets no step end before the steps that must run beside it have begun.

    beside: by a step, the step that it waits for. begun: the steps in the order in which they began.
    """

    beside: dict = field(default_factory=dict)
    begun: list = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def note(self, *step):
        with self.news:
            self.begun.append(step)
            self.news.notify_all()
            wanted = self.beside.get(step)
            assert self.news.wait_for(lambda: wanted is None or wanted in self.begun, WAIT), f'{step} ran alone'

    def read(self, picture, name=''):
        self.note('read', name)
        return super().read(picture, name)

    def predict(self, requests):
        self.note('predict', requests[0].name)
        return super().predict(requests)

    def draw(self, request, result):
        self.note('write', request.name)
        return super().draw(request, result)


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
    """A tiny model, its reader, and the files of five pictures."""
    folder = tmp_path_factory.mktemp('pictures')
    config = load_config(str(write_config(folder, folder)))
    pixels = np.random.default_rng(0).integers(0, 255, (5, 40, 56, 3), np.uint8)
    files = [folder / f'{number}.png' for number in range(5)]
    for file, picture in zip(files, pixels):
        Image.fromarray(picture).save(file)
    return build_model(config, None).eval(), PictureReader.of(config), files


def write(parts, out, batch_size=1, **options):
    model, reader, files = parts
    task = Noting(model, reader, [[0, 0, 0], [9, 9, 9], [255, 255, 0]], **options)
    pictures = [Picture(file, file.relative_to(file.parent)) for file in files]
    told = []
    writing = Writing(task, batch_size, lambda done, total: told.append(done), lambda failure: None, lambda text: None)
    writing.write({picture: StillResults.of(picture.name, out, Segmenting) for picture in pictures}, [])
    return task, writing, told


def test_the_next_picture_is_read_and_the_last_one_written_while_one_is_predicted(parts, tmp_path):
    beside = {
        ('predict', '0.png'): ('read', '1.png'),
        ('predict', '2.png'): ('read', '3.png'),
        ('write', '0.png'): ('predict', '1.png'),
        ('write', '2.png'): ('predict', '3.png'),
    }
    task, writing, told = write(parts, tmp_path, beside=beside)
    names = [f'{number}.png' for number in range(5)]
    for what in ('read', 'predict', 'write'):
        assert [name for step, name in task.begun if step == what] == names
    for number, name in enumerate(names):  # one is predicted, two are read ahead, two wait to be written
        before = task.begun[: task.begun.index(('read', name))]
        assert sum(step == 'predict' for step, _ in before) >= number - 2
    assert writing.written == 5 and not writing.failures and told == [1, 2, 3, 4, 5]


@pytest.mark.parametrize('batch_size', [1, 2])
def test_files_are_those_of_one_step_after_the_other(parts, tmp_path, batch_size):
    task, _, _ = write(parts, tmp_path, batch_size)
    for start in range(0, 5, batch_size):
        requests = [task.read(file, file.name) for file in parts[2][start : start + batch_size]]
        for request, result in zip(requests, task.predict(requests)):
            assert (tmp_path / 'blend' / request.name).read_bytes() == picture_png(task.draw(request, result), FAST)
            assert (tmp_path / 'label' / request.name).read_bytes() == task.encode(result)


def test_items_come_in_order_and_no_more_than_asked_for_are_taken_ahead():
    taken = []

    def numbers():
        for number in range(6):
            taken.append(number)
            yield number

    ahead = read_ahead(numbers(), 2)
    for number in range(3):
        assert next(ahead) == number
        assert len(taken) <= number + 1 + 2
    ahead.close()
    assert len(taken) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('read')]
    assert list(read_ahead(iter(range(4)), 3)) == [0, 1, 2, 3] and not list(read_ahead([], 3))


def test_what_reading_raises_comes_in_its_turn():
    def broken():
        yield 0
        raise OSError('gone')

    ahead = read_ahead(broken(), 3)
    assert next(ahead) == 0
    with pytest.raises(OSError, match='gone'):
        next(ahead)


def test_an_interrupted_writer_finishes_its_job_and_drops_those_that_wait():
    begun, go, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        assert go.wait(WAIT)
        done.append('first')

    with pytest.raises(KeyboardInterrupt), Writer(2) as writer:
        writer.add(first)
        writer.add(done.append, 'second')
        assert begun.wait(WAIT)
        threading.Timer(0.05, go.set).start()
        raise KeyboardInterrupt
    assert done == ['first']


def test_what_a_job_raises_is_raised_by_the_writer():
    def fail():
        raise OSError('full')

    with pytest.raises(OSError, match='full'), Writer(2) as writer:
        writer.add(fail)
