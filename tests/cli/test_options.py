"""Errors of the library speak of parameters; the command line puts its options in their place."""

import argparse
import pickle
import re
from pathlib import Path

import pytest
import torch

from mmseg_tr.cli.options import OPTION_NAMES, KeyValues, option_name, run_tool, sentence
from mmseg_tr.errors import CheckpointError, ConfigError, InputError, MissingExtraError
from mmseg_tr.reduction import build_reduction

ROOT = Path(__file__).resolve().parents[2]


def test_a_parameter_is_named_by_its_option():
    error = ConfigError('format_only needs out, the folder to write out.', parameters=['format_only', 'out'])
    assert str(error) == 'format_only needs out, the folder to write out.'
    assert sentence(error) == '--format-only needs --out, the folder to write out.'
    error = ConfigError('fraction must be at most 1, got fraction.', parameters=['fraction'])
    assert sentence(error) == '--frac-dataset must be at most 1, got fraction.'
    assert sentence(CheckpointError('work_dir stays when nobody names it.')) == 'work_dir stays when nobody names it.'


@pytest.mark.parametrize('kind', InputError.__subclasses__())
def test_an_error_travels_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind('batch_size must be 1 or more, got 0.', parameters=['batch_size'])))
    assert type(error) is kind
    assert sentence(error) == '--batch-size must be 1 or more, got 0.'


def test_a_missing_extra_keeps_the_name_of_its_module():
    assert MissingExtraError('onnx is needed', name='onnx').name == 'onnx'


def test_every_renamed_parameter_has_an_option_in_some_tool():
    offered = ' '.join(file.read_text() for file in [*ROOT.glob('tools/*.py'), ROOT / 'benchmarks/__main__.py'])
    assert [option for option in OPTION_NAMES.values() if f"'{option}'" not in offered] == []


def test_every_parameter_that_an_error_names_stands_in_its_message():
    """`parameters=['x']` beside a message without x would translate nothing."""
    import ast

    for file in (ROOT / 'mmseg_tr').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            for keyword in getattr(node, 'keywords', ()) if isinstance(node, ast.Call) else ():
                if keyword.arg == 'parameters' and isinstance(keyword.value, ast.List):
                    names = [item.value for item in keyword.value.elts if isinstance(item, ast.Constant)]
                    message = ast.unparse(node.args[0])
                    if not message.startswith(("'", '"', 'f')) or message.startswith(("f'{", 'f"{')):
                        continue  # begins with a name or sentence of its own
                    missing = [name for name in names if not re.search(rf'(?<![\w.-]){name}(?!\w)', message)]
                    assert not missing, f'{file.name}: {message}'


def test_one_sentence_and_status_two(capsys):
    def main(argv):
        raise ConfigError('work_dir must be a folder, got\n a file.', parameters=['work_dir'])

    assert run_tool(main) == 2
    assert capsys.readouterr().err.partition(': ')[2] == '--work-dir must be a folder, got a file.\n'


def test_key_value_pairs_collect():
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues)
    said = parser.parse_args(['--cfg-options', 'a.b=1', "c=dict(type='ALGM', layers=(1, 5))", '--cfg-options', 'd=x=y'])
    assert said.cfg_options == {'a.b': 1, 'c': dict(type='ALGM', layers=(1, 5)), 'd': 'x=y'}


@pytest.mark.parametrize('pair', ['novalue', '=3', 'a=(1', 'a=dict(1,2)'])
def test_a_pair_that_cannot_be_read_is_named(pair, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(['--cfg-options', pair])
    assert stop.value.code == 2
    assert pair in capsys.readouterr().err


def test_an_option_is_the_parameter_with_dashes():
    assert (option_name('show_dir'), option_name('batch_sizes')) == ('--show-dir', '--batch-size')


def test_a_value_of_many_lines_is_shortened_in_every_message():
    network = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(500)])
    with pytest.raises(ConfigError) as caught:
        build_reduction(network)
    text = str(caught.value)
    assert len(text) <= 1000 and '\n' not in text
    assert text.startswith('reduction must be a name') and 'got Sequential(' in text
