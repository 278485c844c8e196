"""A part of the sweeps of tests/faults.py: every mistake is accepted or refused in one sentence, nothing else."""

import pytest

from tests.faults import VALUES, sweep_calls, sweep_constructors, sweep_images

KNOWN = {'accepted', 'refused'}
EVERY = 9  # of the values of an argument one in so many, other ones for each argument


def drawn(argument: int, value: int) -> bool:
    return (argument + value) % EVERY == 0


def check(found: dict[str, str]) -> None:
    assert {name: outcome for name, outcome in found.items() if outcome not in KNOWN} == {}
    assert len(found) > 3 * len(VALUES) and set(found.values()) == KNOWN


def test_every_value_of_an_argument_is_accepted_or_refused_in_one_sentence():
    check(dict(sweep_constructors(drawn)))


def test_hosts_tokens_and_saved_models_accept_a_value_or_refuse_it_in_one_sentence(tmp_path):
    check(dict(sweep_calls(tmp_path, drawn)))


def test_options_accept_a_value_or_refuse_it_in_one_sentence():
    pytest.importorskip('mmseg')
    from tests.faults_of_verbs import sweep_options

    check(dict(sweep_options(drawn)))


def test_every_image_is_taken_or_refused_in_one_sentence():
    found = dict(sweep_images(lambda name: name in ('ViT, ALGM', 'MiT, downsample')))
    assert {name: outcome for name, outcome in found.items() if outcome not in KNOWN} == {}
    assert set(found.values()) == KNOWN
