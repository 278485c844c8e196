"""tools/plot_logs.py: logs of both kinds in one picture, and one sentence for every mistake."""

import json

import pytest

pytest.importorskip('matplotlib')
pytest.importorskip('mmseg')

from PIL import Image

from mmseg_tr.apis.logs import find_logs, read_curve, read_log
from tests.tiny import write_config, write_dataset
from tests.tools.command import call, mistake


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


@pytest.fixture
def published(tmp_path):
    rows = [dict(epoch=i, num_updates=9 * i, train_loss=2.0 - i, val=dict(mean_iou=30.0 + i)) for i in range(4)]
    return write(
        tmp_path / 'seg' / 'log.txt', [dict(row, val_mean_iou=20.5) if i == 1 else row for i, row in enumerate(rows)]
    )


@pytest.fixture
def work_dir(tmp_path):
    """A training by iterations that was killed after iteration 30 and resumed from 20."""
    folder = tmp_path / 'run'
    write(folder / '1' / 'vis_data' / 'scalars.json', [dict(loss=9.0, iter=i, step=i) for i in (10, 20, 30)])
    second = [dict(loss=1.0, iter=30, step=30), dict(mIoU=41.0, step=30)]
    write(folder / '2' / 'vis_data' / '2.json', second)
    write(folder / '3' / '3.json', [dict(mIoU=99.0, step=0)])  # of a test
    return folder


def test_both_kinds_of_logs_in_one_picture(published, work_dir, tmp_path, capsys):
    out = tmp_path / 'new' / 'curves.png'
    assert call('plot_logs', f'old={published}', work_dir, '-o', out) == 0
    assert capsys.readouterr().out == 'old:\n   val_mean_iou: 20.5000\nrun:\n   mIoU: 41.0000\n'
    with Image.open(out) as image:
        assert image.size == (2880, 1620)
        colors = image.convert('RGB').getcolors(2**24)
    assert len(colors) > 2
    said = mistake(capsys, 'plot_logs', work_dir, '-o', out)
    assert said.startswith(str(out)) and '--force' in said
    assert call('plot_logs', work_dir, '-o', out, '--force', '-s', 'tight') == 0
    with Image.open(out) as image:
        assert image.size == (1440, 960)


def test_a_resumed_training_is_one_curve(work_dir):
    curve = read_curve('run', read_log(work_dir), y_key='loss')
    assert (curve.x_key, curve.x, curve.y) == ('step', (10, 20, 30), (9, 9, 1))
    assert read_curve('run', read_log(work_dir), y_key='loss', epochs=20).x == (10, 20)


def test_a_resumed_pose_training_counts_epochs(tmp_path, capsys):
    """As mmpose logs it: training by iterations and epochs, whose `step` is the iteration, validation by epochs."""

    def epochs(first, last, loss):
        rows = []
        for epoch in range(first, last + 1):
            rows += [dict(loss=loss, epoch=epoch, iter=100 * epoch - i, step=100 * epoch - i) for i in (50, 0)]
            rows.append({'coco/AP': 0.1 * epoch, 'PCK@0.1': 0.2, 'step': epoch})
        return rows

    write(tmp_path / 'run' / '1' / 'vis_data' / 'scalars.json', epochs(1, 3, 9.0))
    write(tmp_path / 'run' / '2' / 'vis_data' / 'scalars.json', epochs(3, 4, 1.0))
    curve = read_curve('run', read_log(tmp_path / 'run'))
    assert (curve.x_key, curve.y_key, curve.x) == ('epoch', 'coco/AP', (1, 2, 3, 4))
    curve = read_curve('run', read_log(tmp_path / 'run'), y_key='loss')
    assert (curve.x_key, curve.x, curve.y) == ('step', (50, 100, 150, 200, 250, 300, 350, 400), (9,) * 4 + (1,) * 4)
    assert read_curve('run', read_log(tmp_path / 'run'), epochs=2).x == (1, 2)
    assert call('plot_logs', tmp_path / 'run', '-o', tmp_path / 'c.png') == 0
    assert capsys.readouterr().out == 'run:\n   coco/AP: 0.4000\n'


def test_logs_of_older_mmpose_are_read(tmp_path):
    rows = [dict(env_info='GCC'), *(dict(mode='train', epoch=1, iter=i, loss=0.5) for i in (50, 100))]
    log = write(tmp_path / '2022.log.json', [*rows, dict(mode='val', epoch=1, iter=7, AP=0.7)])
    curve = read_curve('old', read_log(log))
    assert (curve.x_key, curve.y_key, curve.x, curve.y) == ('epoch', 'AP', (1,), (0.7,))
    assert read_curve('old', read_log(log), y_key='loss').x == (50, 100)


