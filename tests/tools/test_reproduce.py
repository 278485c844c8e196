"""Three stand-in rows from a local file server, in the published layouts: the page, a kill, what is missing."""

import json
import re
import socket
import threading

import pytest
import torch
import yaml

from mmseg_tr.apis import reproduce as verb
from mmseg_tr.apis.reproduce import page, steps
from mmseg_tr.errors import CheckpointError
from tests.releases import net_kwargs, variant, write_release
from tests.tiny import CLASSES, CONFIG, write_dataset
from tests.tools.command import call, mistake
from tests.tools.served import serving

ROWS = ('plain', 'merged', 'absent')


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """A folder that a local server serves, and its address."""
    root = tmp_path_factory.mktemp('served')
    network = net_kwargs(decoder='linear', n_cls=3, d_model=32, image_size=(32, 32))
    network['decoder']['n_cls'] = 3
    for name in ROWS[:2]:
        write_release(root / name, variant(network))

    with serving(root) as address:
        yield address


@pytest.fixture
def table(served, tmp_path, monkeypatch):
    """A metafile of three rows; the weights of the last are not on the server."""
    monkeypatch.setenv('MMSEG_TR_CACHE', str(tmp_path / 'cache'))
    data = write_dataset(tmp_path / 'data')
    plain = CONFIG.format(classes=CLASSES, root=str(data), more='')
    models = []
    for name in ROWS:
        merging = "out='tokens')" if name == 'plain' else "out='tokens', reduction=dict(type='ToMe', r=4))"
        (tmp_path / f'{name}.py').write_text(plain.replace("out='tokens')", merging))
        result = dict(Task='Semantic Segmentation', Dataset='ADE20K', Metrics={'mIoU': 10.0})
        files = dict(Weights=f'{served}/{name}/checkpoint.pth', Variant=f'{served}/{name}/variant.yml')
        entry = dict(Name=name, Config=f'{name}.py', Metadata=dict(GMACs=0.01), Results=[result])
        models.append(entry | files)
    (tmp_path / 'metafile.yml').write_text(yaml.safe_dump(dict(Models=models)))
    return tmp_path / 'metafile.yml'


def test_three_rows_end_with_the_page_also_after_a_kill(table, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    arguments = ('--metafile', table, '--out', out, '--device', 'cpu')

    def killed(work):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(steps.STEPS, 'speed', killed)
        assert call('reproduce', *arguments) == 130
    assert list(json.loads((out / 'plain' / 'state.json').read_text())['steps']) == [
        'dataset',
        'weights',
        'plain',
        'reduced',
    ]
    done = []

    def noted(name, step):
        def run(work):
            done.append((work.row.name, name))
            return step(work)

        return run

    for name, step in list(steps.STEPS.items()):
        monkeypatch.setitem(steps.STEPS, name, noted(name, step))
    assert call('reproduce', *arguments) == 1  # one row cannot be had
    assert [step for row, step in done if row == 'plain'] == ['speed']
    assert [step for row, step in done if row == 'merged'] == list(steps.STEPS)
    said = capsys.readouterr().out
    assert 'absent/checkpoint.pth' in said and 'minutes' in said
    text = (out / 'reproduce.html').read_text()
    assert all(f'<td>{name}</td>' in text for name in ROWS) and '10.00' in text and 'not done' in text
    state = json.loads((out / 'merged' / 'state.json').read_text())['steps']
    assert state['speed']['gmacs'] < state['speed']['plain_gmacs']
    assert torch.load(out / 'merged' / 'model.pth', weights_only=True)['meta']
    assert call('reproduce', *arguments) == 1 and done[8:] == [('absent', 'weights')]


def test_a_missing_dataset_says_where_it_comes_from(table, tmp_path):
    config = tmp_path / 'plain.py'
    config.write_text(config.read_text().replace(str(tmp_path / 'data'), str(tmp_path / 'nowhere')))
    found = verb.reproduce(['plain'], metafile=str(table), out=str(tmp_path / 'out'), device='cpu')
    assert 'ADEChallengeData2016.zip' in found['plain']['error']
    assert (tmp_path / 'out' / 'reproduce.html').is_file()


def test_verdicts(table):
    row = verb.find_rows(['merged'], str(table))[0]
    for miou, fraction, word in ((10.05, 1, 'reproduced'), (10.4, 1, 'close'), (11, 1, 'differs'), (10, 0.5, '50%')):
        assert page.verdict(row, dict(miou=miou, gmacs=0.01), fraction).startswith(word) or fraction < 1
    assert page.verdict(row, dict(miou=10.0, gmacs=0.02), 1) != 'reproduced'


def test_all_published_rows_are_read_and_unknown_ones_refused(capsys):
    rows = verb.find_rows()
    assert len(rows) > 80 and all(row.config.is_file() for row in rows)
    assert any(row.weights and row.weights.startswith('https://drive.google.com/uc?') for row in rows)
    assert 'segmenter_vit-s16' in mistake(capsys, 'reproduce', 'segmenter_vit-s16_ade20k')
    assert '--frac-dataset' in mistake(capsys, 'reproduce', '--frac-dataset', 0)


def test_an_answer_that_ends_early_and_an_address_that_is_none_are_one_sentence():
    with socket.create_server(('127.0.0.1', 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as caller:
                caller.recv(4096)
                caller.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nbackbone: ')

        thread = threading.Thread(target=answer)
        thread.start()
        for url in (f'http://127.0.0.1:{listening.getsockname()[1]}/variant.yml', 'http://a b/variant.yml', 'x'):
            with pytest.raises(CheckpointError, match=re.escape(f'{url} could not be fetched')):
                steps._text(url)
        thread.join()


def test_a_page_in_place_of_weights_is_named_and_the_next_row_follows(table, tmp_path):
    place = tmp_path / 'mirror' / 'plain'
    place.mkdir(parents=True)
    (place / 'checkpoint.pth').write_text('<html>Sign in</html>')
    (place / 'variant.yml').write_text('net_kwargs: {}')
    options = dict(mirror=(tmp_path / 'mirror').as_uri(), metafile=str(table), out=str(tmp_path / 'out'), device='cpu')
    found = verb.reproduce(('plain', 'merged'), verb.ReproduceOptions(**options))
    assert found['plain']['error'].startswith('weights: ') and 'checkpoint.pth' in found['plain']['error']
    assert 'could not be fetched' in found['merged']['error'] or 'merged' in found['merged']['error']
    assert (tmp_path / 'out' / verb.PAGE).is_file()
