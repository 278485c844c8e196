"""`mmseg-tr methods` lists what the registry holds, so that a new method needs no line of its own."""

import inspect
from dataclasses import dataclass

import pytest

from mmseg_tr.cli.methods import describe
from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction import REDUCTIONS
from mmseg_tr.reduction.base import Reduction
from tests.tools.command import call


def test_every_method_is_listed_with_every_setting_and_its_default():
    listed = describe()
    for method in REDUCTIONS.values():
        paragraph = next(part for part in listed.split('\n\n') if part.startswith(method.name))
        for parameter in inspect.signature(method).parameters.values():
            wanted = (
                parameter.name if parameter.default is parameter.empty else f'{parameter.name}={parameter.default!r}'
            )
            assert wanted in paragraph


def test_a_registered_class_is_listed(monkeypatch):
    @dataclass(frozen=True, eq=False)
    class Nothing(Reduction):
        """Merge nothing at all."""

        name = 'Nothing'
        level: int = 3

    monkeypatch.setitem(REDUCTIONS, 'Nothing', Nothing)
    assert 'Nothing (for ViT): Merge nothing at all.' in describe(['nothing'])
    assert 'level=3' in describe()


def test_the_command_prints_some_or_refuses_a_name(capsys):
    assert call('methods', 'algm', 'tome') == 0
    said = capsys.readouterr().out
    assert 'ALGM' in said and 'ToMe' in said and 'EViT' not in said
    assert call('methods', 'tom') == 2
    assert 'did you mean ToMe' in capsys.readouterr().err
    with pytest.raises(ConfigError):
        describe(['tom'])