def test_keys_inside_others_and_epochs(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call('plot_logs', published, '--y-key', 'val/mean_iou', '--x-key', 'num_updates', '-ep', 2, '--no-plot') == 0
    assert capsys.readouterr().out == 'seg:\n   val/mean_iou: 32.0000\n'
    assert not (tmp_path / 'plot.png').exists()


def test_what_a_training_writes_can_be_drawn(tmp_path, capsys):
    config = write_config(tmp_path, write_dataset(tmp_path / 'data'))
    assert call('train', config, '--work-dir', tmp_path / 'w') == 0
    capsys.readouterr()
    assert call('plot_logs', tmp_path / 'w', '--y-key', 'loss', '-o', tmp_path / 'c.png') == 0
    assert capsys.readouterr().out.startswith('w:\n   loss: ')


def test_a_list_names_limits_and_a_missing_log_is_skipped(published, tmp_path, capsys):
    file = tmp_path / 'logs.yml'
    file.write_text('root: seg\nlogs: {a: log.txt, b: gone/log.txt}\nvmin: 0\nvmax: 50\nepochs: 2\n')
    assert (find_logs([str(file)]).vmin, find_logs([str(file)]).vmax) == (0, 50)
    assert call('plot_logs', file, '--y-key', 'train_loss', '-o', tmp_path / 'c.png') == 0
    assert capsys.readouterr().out == 'Skipping b that has no log file\na:\n   train_loss: 0.0000\n'


def test_a_line_that_was_being_written_is_left_out(published):
    rows = read_log(published)
    with open(published, 'a') as file:
        file.write('{"epoch": 4, "train_l')
    assert read_log(published) == rows


def test_mistakes_are_one_sentence(published, tmp_path, capsys):
    out = ('-o', tmp_path / 'c.png')
    (tmp_path / 'empty').mkdir()
    for wrong in ('nowhere', 'empty'):
        said = mistake(capsys, 'plot_logs', tmp_path / wrong, *out)
        assert said == f'there is no log at {tmp_path / wrong}: check the paths.'
    assert 'lists no logs' in mistake(capsys, 'plot_logs', write(tmp_path / 'a.yml', [dict(root='.')]), *out)
    assert 'cannot be read' in mistake(capsys, 'plot_logs', tmp_path / 'gone.yml', *out)
    (tmp_path / 'b.yml').write_text('logs: [')
    assert 'b.yml' in mistake(capsys, 'plot_logs', tmp_path / 'b.yml', *out)
    write(tmp_path / 'c.yml', [dict(logs=dict(a='x'), vmin='low')])
    assert "'low'" in mistake(capsys, 'plot_logs', tmp_path / 'c.yml', *out)
    (tmp_path / 'bad.txt').write_text('Epoch 1\nEpoch 2\n')
    assert 'line 1 is not JSON' in mistake(capsys, 'plot_logs', tmp_path / 'bad.txt', *out)
    said = mistake(capsys, 'plot_logs', published, '--y-key', 'mAP', *out)
    assert said.startswith('the log seg has no mAP over epoch or step or iter: it has epoch, num_updates, train_loss,')
    assert 'two logs are called seg' in mistake(capsys, 'plot_logs', published, published, *out)
    assert 'b.yml' in mistake(capsys, 'plot_logs', tmp_path / 'b.yml', published, *out)
    assert 'c.jpg' in mistake(capsys, 'plot_logs', published, '-o', tmp_path / 'c.jpg')


def test_a_picture_that_cannot_be_written_leaves_the_earlier_one(published, tmp_path, capsys, monkeypatch):
    """A full disk, or a kill while the picture is drawn."""
    out = tmp_path / 'c.png'
    out.write_bytes(b'earlier')

    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    assert 'c.png' in mistake(capsys, 'plot_logs', published, '-o', out, '--force')
    assert out.read_bytes() == b'earlier' and sorted(path.name for path in tmp_path.iterdir()) == ['c.png', 'seg']


@pytest.mark.parametrize(
    'text',
    [
        '!!int abc',
        '!!float x',
        '!!timestamp x',
        '2001-13-45',
        '{a: ' * 3000,
        'logs: {a: x}\nvmin: .nan',
        'logs: {a: x}\nvmax: .inf',
        'logs: {a: x}\nepochs: 1.5',
        'logs: 5',
    ],
    ids=lambda text: text[:20],
)
def test_a_list_of_logs_that_is_not_one_is_refused(text, tmp_path, capsys):
    (tmp_path / 'a.yml').write_text(text)
    assert 'a.yml' in mistake(capsys, 'plot_logs', tmp_path / 'a.yml', '-o', tmp_path / 'c.png')


@pytest.mark.parametrize(
    'line',
    ['[' * 100_000, '9' * 5000, '{"loss": ' + '9' * 5000 + '}', '3', '"a"'],
    ids=['deep', 'digits', 'loss', '3', 'a'],
)
def test_a_line_that_is_not_a_row_is_refused(line, tmp_path, capsys):
    (tmp_path / 'log.txt').write_text(f'{line}\n{line}\n')
    assert 'log.txt' in mistake(capsys, 'plot_logs', tmp_path / 'log.txt', '-o', tmp_path / 'c.png')


def test_numbers_that_no_float_holds_and_steps_of_mixed_types_are_left_out(tmp_path):
    rows = [
        dict(step=1, loss=1.0),
        dict(step='two', loss=2.0),
        dict(step=10**400, loss=4.0),
        dict(step=3, loss=10**400),
    ]
    for number in (1, 2):
        write(tmp_path / str(number) / 'vis_data' / 'scalars.json', rows)
    curve = read_curve('a', read_log(tmp_path))
    assert (curve.x, curve.y) == ((1,), (1,))
